"""A few samples on their way: the state, what the network takes for the data, and the nearest real image, along t.

Two states of one trajectory, at t and at the next time s, share what the sampler took for data and noise between them:

    state(t) = alpha(t) data_hat + sigma(t) noise_hat,    state(s) = alpha(s) data_hat + sigma(s) noise_hat

so data_hat = (sigma(s) state(t) - sigma(t) state(s)) / (sigma(s) alpha(t) - sigma(t) alpha(s)). For Euler on the linear path and
for DDIM on every path this is the network's own prediction at t; for a sampler that asks the network more than once a step it is
where the step heads. No network is needed to draw it. Source: DDIM (arXiv 2010.02502), eq. 12.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from slowflow.data.bank import Bank
from slowflow.data.open import open_data
from slowflow.errors import InputError, SlowFlowError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.samples import image_states, tile
from slowflow.figures.style import number
from slowflow.flow.generate import quantise
from slowflow.flow.samplers import sampler
from slowflow.measuring import screening
from slowflow.measuring.measurement import Measurement
from slowflow.results import RunResult

SAMPLES, TIMES = 3, 9
REFERENCE = "nearest"
ROWS = {"state": "state", "data_hat": "predicted\ndata", REFERENCE: "nearest\nreal image"}


def data(result: RunResult) -> pd.DataFrame:
    """sample, label, row (state, data_hat, nearest), t, m (nearest only), image (uint8 [h, w, c])."""
    found = result.measured
    shape = image_states(found)
    states, t = found.array("kept")[:SAMPLES].astype(np.float64), found.array("t")
    columns = np.unique(np.linspace(0, len(t) - 1, TIMES).round().astype(int))
    known = {"state": states, "data_hat": _predicted(found, states, t), REFERENCE: _nearest(found, len(states))}
    strips = {row: values for row, values in known.items() if values is not None}
    m = found.array("m", reference=REFERENCE) if REFERENCE in strips else None
    rows = []
    for sample in range(len(states)):
        label = int(found.array("labels")[sample])
        for row, values in strips.items():
            for k in columns:
                picture = quantise(torch.from_numpy(values[sample, k].reshape(1, *shape)))[0]
                at = float(m[sample, k]) if row == REFERENCE and m is not None else float("nan")
                rows.append((sample, label, row, float(t[k]), at, picture))
    return pd.DataFrame(rows, columns=["sample", "label", "row", "t", "m", "image"])


def _predicted(found: Measurement, states: np.ndarray, t: np.ndarray) -> np.ndarray | None:
    """What every step took for the data; None where the sampler adds noise."""
    path, times = found.path_of_states, torch.from_numpy(t.astype(np.float64))
    if sampler(found.protocol()["sampler"]).stochastic or len(t) < 2:
        return None
    alpha, sigma = (f(times).numpy() for f in (path.alpha, path.sigma))
    weight = sigma[1:] * alpha[:-1] - sigma[:-1] * alpha[1:]
    ahead = sigma[1:, None] * states[:, :-1] - sigma[:-1, None] * states[:, 1:]
    return np.concatenate([ahead / weight[:, None], states[:, -1:]], axis=1)


def _nearest(found: Measurement, samples: int) -> np.ndarray | None:
    """[sample, time, d] the nearest real images; None where the measurement has no such reference or the data cannot be had.

    Only sets with a name and single files are opened again: a picture is not worth decoding a folder of images for.
    """
    spec = (found.facts.get("reopen") or {}).get("data")
    if spec is None or Path(spec).is_dir():
        return None
    try:
        index = found.array("index", reference=REFERENCE)[:samples]
        bank_set, held = open_data(spec).split(float(found.config["data"]["heldout"]))
        probe = found.config["probe"]
        bank_set, _ = screening.screened(bank_set, held, int(probe["bank"]), int(probe["seed"]))
    except SlowFlowError:
        return None
    if bank_set.fingerprint != found.facts["bank"]["sha256"]:
        return None  # the data have changed since; rows would name other images
    classes = (found.config["model"].get("conventions") or {}).get("classes", 1)
    bank, labels = Bank.of(bank_set, conditional=classes > 0), found.array("labels")[:samples]
    return np.stack([bank.shard(int(label))[rows] for label, rows in zip(labels, index, strict=True)])


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a sample: a row of pictures for each of the three, times below, m under the nearest."""
    for panel, (_, group) in zip(axes, table.groupby("sample", sort=True), strict=True):
        names = list(dict.fromkeys(group["row"]))
        times = group[group["row"] == names[0]]["t"].to_numpy()
        sheet = tile(np.stack(list(group["image"])), len(times))
        grey = sheet.shape[-1] == 1
        panel.imshow(sheet.squeeze(-1) if grey else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        high, wide = (size / count for size, count in zip(sheet.shape[:2], (len(names), len(times)), strict=True))
        m = group[group["row"] == REFERENCE]["m"].to_numpy()
        below = [f"t = {number(t, 2)}" for t in times]
        if len(m):
            below = [f"{said}\nm = {number(at, 2)}" for said, at in zip(below, m, strict=True)]
        panel.set_xticks((np.arange(len(times)) + 0.5) * wide - 0.5, below)
        panel.set_yticks((np.arange(len(names)) + 0.5) * high - 0.5, [ROWS[name] for name in names])
        panel.tick_params(length=0, labelsize=9.5)
        panel.grid(False)
        for side in panel.spines.values():
            side.set_visible(False)


def alt(table: pd.DataFrame) -> str:
    """What is in the strips, and how far behind the nearest images are."""
    count, first, last = table["sample"].nunique(), table["t"].min(), table["t"].max()
    words = f"Strips of {count} samples from t = {first:.2f} to t = {last:.2f}, rows: " + ", ".join(
        ROWS[name].replace("\n", " ") for name in dict.fromkeys(table["row"])
    )
    near = table[table["row"] == REFERENCE]
    if near.empty:
        return words + "."
    middle = near.iloc[(near["t"] - 0.5).abs().argsort()[:count]]
    return f"{words}; at t = {middle['t'].iloc[0]:.2f} the nearest real images stand at m = {middle['m'].mean():.2f}."


def panels(table: pd.DataFrame) -> Panels:
    """A strip a sample, below each other."""
    if table.empty:
        raise InputError("no trajectory was kept")
    return Panels(table["sample"].nunique(), 9.6, 1.05 * table["row"].nunique() + 0.35, columns=1)


FIGURES.register(
    "trajectories", summary="a few samples along t: state, predicted data, nearest real image", source="SlowFlow; DDIM"
)(
    Figure(
        title="What happens on the way?",
        caption=(
            "The first samples by id, not selected. Above: the state. Middle: what the step takes for the finished image "
            "(the network's own prediction under Euler and DDIM). Below: the nearest real image of the class, found with the "
            "trajectory's own noise, and the time m at which it stands. It changes while the image is open, and m is below t "
            "for a perfect model too."
        ),
        data=data,
        draw=draw,
        panels=panels,
        alt=alt,
    )
)
