"""Excess: m of the model minus m of each null at the same t, with 95 % intervals. Below zero = slow."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed, shade_unused, signed_scale
from slowflow.figures.style import BLUE, GREEN, KIND_NAME, ORANGE, PURPLE, legend_below
from slowflow.results import RunResult

COLOUR = {"genuine": ORANGE, "exact": BLUE, "unguided": PURPLE, "fine": GREEN}
LINE = {"genuine": "-", "exact": "--", "unguided": "-", "fine": "-."}


def data(result: RunResult) -> pd.DataFrame:
    """reading, null, t, excess, low, high, used (whether this time enters a gamma) of the first arm."""
    found = result.measured
    frames = []
    for reading in found.readings():
        table = found.summary(reading)
        for null in [null for null in COLOUR if f"excess_{null}" in table]:
            columns = {f"excess_{null}": "excess", f"excess_{null}_low": "low", f"excess_{null}_high": "high"}
            part = table[["t", *columns]].rename(columns=columns)
            used = np.isin(table["t"], result.curves[reading].t)
            frames.append(part.assign(reading=reading, null=null, used=used))
    if not frames:
        raise InputError(f"{found.path} was measured without nulls, so there is no excess")
    return pd.concat(frames, ignore_index=True)[["reading", "null", "t", "excess", "low", "high", "used"]]


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a reading, one band a null; round scales, so that panels of one scale can be compared."""
    for panel, (reading, group) in zip(axes, table.groupby("reading", sort=False), strict=True):
        first = group[group["null"] == group["null"].iloc[0]]
        signed_scale(panel, group[group["used"]][["low", "high"]].to_numpy().ravel(), above="fast", below="slow")
        shade_unused(panel, first["t"].to_numpy(), first["used"].to_numpy())
        for null, part in group.groupby("null", sort=False):
            colour, line = COLOUR[str(null)], LINE[str(null)]
            panel.fill_between(part["t"], part["low"], part["high"], color=colour, alpha=0.25, linewidth=0)
            panel.plot(part["t"], part["excess"], color=colour, linestyle=line, label=f"above {KIND_NAME[str(null)]}")
        headed(panel, str(reading))
        panel.set(xlabel="sampling time t", ylabel="m(model) − m(null)")
    legend_below(axes, columns=4)


def alt(table: pd.DataFrame) -> str:
    """The largest excess of each panel, at the times that enter a gamma."""
    parts = []
    for (reading, null), group in table[table["used"]].groupby(["reading", "null"], sort=False):
        row = group.iloc[int(group["excess"].abs().to_numpy().argmax())]
        parts.append(f"{reading} above {KIND_NAME[str(null)]}: {row['excess']:+.3f} at t = {row['t']:.2f}")
    return "Excess of the slowed timestep over its nulls, largest values: " + "; ".join(parts) + "."


FIGURES.register("excess", summary="m(model) - m(null) by t under every reading, with intervals", source="SlowFlow")(
    Figure(
        title="What is left above the nulls?",
        caption=(
            "m of the model minus m of a null at the same t; bands are 95 % intervals from resampling whole trajectories. "
            "Below zero means slower than that null, and an effect counts only where orange (above genuine states) and blue "
            "(above a perfect model) lie on one side of zero. Scales differ between panels and are one of 0.02, 0.05, "
            "0.1, 0.2, 0.5, 1; shaded times, where nothing can be read, enter no gamma. With guidance the nulls belong to "
            "unguided sampling, and only the purple curve, above that, is a finding."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["reading"].nunique(), 3.8, 3.4),
        alt=alt,
    )
)
