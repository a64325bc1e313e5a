"""A study: metrics against network calls after the longest post-training that all arms have, one curve an arm."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.figures.arms import (
    at_the_end,
    colours,
    in_order,
    labelled,
    line,
    log_ticks,
    off_the_scale,
    studied,
)
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import legend_below
from slowflow.results import RunResult
from slowflow.sweep.pooled import common_length, over_seeds


def data(result: RunResult) -> pd.DataFrame:
    """arm, group, gamma, metric, features, length, budget, steps, nfe, seeds, value, low, high, n."""
    study = studied(result)
    table = over_seeds(study)
    # an arm that stops sooner sets the length of all: no curve may owe its place to more training
    kept = table[table["length"].isin([0, common_length(study)])]
    return in_order(kept.drop(columns="longest").assign(features=study.protocol["features"]))


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a metric; arms stand a little apart so that intervals stay readable."""
    colour, arms = colours(table), list(table["arm"].unique())
    for panel, (metric, group) in zip(axes, table.groupby("metric", sort=False), strict=True):
        for arm, part in group.groupby("arm", sort=False):
            x = part["nfe"] * 1.012 ** (arms.index(str(arm)) - len(arms) / 2)
            look = line(str(arm), part, colour)
            panel.plot(x, part["value"], linewidth=1.7, **look)
            panel.vlines(x, part["low"], part["high"], look["color"], linewidth=1.1, alpha=0.6, zorder=look["zorder"])
        log_ticks(panel, sorted(group["budget"].unique().tolist()))
        panel.set(
            xlabel=f"network calls a sample,\nafter {int(group['length'].max()):,} steps of post-training",
            ylabel=str(metric).replace("fd", "FD"),
        )
        off_the_scale(panel, group)
        panel.set_title(labelled(str(metric), str(group["features"].iloc[0])))
    legend_below(axes, 4)


def alt(table: pd.DataFrame) -> str:
    """The first metric of every arm at the most calls."""
    first = at_the_end(table)
    parts = [f"{row['arm']} {row['value']:.2f}" for _, row in first.iterrows()]
    metric = labelled(str(first["metric"].iloc[0]), str(first["features"].iloc[0]))
    where = f"at {int(table['budget'].max())} steps, after {int(table['length'].max())} steps of post-training"
    return f"{metric}: {where}: " + "; ".join(parts) + "."


FIGURES.register("study-calls", summary="a study: metrics against network calls, by arm", source="SlowFlow")(
    Figure(
        title="Which arm is better, at how many network calls?",
        caption=(
            "Every arm after the longest post-training that all of them have, the same seeds, averages, noise and n for all. "
            "Bars are 95 % intervals over seeds and samples; arms are set a little apart. Dashed: arms outside the sweep over γ."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["metric"].nunique(), 4.4, 4.0, columns=2),
        alt=alt,
        arms=True,
    )
)
