"""Controls: states with a known effect, or with none.

    zero    null            the field itself, finely solved                          0, over genuine states
    lag     lag 0.2, ...    genuine states at m ~ U[(1-g) t, t], called t            g, over genuine states
    shift   shift 0.5       genuine states at m = (1 - g/2) t: that lag, no spread   g, over genuine states
    noise   added noise     genuine states + 0.1 noise, so that b^2 -> b^2 + 0.01    closed form, over genuine states
    fault   velocity x0.95, x1.05; a denoiser 5 % over-smoothed; a label 0.03 early  closed form, over the null
    swap    endpoint, noise another image of the class, or other noise, is called    0, over genuine states
                            the one in a genuine state; nothing is wrong with it

Lags, shifts, added noise and swaps are made from the genuine states they are compared with, faults start from the noise of the
null: differences within such a pair are small, so they show the size of an effect sharply. How small an effect can be
seen in a measurement, where model and genuine states share nothing, the null tells.
Source: known-truth controls in the sense of MixFlow's own reading m ~ U[(1-gamma) t, t] (arXiv 2512.19311); SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from slowflow import rng
from slowflow.flow.generate import labels_of, noise_of
from slowflow.flow.model import Predictor
from slowflow.flow.planted import Mislabelled, Scaled, Smoothed
from slowflow.measuring.calibration.worlds import World, solved
from slowflow.measuring.references import Trajectories

Sort = Literal["zero", "lag", "shift", "noise", "fault", "swap"]
NOISE = 0.1
"""Standard deviation of the noise that is added."""


@dataclass(frozen=True)
class Control:
    """One kind of states.

    Args:
        name: of the control. sort: see the top of this file. size: gamma of a lag or shift.
    """

    name: str
    sort: Sort
    size: float = 0.0

    @property
    def base(self) -> str:
        """The states it is compared with."""
        return "null" if self.sort == "fault" else "genuine"

    @property
    def on_images(self) -> bool:
        """Made from genuine states, and resampled with them."""
        return self.sort in ("lag", "shift", "noise", "swap")


LAGS = (0.2, 0.5, 0.8)
FAULTS: dict[str, Callable[[Predictor], Predictor]] = {
    "velocity x0.95": lambda field: Scaled(field, 0.95),
    "velocity x1.05": lambda field: Scaled(field, 1.05),
    "over-smoothed 5 %": lambda field: Smoothed(field, 0.05),
    "label -0.03": lambda field: Mislabelled(field, -0.03),
}
CONTROLS = (
    Control("null", "zero"),
    *(Control(f"lag {size}", "lag", size) for size in LAGS),
    Control("shift 0.5", "shift", 0.5),
    Control("added noise", "noise"),
    *(Control(name, "fault") for name in FAULTS),
    Control("endpoint swap", "swap"),
    Control("noise swap", "swap"),
)


def made(world: World, ids: np.ndarray, usable: np.ndarray) -> dict[str, Trajectories]:
    """Genuine states and every control of some sample ids; what is made from images only of ids that have one.

    Args:
        world: the field and its data. ids: sample ids. usable: all ids that have a real image.
    """
    found = {name: _run(world, fault(world.field), ids) for name, fault in {"null": _as_it_is, **FAULTS}.items()}
    imaged = ids[np.isin(ids, usable)]
    if not len(imaged):
        return found
    genuine = world.source.make("genuine", imaged, world.times)
    found |= {"genuine": genuine, "added noise": _noisier(genuine)}
    found |= {control.name: _lagging(genuine, control) for control in CONTROLS if control.size}
    return found | _swapped(world, genuine)


def _as_it_is(field: Predictor) -> Predictor:
    return field


def _run(world: World, field: Predictor, ids: np.ndarray) -> Trajectories:
    """States of a field from noise, finely solved."""
    seed, classes = world.source.probe.seed, world.source.model.classes
    noise, labels = noise_of(seed, ids, field.shape), labels_of(ids, classes)
    states = solved(field, noise, torch.from_numpy(labels), world.times)
    return Trajectories(
        states=states.flatten(2).numpy(),
        noise=noise.flatten(1).numpy(),
        endpoint=states[:, -1].flatten(1).numpy(),
        labels=labels,
        grid=world.t,
        path=field.interpolant,
        ids=ids,
        seed=seed,
        kind="exact",
    )


def _lagging(genuine: Trajectories, control: Control) -> Trajectories:
    """Genuine states of an earlier time, for a lag another one in every state."""
    share = np.full((len(genuine.ids), len(genuine.grid)), 0.5)
    if control.sort == "lag":
        draws = [rng.generator(genuine.seed, f"calibrate/{control.name}", int(i)) for i in genuine.ids]
        share = np.stack([draw.random(len(genuine.grid)) for draw in draws])
    times = torch.from_numpy((1.0 - control.size * share) * genuine.grid)
    noise, data = (torch.from_numpy(rows) for rows in (genuine.noise, genuine.endpoint))
    states = [genuine.path.state(noise, data, m) for m in times.T]
    return replace(genuine, states=torch.stack(states, dim=1).numpy())


def _noisier(genuine: Trajectories) -> Trajectories:
    extra = rng.normal(genuine.seed, "calibrate/noise", genuine.ids.tolist(), genuine.states.shape[1:])
    return replace(genuine, states=genuine.states + NOISE * extra)


def _swapped(world: World, genuine: Trajectories) -> dict[str, Trajectories]:
    """The same states, with an image of the bank in the endpoint's place, or with noise that is not in them."""
    images = np.empty_like(genuine.endpoint)
    for k, (sample, label) in enumerate(zip(genuine.ids, genuine.labels, strict=True)):
        shard = world.bank.shard(int(label))
        images[k] = shard[rng.generator(genuine.seed, "calibrate/swap", int(sample)).integers(len(shard))]
    other = rng.normal(genuine.seed, "calibrate/swap", genuine.ids.tolist(), genuine.noise.shape[1:])
    return {"endpoint swap": replace(genuine, endpoint=images), "noise swap": replace(genuine, noise=other)}
