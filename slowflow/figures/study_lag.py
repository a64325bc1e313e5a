"""A study: the lag of every arm before and after, beside what the arm did to a metric."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.arms import CROWDED, colours, in_order, in_rows, studied, titled
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import GREY, INK, QUIET, head
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE
from slowflow.sweep.pooled import at_longest, differences, lags_over_seeds

READINGS = {"level": "excess", "signal clock": "signal", "noise clock": "noise"}
KINDS = ("exact", "genuine")
MEANING = {
    "level": "noise level read from single states",
    "signal clock": "how much data is in the states",
    "noise clock": "how much noise is in the states",
}


def data(result: RunResult) -> pd.DataFrame:
    """arm, group, gamma, length, panel (a reading, or a metric), what (excess or change), seeds, value, low, high."""
    study = studied(result)
    lags = lags_over_seeds(study)
    if lags.empty:
        raise InputError(f"{study.path} measured no lag; add a [measure] section")
    excess = lags[lags["kind"] == "excess"]
    null = next(k for k in KINDS if f"signal_{k}" in set(excess["reading"]) or f"excess_{k}" in set(excess["reading"]))
    frames = [
        excess[excess["reading"] == f"{prefix}_{null}"].assign(panel=name, what=f"above {null}")
        for name, prefix in READINGS.items()
    ]
    probe = study.protocol["probe"]["steps"]
    steps = probe[0] if isinstance(probe, list) else probe
    budgets = study.protocol["sampling"]["steps"]
    budget = min(budgets, key=lambda b: abs(b - steps))
    last = at_longest(differences(study, BASE))
    last = last[last["budget"] == budget]
    measured = set(excess["arm"])
    for metric in ("fd", "coverage"):
        here = last[(last["metric"] == metric) & last["arm"].isin(measured)]
        frames.append(here.assign(panel=metric, what=f"change at {budget} steps"))
    table = pd.concat(frames, ignore_index=True)
    columns = ["arm", "group", "gamma", "length", "panel", "what", "seeds", "value", "low", "high"]
    return in_order(table[columns])


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a reading, then the metrics; an arm a row, the base's lag as a line."""
    colour, arms = colours(table), list(table["arm"].unique())[::-1]
    shade = {arm: QUIET if one == CROWDED else one for arm, one in colour.items()}
    about = table.drop_duplicates("arm").set_index("arm")
    names = [titled(arm, str(about.loc[arm, "group"]), float(str(about.loc[arm, "gamma"]))) for arm in arms]
    lengths = {arm: int(str(about.loc[arm, "length"])) for arm in arms}
    if len(set(lengths.values()) - {0}) > 1:
        names = [
            f"{name}, {lengths[arm]:,} steps" if lengths[arm] else name for arm, name in zip(arms, names, strict=True)
        ]
    for panel, (name, group) in zip(axes, table.groupby("panel", sort=False), strict=True):
        lag = name in READINGS
        panel.axvline(0.0, color=INK, linewidth=1.0)
        base = group.loc[group["arm"] == BASE, "value"]
        if lag and len(base):
            panel.axvline(float(base.iloc[0]), color=GREY, linestyle=":", linewidth=1.5)
        in_rows(panel, group, lambda row: arms.index(row["arm"]), lambda row: shade[row["arm"]])
        panel.set_yticks(range(len(arms)), names if panel is axes[0] else [""] * len(arms))
        panel.set_ylim(-0.6, len(arms) - 0.4)
        panel.grid(axis="y", visible=False)
        if lag:
            head(panel, f"lag, {name}", MEANING[str(name)], 1)
            panel.set(xlabel="excess γ   (right = slow)")
        else:
            better = "left = better" if name == "fd" else "right = better"
            head(panel, str(name).replace("fd", "FD"), f"{group['what'].iloc[0]}, against the base", 1)
            panel.set(xlabel=f"arm − base   ({better})")


def alt(table: pd.DataFrame) -> str:
    """Level and metric of every arm."""
    parts = []
    for arm, group in table.groupby("arm", sort=False):
        found = group.set_index("panel")["value"]
        after = f" after {int(group['length'].iloc[0]):,} steps" if group["length"].iloc[0] else ""
        parts.append(
            f"{arm}{after}: "
            + ", ".join(f"{str(name).replace('fd', 'FD')} {value:+.3f}" for name, value in found.items())
        )
    return "Excess after post-training, and change of the metrics: " + "; ".join(parts) + "."


FIGURES.register("study-lag", summary="a study: lag before and after, beside the change of metrics", source="SlowFlow")(
    Figure(
        title="Does an arm that improves the samples also remove the lag?",
        caption=(
            "Lag after an arm's last length of post-training, in units of γ above a perfect model (or genuine states), right = "
            "slow; the dotted line is the base before. Beside it what the arm changed in the metrics at the nearest step count, "
            "at the same length. Where arms stop at different lengths their names say so. Bars are 95 % intervals over seeds "
            "and samples; an arrow with a number lies off the scale."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(
            table["panel"].nunique(), 3.5, 1.3 + 0.32 * table["arm"].nunique(), columns=table["panel"].nunique()
        ),
        alt=alt,
        arms=True,
    )
)
