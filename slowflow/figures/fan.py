"""The fan of slowed timesteps, honest: the paper's Figure 1 with the nulls it lacks, under every reading."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed
from slowflow.figures.style import INK, KIND, KIND_LINE, KIND_NAME, PALE, legend_below
from slowflow.measuring.references import REFERENCES
from slowflow.results import RunResult

STATES, MEAN = "5 to 95 % of states", "95 % interval of the mean"
LEFT_OUT = ("seen", "coarse")
"""Measured kinds without which the fan is easier to read; `nulls` draws them."""


def data(result: RunResult) -> pd.DataFrame:
    """reading, kind, t, mean, low, high, band: every kind measured on the first arm.

    A fan that starts in its own noise starts in (0, 0). Where single states have no m, the band is that of the mean.
    """
    found = result.measured
    rows = []
    for reading, kinds in found.readings().items():
        table = found.summary(reading)
        known = reading in found.singles
        from_noise = known and REFERENCES.get(reading).shares_noise and REFERENCES.get(reading).start != "late"
        for kind in [kind for kind in kinds if kind not in LEFT_OUT]:
            ends, band = (("q05", "q95"), STATES) if known else (("low", "high"), MEAN)
            same = {"reading": reading, "kind": kind, "band": band}
            if from_noise:
                rows.append({**same, "t": 0.0, "mean": 0.0, "low": 0.0, "high": 0.0})
            for _, row in table.iterrows():
                low, high = (float(row[f"m_{kind}_{end}"]) for end in ends)
                rows.append({**same, "t": float(row["t"]), "mean": float(row[f"m_{kind}"]), "low": low, "high": high})
    return pd.DataFrame(rows)[["reading", "kind", "t", "mean", "low", "high", "band"]]


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a reading: grey = genuine states, dashed blue = a perfect model, orange = this model."""
    for panel, (reading, group) in zip(axes, table.groupby("reading", sort=False), strict=True):
        panel.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":", label="m = t")
        for kind, colour, alpha in (("genuine", PALE, 1.0), ("model", KIND["model"], 0.28)):
            part = group[group["kind"] == kind]
            if len(part):
                panel.fill_between(part["t"], part["low"], part["high"], color=colour, alpha=alpha, linewidth=0)
        for kind in ("genuine", "exact", "unguided", "fine", "model"):
            part = group[group["kind"] == kind]
            if len(part):
                panel.plot(part["t"], part["mean"], color=KIND[kind], linestyle=KIND_LINE[kind], label=KIND_NAME[kind])
        headed(panel, str(reading))
        panel.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        panel.set(xlabel="sampling time t", ylabel="ground-truth time m")
    legend_below(axes, columns=6)


def alt(table: pd.DataFrame) -> str:
    """Where the bands end."""
    parts = []
    for reading, group in table.groupby("reading", sort=False):
        late = group[group["t"] > 0.75].groupby("kind", sort=False).first()
        means = ", ".join(f"{KIND_NAME[str(kind)]} {row['mean']:.2f}" for kind, row in late.iterrows())
        parts.append(f"under '{reading}' at t = {late['t'].iloc[0]:.2f} the mean m is: {means}")
    return "Ground-truth time against sampling time (0 noise, 1 data); " + "; ".join(parts) + "."


FIGURES.register(
    "fan",
    summary="slowed timestep m against t under every reading, with null bands",
    source="MixFlow (2512.19311), Fig. 1",
)(
    Figure(
        title="How slow do generated states run?",
        caption=(
            "For every generated state, the ground-truth time m that it is nearest to (time runs from 0, noise, to 1, data). "
            "Orange: this model (line: mean, band: 5 to 95 % of states; for the clocks, which read means only, the 95 % "
            "interval of the mean). Grey: real interpolations of held-out images through the same code. Dashed blue: a "
            "perfect model with a fine solver. Read the gap between orange and grey and between orange and blue, never the "
            "gap to the dotted diagonal: that one is there without any model, as grey and blue show."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["reading"].nunique(), 3.7, 4.0),
        alt=alt,
    )
)
