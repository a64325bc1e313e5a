"""A study: metrics against gamma after the longest post-training, one curve a step count, with base and plain beside it."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.arms import labelled, studied
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import legend_below
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE, CONTROL, SWEPT
from slowflow.sweep.pooled import over_seeds

COLUMNS = ("arm", "metric", "length", "budget", "value", "low", "high", "n")


def data(result: RunResult) -> pd.DataFrame:
    """arm, gamma (NaN for base and plain), seed (-1 = over all seeds), seeds, metric, features, budget, value, low, high, n."""
    study = studied(result)
    longest = max(study.protocol["lengths"])
    every = over_seeds(study).assign(seed=-1)
    single = study.rows.assign(seeds=1)
    table = pd.concat([every, single], ignore_index=True)
    swept = (table["group"] == SWEPT) & (table["length"] == longest)
    beside = ((table["arm"] == CONTROL) & (table["length"] == longest)) | (table["arm"] == BASE)
    if not swept.any():
        raise InputError(f"{study.path} has no finished arm of a sweep over gamma at {longest} steps")
    kept = table[swept | beside][[*COLUMNS, "gamma", "seed", "seeds"]]
    return kept.assign(features=study.protocol["features"]).sort_values(["gamma", "seed"], kind="stable")


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A panel a metric; dots are single seeds, dashes plain post-training, dots the base, at the same step count."""
    budgets = sorted(table["budget"].unique().tolist())
    colour = dict(zip(budgets, seaborn.color_palette("crest", len(budgets)).as_hex(), strict=True))
    metrics = [m for m in ("fd", "density", "coverage", "agreement") if m in set(table["metric"])]
    for panel, metric in zip(axes, metrics, strict=True):
        group = table[table["metric"] == metric]
        for budget, part in group.groupby("budget"):
            shade, over = colour[int(str(budget))], part[part["seed"] == -1]
            line = over[over["gamma"].notna()]
            panel.fill_between(line["gamma"], line["low"], line["high"], color=shade, alpha=0.15, linewidth=0)
            panel.plot(line["gamma"], line["value"], color=shade, marker="o", markersize=5, label=f"{budget} steps")
            single = part[(part["seed"] >= 0) & part["gamma"].notna()]
            if len(single) > len(line):
                panel.plot(single["gamma"], single["value"], ".", color=shade, markersize=4, alpha=0.7)
            for arm, dash in ((CONTROL, "--"), (BASE, ":")):
                level = over.loc[over["arm"] == arm, "value"]
                if len(level):
                    panel.axhline(float(level.iloc[0]), color=shade, linestyle=dash, linewidth=1.3)
        panel.set(xlabel="γ, width of the slowed interval", ylabel=metric.replace("fd", "FD"), xlim=(-0.03, 1.03))
        panel.set_title(labelled(metric, str(group["features"].iloc[0])))
    axes[0].plot([], [], color="#555555", linestyle="--", linewidth=1.3, label="plain post-training")
    axes[0].plot([], [], color="#555555", linestyle=":", linewidth=1.3, label="base")
    legend_below(axes, 6)


def alt(table: pd.DataFrame) -> str:
    """Best gamma of the first metric at every step count."""
    over = table[(table["seed"] == -1) & table["gamma"].notna() & (table["metric"] == "fd")]
    best = over.loc[over.groupby("budget")["value"].idxmin()] if len(over) else over
    parts = [f"{int(row['budget'])} steps: γ = {row['gamma']:g} ({row['value']:.2f})" for _, row in best.iterrows()]
    return "Metrics against γ; lowest Frechet distance: " + "; ".join(parts) + "."


FIGURES.register("study-gamma", summary="a study: metrics against gamma, by step count", source="SlowFlow")(
    Figure(
        title="Which γ is best?",
        caption=(
            "MixFlow post-training with Beta(2,1) times after the longest post-training. Lines are means over seeds with "
            "95 % intervals over seeds and samples, small dots single seeds. Dashed: ordinary post-training of the same length; "
            "dotted: the base. γ = 0 is MixFlow's law of t without slowed inputs."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["metric"].nunique(), 4.4, 3.8, columns=2),
        alt=alt,
        arms=True,
    )
)
