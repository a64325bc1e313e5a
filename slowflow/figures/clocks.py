"""Two clocks: how much data and how much noise is in the states, and why one time m may not describe them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed, shade_unused, signed_scale
from slowflow.figures.style import INK, KIND, KIND_LINE, KIND_NAME, ORANGE, QUIET, head, legend_below, note
from slowflow.results import RunResult

SIGNAL, NOISE = "signal clock", "noise clock"
KINDS = ("genuine", "exact", "coarse", "unguided", "fine", "model")
TIMES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STRETCH = (10, 5, 2)
REACH = 0.12
"""Largest displacement in the plane, as drawn, up to which it is stretched."""


def data(result: RunResult) -> pd.DataFrame:
    """reading, kind, t, lag, low, high, nominal, coefficient, coefficient_low, coefficient_high, used.

    lag: t - m. nominal: alpha(t) or sigma(t), what a state should hold. coefficient: what it holds. used: enters a gamma.
    """
    found = result.measured
    kinds = found.readings()
    if SIGNAL not in kinds or NOISE not in kinds:
        raise InputError(f"{found.path} was measured without clocks; measure again with --reference clocks")
    path = found.path_of_states
    frames = []
    for reading, of in ((SIGNAL, path.alpha), (NOISE, path.sigma)):
        table = found.summary(reading)
        t = table["t"].to_numpy()

        def at(times: np.ndarray, of: object = of) -> np.ndarray:
            assert callable(of)
            return np.asarray(of(torch.from_numpy(np.clip(times, 0.0, 1.0))).numpy())

        for kind in [kind for kind in KINDS if kind in kinds[reading]]:
            m, low, high = (table[f"m_{kind}{end}"].to_numpy() for end in ("", "_low", "_high"))
            ends = np.sort(np.stack([at(low), at(high)]), axis=0)
            columns = {"reading": reading, "kind": kind, "t": t, "lag": t - m, "low": t - high, "high": t - low}
            held = {"coefficient": at(m), "coefficient_low": ends[0], "coefficient_high": ends[1]}
            used = np.isin(t, result.curves[reading].t)
            frames.append(pd.DataFrame({**columns, "nominal": at(t), **held, "used": used}))
    return pd.concat(frames, ignore_index=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """Left: the lag of each clock. Right: the states beside the path, in the plane of signal and noise."""
    for panel, (reading, group) in zip(axes, table.groupby("reading", sort=False), strict=False):
        signed_scale(panel, group[group["used"]][["low", "high"]].to_numpy().ravel(), above="slow", below="fast")
        first = group[group["kind"] == "model"]
        shade_unused(panel, first["t"].to_numpy(), first["used"].to_numpy())
        for kind, part in group.groupby("kind", sort=False):
            colour, line = KIND[str(kind)], KIND_LINE[str(kind)]
            if kind in ("genuine", "model"):
                panel.fill_between(part["t"], part["low"], part["high"], color=colour, alpha=0.25, linewidth=0)
            panel.plot(part["t"], part["lag"], color=colour, linestyle=line, label=KIND_NAME[str(kind)])
        headed(panel, str(reading), lines=1)
        panel.set(xlabel="sampling time t", ylabel="lag t − m")
    _plane(table, axes[2])
    legend_below(axes, columns=6)


def _plane(table: pd.DataFrame, panel: Axes) -> None:
    """Signal against noise at a few times: where states should be, and where they are."""
    signal, noise = (table[table["reading"] == reading] for reading in (SIGNAL, NOISE))
    on_time = signal[signal["kind"] == "model"]["nominal"], noise[noise["kind"] == "model"]["nominal"]
    panel.plot([0, *on_time[0], 1], [1, *on_time[1], 0], color=INK, linewidth=1.0, zorder=1)
    chosen = sorted({int(np.argmin(np.abs(signal["t"].unique() - t))) for t in TIMES})
    kinds = [kind for kind in ("coarse", "model") if kind in set(table["kind"])]
    shown = {kind: [part[part["kind"] == kind].iloc[chosen] for part in (signal, noise)] for kind in kinds}
    far = max(float((part["coefficient"] - part["nominal"]).abs().max()) for part in shown["model"])
    stretch = next((s for s in STRETCH if s * far <= REACH), 1)
    x0, y0 = (part["nominal"].to_numpy() for part in shown["model"])
    for kind, parts in shown.items():
        x, y = (p["nominal"] + stretch * (p["coefficient"] - p["nominal"]) for p in parts)
        colour, marker = KIND[kind], {"model": "o", "coarse": "D"}[kind]
        if kind == "model":
            ends = [
                [p["nominal"] + stretch * (p[f"coefficient_{e}"] - p["nominal"]) for e in ("low", "high")]
                for p in parts
            ]
            panel.hlines(y, ends[0][0], ends[0][1], color=colour, alpha=0.5, linewidth=1.2)
            panel.vlines(x, ends[1][0], ends[1][1], color=colour, alpha=0.5, linewidth=1.2)
        panel.plot(np.stack([x0, x]), np.stack([y0, y]), color=colour, linewidth=1.4, alpha=0.8)
        panel.plot(x, y, marker, color=colour, markersize=5 if kind == "coarse" else 6.5, zorder=3)
    panel.plot(x0, y0, "o", markerfacecolor="white", markeredgecolor=INK, markersize=6, zorder=2)
    for t, x, y in zip(signal["t"].unique()[chosen], x0, y0, strict=True):
        panel.annotate(f"{t:.2g}", (x, y), (7, 5), textcoords="offset points", fontsize=9.5, color=QUIET)
    head(panel, "the states beside the path", "hollow: on schedule; orange: measured")
    panel.set(xlim=(0, 1.08), ylim=(0, 1.08), aspect="equal", xlabel="data in the states", ylabel="noise in the states")
    if stretch > 1:
        note(panel, f"displacements drawn × {stretch}", 0.98, 0.97, ha="right", va="top", color=ORANGE)


def alt(table: pd.DataFrame) -> str:
    """The lag of both clocks at the last time before 0.9."""
    part = table[table["t"] <= max(0.9, table["t"].min())]
    last = part[part["t"] == part["t"].max()]
    rows = last[last["kind"].isin(("model", "genuine", "exact"))].to_dict("records")
    parts = [
        f"{r['reading']}, {KIND_NAME[r['kind']]} {r['lag']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in rows
    ]
    return f"Lag t - m of the signal and of the noise clock, at t = {last['t'].iloc[0]:.2f}: " + "; ".join(parts) + "."


FIGURES.register("clocks", summary="how much data and noise is in the states, against genuine ones", source="SlowFlow")(
    Figure(
        title="Do data and noise arrive on schedule?",
        caption=(
            "Left and middle: how far the share of data, and of noise, is behind schedule; above zero is slow, grey and dashed "
            "blue say what zero is, light blue what the step size alone does to a perfect model. Right: data against noise. A "
            "lag that one slowed time m explains moves the dots back along the black path; dots off the path fit no m, and "
            "training on slowed inputs shows the network no such states."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(3, 4.6, 4.4),
        alt=alt,
    )
)
