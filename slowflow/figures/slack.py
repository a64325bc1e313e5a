"""The distribution of slack (t - m)/t at a few times, model beside genuine states."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes

from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed
from slowflow.figures.style import INK, KIND, KIND_NAME, PALE, legend_below
from slowflow.results import RunResult

TIMES = (0.3, 0.5, 0.7, 0.85, 0.95)


def data(result: RunResult) -> pd.DataFrame:
    """reading, kind, t, slack: one row a sample at each of a few times."""
    found = result.measured
    frames = []
    for reading in found.singles:
        for kind in [k for k in found.kinds() if k in ("model", "genuine")]:
            slack = found.slack(reading)[kind]
            for column in sorted({int(np.argmin(np.abs(slack.t - t))) for t in TIMES}):
                part = {"t": round(float(slack.t[column]), 3), "slack": slack.r[:, column]}
                frames.append(pd.DataFrame(part).assign(reading=reading, kind=kind))
    return pd.concat(frames, ignore_index=True)[["reading", "kind", "t", "slack"]]


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """Split violins, quartiles inside; one panel a reading."""
    names = {kind: KIND_NAME[kind] for kind in ("genuine", "model")}
    palette = {names["genuine"]: PALE, names["model"]: KIND["model"]}
    for panel, (reading, group) in zip(axes, table.groupby("reading", sort=False), strict=True):
        seaborn.violinplot(
            group.assign(kind=group["kind"].map(names)),
            x="t",
            y="slack",
            hue="kind",
            hue_order=[n for k, n in names.items() if k in set(group["kind"])],
            palette=palette,
            split=True,
            inner="quart",
            cut=0,
            gridsize=50,
            linewidth=0.8,
            density_norm="width",
            ax=panel,
        )
        panel.axhline(0.0, color=INK, linewidth=0.9)
        headed(panel, str(reading))
        panel.set(xlabel="sampling time t", ylabel="slack (t − m) / t")
        legend = panel.get_legend()
        if legend is not None:
            legend.remove()
    legend_below(axes)


def alt(table: pd.DataFrame) -> str:
    """Medians at the last time."""
    last = table[table["t"] == table["t"].max()]
    medians = last.groupby(["reading", "kind"], sort=False)["slack"].median().reset_index()
    parts = [f"{r['reading']}, {KIND_NAME[r['kind']]} {r['slack']:+.3f}" for r in medians.to_dict("records")]
    return f"Distributions of slack; medians at t = {table['t'].max():.2f}: " + "; ".join(parts) + "."


FIGURES.register("slack", summary="distribution of slack (t - m)/t, model beside genuine states", source="SlowFlow")(
    Figure(
        title="How does slack spread over samples?",
        caption=(
            "Slack (t − m)/t of single states, above zero = slow, at a few times. The paper's model of slack is uniform between "
            "0 and gamma; grey shows how much of the spread genuine states have too, which is the error of the instrument."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["reading"].nunique(), 4.0, 3.7),
        alt=alt,
    )
)
