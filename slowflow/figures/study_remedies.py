"""A study: every arm against its control, one row an arm, so that thirty of them can be read."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.arms import at_the_end, in_rows, studied, titled
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import INK, QUIET, head, legend_below
from slowflow.records import HIGHER_IS_BETTER
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE, CONTROL
from slowflow.sweep.pooled import common_length, differences

METRICS = ("fd", "density", "coverage", "agreement")
COLUMNS = ("arm", "group", "gamma", "against", "length", "budget", "metric", "seeds", "value", "low", "high")


def data(result: RunResult) -> pd.DataFrame:
    """arm, group, gamma, against (plain for trained arms, base for others), length, budget (the fewest and the most), metric,
    seeds, value, low, high; within each control the arm with the lowest distance at the most steps comes first."""
    study = studied(result)
    arms, frames = study.arms, []
    if CONTROL in arms:
        trained = differences(study, CONTROL)
        frames.append(trained[trained["length"] == common_length(study)])
    if BASE in arms:
        untrained = differences(study, BASE)
        frames.append(untrained[untrained["length"] == 0])
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    if table.empty:
        raise InputError(f"{study.path} has no arm beside its controls yet")
    ends = table["budget"].agg(["min", "max"])
    table = table[table["budget"].isin(ends) & table["metric"].isin(METRICS)]
    last = table[(table["metric"] == "fd") & (table["budget"] == ends["max"])].set_index("arm")["value"]
    table = table.assign(first=table["against"] != CONTROL, place=table["arm"].map(last))
    return table.sort_values(["first", "place"], kind="stable")[list(COLUMNS)].reset_index(drop=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a metric; light dots the fewest steps, dark ones the most; a line parts what trains from what does not."""
    arms = list(table["arm"].unique())[::-1]
    budgets = sorted(table["budget"].unique().tolist())
    colour = dict(zip(budgets, seaborn.color_palette("crest", len(budgets)).as_hex(), strict=True))
    untrained = table.loc[table["against"] == BASE, "arm"].nunique()
    about = table.drop_duplicates("arm").set_index("arm")
    aside = 0.14 if len(budgets) > 1 else 0.0
    metrics = [one for one in METRICS if one in set(table["metric"])]
    for panel, metric in zip(axes, metrics, strict=True):
        group = table[table["metric"] == metric]
        panel.axvline(0.0, color=INK, linewidth=1.0)
        if 0 < untrained < len(arms):
            panel.axhline(untrained - 0.5, color=QUIET, linewidth=1.0, linestyle="--")
        in_rows(
            panel,
            group,
            lambda row: arms.index(row["arm"]) + (aside if row["budget"] == budgets[0] else -aside),
            lambda row: colour[row["budget"]],
        )
        names = [titled(arm, str(about.loc[arm, "group"]), float(str(about.loc[arm, "gamma"]))) for arm in arms]
        panel.set_yticks(range(len(arms)), names if panel is axes[0] else [""] * len(arms))
        panel.set_ylim(-0.6, len(arms) - 0.4)
        better = "right" if HIGHER_IS_BETTER[metric] else "left"
        head(panel, metric.replace("fd", "FD"), f"{better} = better", 1)
        panel.locator_params(axis="x", nbins=4)  # long labels with signs run into each other
        panel.set(xlabel="arm − its control")
    for budget in budgets:
        axes[0].plot([], [], "o", color=colour[budget], markersize=4.5, label=f"{budget} steps")
    legend_below(axes, len(budgets))


def alt(table: pd.DataFrame) -> str:
    """The first metric of every arm at the most steps."""
    last = at_the_end(table)
    parts = [f"{row['arm']} {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" for _, row in last.iterrows()]
    metric = str(last["metric"].iloc[0]).replace("fd", "FD")
    return f"{metric} against the control at {int(last['budget'].max())} steps: " + "; ".join(parts) + "."


FIGURES.register("study-remedies", summary="a study: every arm against its control, one row an arm", source="SlowFlow")(
    Figure(
        title="Which remedy helps, against its own control?",
        caption=(
            "Above the dashed line: arms that train, minus plain post-training of the same length, the longest that all of them "
            "have. Below: arms that only change sampling, minus the base at equal network calls. Each part is ordered by "
            "Frechet distance at the most steps. Bars are 95 % intervals over seeds and samples; an arm under one seed knows "
            "nothing of training. An arrow with a number lies off the scale."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(
            table["metric"].nunique(), 3.4, 1.3 + 0.3 * table["arm"].nunique(), columns=table["metric"].nunique()
        ),
        alt=alt,
        arms=True,
    )
)
