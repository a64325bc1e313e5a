"""The lag, divided: step size, error on real states, accumulation. From a diagnosis."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import GREEN, GREY, INK, ORANGE, QUIET, READING, SKY, head, number
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.causes.shares import PARTS
from slowflow.records import Estimate
from slowflow.results import RunResult

TOTAL = "lag"
NAMES = {
    "steps": "step\nsize",
    "local": "error on\nreal states",
    "accumulation": "accumu-\nlation",
    TOTAL: "whole\nlag",
}
COLOUR = {"steps": SKY, "local": GREEN, "accumulation": ORANGE, TOTAL: GREY}
BY_STEPS = "by steps"


def data(result: RunResult) -> pd.DataFrame:
    """reading, clear, part, steps, value, low, high: the parts of the lag, the lag, and the lag at every step count.

    Divided are readings whose lag is clear of zero; where none is, the one nearest to being so.
    """
    found = result.diagnosis
    if found is None:
        raise InputError(f"{result.path} holds no diagnosis; make one with: slowflow diagnose {result.path}")
    rows = []
    for reading in divided(found):
        division = found.divisions[reading]
        for part, one in (*division.parts.items(), (TOTAL, division.lag)):
            rows.append(
                {"reading": reading, "clear": division.clear, "part": part, "steps": found.counts[0], **_row(one)}
            )
    for reading, division in found.divisions.items():
        for steps, one in sorted(division.by_steps.items()):
            rows.append({"reading": reading, "clear": division.clear, "part": BY_STEPS, "steps": steps, **_row(one)})
        rest = sum(division.parts[part].value for part in PARTS[1:])
        rows.append({"reading": reading, "clear": division.clear, "part": "at step size 0", "steps": 0, "value": rest})
    return pd.DataFrame(rows)


def divided(found: Diagnosis) -> list[str]:
    """Readings whose lag can be divided."""
    return [name for name, division in found.divisions.items() if division.clear] or [found.reading]


def _row(one: Estimate) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high}


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A waterfall a reading, and the lag against the step size."""
    bars = table[table["part"].isin(NAMES)]
    for panel, (reading, group) in zip(axes, bars.groupby("reading", sort=False), strict=False):
        _waterfall(panel, str(reading), group)
    _by_steps(axes[-1], table[~table["part"].isin(NAMES)])


def _waterfall(panel: Axes, reading: str, group: pd.DataFrame) -> None:
    """Parts stacked up to the whole; each with the interval of its own size."""
    reached = 0.0
    panel.axhline(0.0, color=INK, linewidth=1.0)
    for place, row in enumerate(group.to_dict("records")):
        begin = 0.0 if row["part"] == TOTAL else reached
        end = begin + row["value"]
        panel.bar(place, row["value"], bottom=begin, width=0.62, color=COLOUR[row["part"]], zorder=2)
        ends = [begin + row["low"], begin + row["high"]]
        panel.vlines(place, *ends, color=INK, linewidth=1.6, zorder=3)
        if row["part"] != TOTAL:
            panel.hlines(end, place, place + 1, color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
        label = (place, max(*ends, begin, end))
        panel.annotate(number(row["value"], signed=True), label, (0, 4), textcoords="offset points", ha="center")
        reached = end
    steps, clear = int(group["steps"].iloc[0]), bool(group["clear"].iloc[0])
    head(panel, reading, f"at {steps} steps" if clear else f"at {steps} steps; the lag is not clear of zero")
    panel.set_xticks(range(len(group)), [NAMES[part] for part in group["part"]])
    panel.grid(axis="x", visible=False)
    panel.margins(y=0.14)
    panel.set_ylabel("lag in units of gamma")


def _by_steps(panel: Axes, table: pd.DataFrame) -> None:
    """Lag against step size; hollow: extrapolated to none."""
    panel.axhline(0.0, color=INK, linewidth=1.0)
    counts = sorted({int(n) for n in table["steps"] if n}, reverse=True)
    for number_of, (reading, group) in enumerate(table.groupby("reading", sort=False)):
        colour, rows = READING.get(str(reading), INK), group[group["steps"] > 0].sort_values("steps", ascending=False)
        x = 1.0 / rows["steps"] * (1.0 + 0.02 * (number_of - 1))
        zero = float(group[group["steps"] == 0]["value"].iloc[0])
        panel.plot([0.0, *x], [zero, *rows["value"]], color=colour, linewidth=1.2, linestyle=":")
        panel.vlines(x, rows["low"], rows["high"], color=colour, linewidth=2)
        panel.plot(x, rows["value"], "o", color=colour, label=str(reading))
        panel.plot([0.0], [zero], "o", markerfacecolor="white", markeredgecolor=colour, markersize=8, zorder=3)
    head(panel, "lag against step size", "hollow: left at step size zero")
    panel.set_xticks([0.0, *(1.0 / n for n in counts)], ["0", *(f"1/{n}" for n in counts)])
    panel.set(xlabel="step size", ylabel="lag in units of gamma")
    panel.set_xlim(left=-0.06 / min(counts))
    panel.margins(y=0.12)
    panel.legend(loc="upper left")


def alt(table: pd.DataFrame) -> str:
    """Every part with its interval."""
    rows = table[table["part"].isin(NAMES)].to_dict("records")
    parts = [f"{r['reading']}, {r['part']} {r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in rows]
    return f"The lag at {rows[0]['steps']} steps divided among its causes, in units of gamma: " + "; ".join(parts) + "."


FIGURES.register(
    "causes", summary="the lag divided: step size, local error, accumulation", source="Richardson; SlowFlow"
)(
    Figure(
        title="Why do they lag?",
        caption=(
            "The bars add up to the whole lag: what the step size makes (light blue; more steps take it away), what the network "
            "does wrong on real states already (green; only a better network mends it), and what it adds by running on its own "
            "output (orange; the exposure bias that MixFlow is for). Black lines are 95 % intervals of each part: one that "
            "reaches back to where its bar starts is not clear of zero. Last panel: the lag at several step sizes, and what "
            "is left at none."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table[table["part"] == TOTAL]["reading"].nunique() + 1, 4.2, 4.0, columns=3),
        alt=alt,
    )
)
