"""Excess: m of the model minus m of each null at the same t, with 95 % intervals. Below zero = slow."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure
from slowflow.figures.style import GREY, INK, KIND, KIND_NAME, ORANGE, note
from slowflow.results import RunResult

COLOUR = {"genuine": ORANGE, "exact": KIND["exact"], "coarse": KIND["coarse"]}


def data(result: RunResult) -> pd.DataFrame:
    """reference, null, t, excess, low, high of the first arm."""
    found = result.measured
    nulls = [kind for kind in found.kinds() if kind in ("genuine", "exact")]
    if not nulls:
        raise InputError(f"{result.path} was measured without nulls, so there is no excess")
    frames = []
    for reference in found.references:
        table = found.summary(reference)
        for null in nulls:
            columns = {f"excess_{null}": "excess", f"excess_{null}_low": "low", f"excess_{null}_high": "high"}
            part = table[["t", *columns]].rename(columns=columns)
            frames.append(part.assign(reference=reference, null=null))
    return pd.concat(frames, ignore_index=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a reference, one band a null, one scale for all."""
    reach = 1.1 * max(table[["low", "high"]].abs().to_numpy().max(), 0.02)
    for panel, (reference, group) in zip(axes, table.groupby("reference", sort=False), strict=True):
        panel.axhline(0.0, color=INK, linewidth=1.0)
        for null, part in group.groupby("null", sort=False):
            colour = COLOUR.get(str(null), GREY)
            panel.fill_between(part["t"], part["low"], part["high"], color=colour, alpha=0.3, linewidth=0)
            panel.plot(part["t"], part["excess"], color=colour, label=f"above {KIND_NAME[str(null)]}")
        panel.set(xlim=(0, 1), ylim=(-reach, reach), title=f"reference: {reference}")
        panel.set(xlabel="sampling time t", ylabel="excess m(model) − m(null)")
        note(panel, "fast", 0.98, 0.96, ha="right", va="top")
        note(panel, "slow", 0.98, 0.04, ha="right", va="bottom")
        panel.legend(loc="lower left")


def alt(table: pd.DataFrame) -> str:
    """The largest excess of each panel."""
    parts = []
    for (reference, null), group in table.groupby(["reference", "null"], sort=False):
        row = group.iloc[int(group["excess"].abs().to_numpy().argmax())]
        parts.append(f"{reference} above {KIND_NAME[str(null)]}: {row['excess']:+.3f} at t = {row['t']:.2f}")
    return "Excess of the slowed timestep over its nulls, largest values: " + "; ".join(parts) + "."


FIGURES.register("excess", summary="m(model) - m(null) by t, with intervals", source="SlowFlow")(
    Figure(
        title="What is left above the nulls?",
        caption=(
            "m of the model minus m of a null at the same t; bands are 95 % intervals from resampling whole trajectories. "
            "A curve below zero means slower than that null. An effect counts only where both curves lie on one side of "
            "zero: the orange one still holds the bend that the paths of any model have, the blue one does not."
        ),
        data=data,
        draw=draw,
        panels=lambda table: (table["reference"].nunique(), 4.8, 3.6),
        alt=alt,
    )
)
