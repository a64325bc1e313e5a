"""How gamma is fitted: mean slack over the nulls at every time, the gamma that follows, and what it leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed
from slowflow.figures.style import BLUE, INK, KIND, KIND_LINE, KIND_NAME, ORANGE, PALE, legend_below
from slowflow.measuring.bootstrap import interval
from slowflow.measuring.estimators import Curves
from slowflow.results import RunResult

COLOUR = {"genuine": ORANGE, "exact": BLUE}
LINE = {"genuine": "-", "exact": "--"}
SHIFT = {"genuine": -0.004, "exact": 0.004}
"""Sideways, so that the intervals over both nulls can be seen."""
HEIGHTS = (1.2, 1.2, 0.7)
EDGE = 2.8
"""Residuals beyond it are drawn as triangles at the edge."""


def data(result: RunResult) -> pd.DataFrame:
    """One row a reading of the verdict, null and time that enters.

    reading, kind (of the states), null, t; slack of the states and zero (slack of the null), free (gamma(t) of this time
    alone), gamma (of all times), each with _low and _high; isotonic: gamma(t) whose lag never shrinks.
    """
    frames = []
    for reading in result.heard:
        curves = result.curves[reading]
        for null in [null for null in COLOUR if null in curves.n]:
            names = {"reading": reading, "kind": result.subject, "null": null}
            frames.append(pd.DataFrame({**names, **_columns(curves, result.subject, null)}))
    if not frames:
        raise InputError(f"{result.measured.path} was measured without nulls, so no excess can be fitted")
    return pd.concat(frames, ignore_index=True)


def _columns(curves: Curves, subject: str, null: str) -> dict[str, object]:
    columns: dict[str, object] = {"t": curves.t}
    for name, kind in (("slack", subject), ("zero", null)):
        columns[name] = curves.mean[kind]
        columns[f"{name}_low"], columns[f"{name}_high"] = interval(curves.resampled[kind])
    free, whole = curves.free(subject, null), curves.excess(subject, null)
    for end, name in (("value", ""), ("low", "_low"), ("high", "_high")):
        columns[f"free{name}"] = [getattr(one, end) for one in free]
        columns[f"gamma{name}"] = getattr(whole, end)
    return {**columns, "isotonic": curves.isotonic(subject, null)}


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A column a reading: slack with the fitted lines, gamma(t), and residuals."""
    readings = list(table.groupby("reading", sort=False))
    for column, (reading, group) in enumerate(readings):
        slack, width, rest = axes[column :: len(readings)]
        headed(slack, str(reading), lines=1)
        for panel in (slack, width, rest):
            panel.axhline(0.0, color=INK, linewidth=1.0)
            panel.set_xlim(min(0.28, group["t"].min() - 0.02), 1.015)
        _states(slack, group[group["null"] == group["null"].iloc[0]])
        for null, part in group.groupby("null", sort=False):
            _null(slack, part, str(null))
            _width(width, part, str(null))
            _rest(rest, part, str(null))
        seen = group[["free", "gamma_low", "gamma_high"]].to_numpy().ravel()
        typical = ((group["free_high"] - group["free_low"]) / 2.0).median()
        width.set_ylim(min(seen.min(), 0.0) - typical, max(seen.max(), 0.0) + typical)
        rest.axhspan(-1, 1, color=PALE, alpha=0.6, linewidth=0, zorder=0)
        rest.set(ylim=(-3, 3), yticks=[-2, 0, 2], xlabel="sampling time t")
    for panel, label in zip(axes[:: len(readings)], ("mean slack (t − m) / t", "gamma(t)", "residual"), strict=True):
        panel.set_ylabel(label)
    legend_below(axes)


def _states(panel: Axes, part: pd.DataFrame) -> None:
    """Mean slack of the states."""
    kind = str(part["kind"].iloc[0])
    panel.fill_between(part["t"], part["slack_low"], part["slack_high"], color=KIND[kind], alpha=0.25, linewidth=0)
    panel.plot(part["t"], part["slack"], color=KIND[kind], label=KIND_NAME[kind])


def _null(panel: Axes, part: pd.DataFrame, null: str) -> None:
    """Mean slack of a null, and where the states would be with one gamma above it."""
    panel.fill_between(part["t"], part["zero_low"], part["zero_high"], color=KIND[null], alpha=0.15, linewidth=0)
    panel.plot(part["t"], part["zero"], color=KIND[null], linestyle=KIND_LINE[null], label=KIND_NAME[null])
    fitted = part["zero"] + part["gamma"] / 2.0
    panel.plot(
        part["t"], fitted, color=KIND[null], linewidth=1.4, linestyle=":", label=f"{KIND_NAME[null]} + gamma / 2"
    )


def _width(panel: Axes, part: pd.DataFrame, null: str) -> None:
    """gamma(t) of every time, the gamma of all times, and the isotonic one."""
    colour = COLOUR[null]
    panel.axhspan(part["gamma_low"].iloc[0], part["gamma_high"].iloc[0], color=colour, alpha=0.12, linewidth=0)
    panel.axhline(part["gamma"].iloc[0], color=colour, linewidth=1.4, linestyle=LINE[null])
    t, label = part["t"] + SHIFT[null], f"gamma(t) above {KIND_NAME[null]}"
    panel.vlines(t, part["free_low"], part["free_high"], color=colour, linewidth=1.1)
    panel.plot(t, part["free"], "o", markersize=4, color=colour, label=label)
    if null == "genuine":
        panel.plot(part["t"], part["isotonic"], color=INK, linewidth=1.2, linestyle="-.", label="the lag never shrinks")


def _rest(panel: Axes, part: pd.DataFrame, null: str) -> None:
    """gamma(t) - gamma in half-widths of its own interval."""
    half = np.maximum((part["free_high"] - part["free_low"]) / 2.0, 1e-12)
    t = part["t"] + SHIFT[null]
    rest: pd.Series = (part["free"] - part["gamma"]) / half
    for inside, marker in ((rest.abs() <= EDGE, "o"), (rest > EDGE, "^"), (rest < -EDGE, "v")):
        panel.plot(t[inside], rest[inside].clip(-EDGE, EDGE), marker, markersize=4.5, color=COLOUR[null])


def alt(table: pd.DataFrame) -> str:
    """gamma of every reading over every null."""
    first = table.groupby(["reading", "null"], sort=False).first().reset_index().to_dict("records")
    parts = [
        f"{r['reading']} above {KIND_NAME[r['null']]} {r['gamma']:.3f} [{r['gamma_low']:.3f}, {r['gamma_high']:.3f}]"
        for r in first
    ]
    return "The gamma fitted to the mean slack above the nulls: " + "; ".join(parts) + "."


FIGURES.register("gamma-fit", summary="mean slack over the nulls, gamma(t), residuals", source="SlowFlow")(
    Figure(
        title="Does one gamma fit all times?",
        caption=(
            "Top: mean slack of the model (orange) and of the nulls; a dotted line is a null raised by gamma / 2 and should lie "
            "on orange. Middle: gamma(t) of every time by itself, the one gamma of all times as a line with its band, and in "
            "black the best curve whose lag t − m never shrinks. Bottom: what one gamma leaves, in half-widths of the "
            "interval; outside the grey band it misses that time. Single states are read back through the curve of genuine "
            "ones first, and times that enter no gamma are left out."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(
            3 * table["reading"].nunique(), 4.4, 2.7, columns=table["reading"].nunique(), heights=HEIGHTS
        ),
        alt=alt,
    )
)
