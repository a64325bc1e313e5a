"""A study: metrics against the length of post-training, at the fewest and at the most network calls."""

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
from slowflow.figures.style import INK, legend_below
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE
from slowflow.sweep.pooled import over_seeds


def data(result: RunResult) -> pd.DataFrame:
    """arm, group, gamma, metric, features, length, budget, nfe, seeds, value, low, high, n, at fewest and most calls."""
    study = studied(result)
    table = over_seeds(study)
    ends = (table["budget"].min(), table["budget"].max())
    kept = table[table["budget"].isin(ends) & ((table["longest"] > 0) | (table["arm"] == BASE))]
    return in_order(kept.drop(columns="longest").assign(features=study.protocol["features"]))


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A column a metric, fewest calls above, most below; the dotted line is the base."""
    colour, lengths = colours(table), sorted(set(table["length"]) - {0})
    metrics, budgets = list(table["metric"].unique()), sorted(table["budget"].unique().tolist())
    places = [(budget, metric) for budget in budgets for metric in metrics]
    for panel, (budget, metric) in zip(axes, places, strict=True):
        group = table[(table["metric"] == metric) & (table["budget"] == budget)]
        base = group.loc[group["arm"] == BASE, "value"]
        if len(base):
            panel.axhline(float(base.iloc[0]), color=INK, linestyle=":", linewidth=1.5, label="base, no post-training")
        for arm, part in group[group["arm"] != BASE].groupby("arm", sort=False):
            look = line(str(arm), part, colour)
            panel.fill_between(
                part["length"], part["low"], part["high"], color=look["color"], alpha=0.12, linewidth=0, zorder=1
            )
            panel.plot(part["length"], part["value"], **look)
        off_the_scale(panel, group)
        log_ticks(panel, lengths)
        panel.set(xlabel="steps of post-training", ylabel=f"{metric.replace('fd', 'FD')} at {budget} steps")
        panel.set_title(labelled(metric, str(table["features"].iloc[0])) if budget == budgets[0] else "")
    legend_below(axes, 2 * len(metrics))


def alt(table: pd.DataFrame) -> str:
    """First and last length of the first metric at the most calls."""
    here = at_the_end(table)
    parts = []
    for arm, part in here[here["length"] > 0].groupby("arm", sort=False):
        ends = part.sort_values("length")["value"]
        parts.append(f"{arm} {ends.iloc[0]:.2f} to {ends.iloc[-1]:.2f}")
    metric = labelled(str(table["metric"].iloc[0]), str(table["features"].iloc[0]))
    return f"{metric}: from the shortest to the longest post-training: " + "; ".join(parts) + "."


FIGURES.register("study-length", summary="a study: metrics against length of post-training", source="SlowFlow")(
    Figure(
        title="How long must post-training be?",
        caption=(
            "Every point is a stop of one run at a constant learning rate; averaged weights are a fixed share of the run old. "
            "Bands are 95 % intervals over seeds and samples. Above: the fewest network calls of the study; below: the most."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(
            table["metric"].nunique() * table["budget"].nunique(), 3.9, 3.3, columns=table["metric"].nunique()
        ),
        alt=alt,
        arms=True,
    )
)
