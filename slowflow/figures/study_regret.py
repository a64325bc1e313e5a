"""A study: what a suggested gamma costs against the best of the sweep, by step count, with no correction beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from slowflow.figures.arms import at_the_end, labelled, log_ticks, studied
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, legend_below
from slowflow.records import HIGHER_IS_BETTER
from slowflow.results import RunResult
from slowflow.sweep.regret import UNCORRECTED, pilot_table, regret_table, suggestions

COLOURS = {
    "band": ORANGE,
    "excess": PURPLE,
    "fixed 0.8": INK,
    "fixed 0.4": GREEN,
    UNCORRECTED: BLUE,
}
METRICS = ("fd", "coverage")
COLUMNS = ("metric", "length", "budget", "method", "gamma", "value", "low", "high", "noise", "seeds")


def data(result: RunResult) -> pd.DataFrame:
    """metric, length, budget, method, gamma (NaN for no correction and for pilots, whose pick changes), value, low, high,
    noise, seeds, features."""
    study = studied(result)
    table = pd.concat([regret_table(study, suggestions(study)), pilot_table(study)], ignore_index=True)
    table = table[(table["length"] == table["length"].max()) & table["metric"].isin(METRICS)]
    table["gamma"] = table["gamma"].where(table["method"].isin(COLOURS))
    table = table.sort_values("metric", key=lambda names: names.map(METRICS.index), kind="stable")
    return table[list(COLUMNS)].assign(features=study.protocol["features"]).reset_index(drop=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a metric; methods stand a little apart, the grey band is what this sweep cannot tell from zero."""
    methods = list(table["method"].unique())
    others = iter((SKY, "#B8860B", "#8C564B", "#8a8a8a"))
    colour = {method: COLOURS.get(method) or next(others, GREY) for method in methods}
    for panel, (metric, group) in zip(axes, table.groupby("metric", sort=False), strict=True):
        noise = group.groupby("budget")["noise"].first()
        x = noise.index.to_numpy(dtype=np.float64)
        edges = np.concatenate([[x[0] * 0.85], x, [x[-1] * 1.18]])
        width = np.interp(edges, x, noise)
        panel.fill_between(edges, -width, width, color=GREY, alpha=0.18, linewidth=0, label="the sweep's own noise")
        panel.axhline(0.0, color=INK, linewidth=1.0)
        for number, method in enumerate(methods):
            part = group[group["method"] == method].sort_values("budget")
            at = part["budget"] * 1.025 ** (number - (len(methods) - 1) / 2)
            dash = ":" if method not in COLOURS else "-"
            panel.plot(at, part["value"], dash, marker="o", markersize=5, color=colour[method], label=_named(part))
            panel.vlines(at, part["low"], part["high"], color=colour[method], linewidth=1.6, alpha=0.75)
        log_ticks(panel, [int(n) for n in x])
        higher = HIGHER_IS_BETTER[str(metric)]
        panel.set(
            xlabel=f"sampling steps,\nafter {int(group['length'].max()):,} steps of post-training",
            ylabel=f"{'lost' if higher else 'added'} {str(metric).replace('fd', 'FD')} against the best γ",
        )
        panel.set_title(labelled(str(metric), str(group["features"].iloc[0])))
    legend_below(axes, 3)


def _named(part: pd.DataFrame) -> str:
    """A method in words, with its gamma where it has one for all step counts."""
    method, gamma = str(part["method"].iloc[0]), float(part["gamma"].iloc[0])
    if method == UNCORRECTED:
        return "no correction (plain post-training)"
    if method.startswith("fixed"):
        return f"the paper's γ = {gamma:g}"
    return f"{method} steps (a pilot)" if np.isnan(gamma) else f"{method}, γ = {gamma:.2f}"


def alt(table: pd.DataFrame) -> str:
    """The first metric of every method at the most steps."""
    last = at_the_end(table)
    parts = [
        f"{row['method']} {row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" for _, row in last.iterrows()
    ]
    metric = labelled(str(last["metric"].iloc[0]), str(last["features"].iloc[0]))
    return f"Regret at {int(last['budget'].max())} steps, {metric}: " + "; ".join(parts) + "."


FIGURES.register(
    "study-regret", summary="a study: what a suggested gamma costs against the best of the sweep", source="SlowFlow"
)(
    Figure(
        title="What does a suggested γ cost?",
        caption=(
            "Regret: the metric at a γ minus that at the best γ of the sweep, turned so that up is worse; the best is chosen on "
            "the other seeds and judged on the one left out. Bars are 95 % intervals; what lies inside the grey band this "
            "sweep cannot tell from zero. Below zero lies what is not in the sweep: plain post-training that did better than "
            "every γ. Dotted: the γ that was best after a shorter training, which may change with the step count."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["metric"].nunique(), 5.2, 4.4, columns=2),
        alt=alt,
        arms=True,
    )
)
