"""Quality against network calls, one curve an arm: fidelity and coverage apart."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from slowflow.errors import InputError
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import INK, ROLE, legend_below
from slowflow.results import RunResult

UNKNOWN = 0.5
"""Where samples stand of which nobody recorded the calls."""


def data(result: RunResult) -> pd.DataFrame:
    """arm, title, role, metric, label, nfe, steps, value, low, high."""
    if not result.evaluations:
        raise InputError(f"{result.path} holds no evaluation")
    rows = []
    for arm in result.arms:
        if arm.name not in result.evaluations:
            continue
        found = result.evaluations[arm.name]
        for metric in found.metrics:
            for steps in found.steps:
                estimate = found.estimate(metric, steps)
                rows.append(
                    {
                        "arm": arm.name,
                        "title": arm.title,
                        "role": arm.role,
                        "metric": metric,
                        "label": found.label(metric),
                        "nfe": found.facts["nfe"][str(steps)],
                        "steps": steps,
                        "value": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                    }
                )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a metric, logarithmic in network calls; arms are set a little apart so that intervals stay readable."""
    for panel, (metric, group) in zip(axes, table.groupby("metric", sort=False), strict=True):
        seen: set[str] = set()
        for number, (_, part) in enumerate(group.groupby("arm", sort=False)):
            role = str(part["role"].iloc[0])
            style = "--" if role in seen else "-"
            seen.add(role)
            x = part["nfe"].clip(lower=UNKNOWN) * 1.03 ** (number - 1)
            panel.plot(
                x,
                part["value"],
                color=ROLE.get(role, INK),
                linestyle=style,
                marker="o",
                markersize=4,
                label=part["title"].iloc[0],
            )
            panel.vlines(x, part["low"], part["high"], color=ROLE.get(role, INK), linewidth=1.1, alpha=0.7)
        calls = sorted(group["nfe"].unique())
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(FixedLocator([max(c, UNKNOWN) for c in calls]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks([max(c, UNKNOWN) for c in calls], [str(c) if c else "not recorded" for c in calls])
        better = "higher is better" if HIGHER_IS_BETTER[str(metric)] else "lower is better"
        panel.set(xlabel="network calls a sample", title=f"{group['label'].iloc[0]}  ({better})")
    legend_below(axes[0])


def alt(table: pd.DataFrame) -> str:
    """Every metric at the largest number of calls."""
    last = table[table["nfe"] == table["nfe"].max()]
    parts = [f"{row['title']} {row['label']} {row['value']:.2f}" for _, row in last.iterrows()]
    calls = int(table["nfe"].max())
    return f"Quality at {calls or 'an unrecorded number of'} network calls: " + "; ".join(parts) + "."


FIGURES.register(
    "quality", summary="metrics against network calls, by arm", source="Heusel et al. 2017; Naeem et al. 2020"
)(
    Figure(
        title="Are the samples better?",
        caption=(
            "The same noise for every arm, against held-out images, equal n on both sides; bars are 95 % intervals over "
            "samples. The Frechet distance mixes everything; density reads fidelity, coverage reads diversity, agreement "
            "asks a classifier trained on real images whether a sample shows its label."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["metric"].nunique(), 3.9, 3.8),
        alt=alt,
        arms=True,
    )
)
