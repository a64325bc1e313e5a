"""Training curves: the loss of every arm, smoothed, and the held-out loss beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import GREEN, GREY, INK, PURPLE, ROLE, SKY, head, legend_below
from slowflow.results import RunResult

POINTS, STRETCH = 40, 5
"""Most points of a drawn curve, and the least steps that one is the mean of."""
MORE = (INK, GREEN, PURPLE, SKY, GREY)
"""Colours of arms without a role."""


def data(result: RunResult) -> pd.DataFrame:
    """arm, title, role, part (training, held out), step, loss, low, high (two standard errors of the mean)."""
    rows = []
    for arm in result.arms:
        history = result.trainings.get(arm.name)
        if history is None:
            continue
        known = {"arm": arm.name, "title": arm.title, "role": arm.role}
        steps, losses = np.array(history["loss"], dtype=float).T
        for part in np.array_split(np.arange(len(losses)), max(min(POINTS, len(losses) // STRETCH), 1)):
            mean = losses[part].mean()
            doubt = 2.0 * losses[part].std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else 0.0
            numbers = {"step": steps[part].mean(), "loss": mean, "low": mean - doubt, "high": mean + doubt}
            rows.append({**known, "part": "training", **numbers})
        for step, loss in history["validation"]:
            rows.append({**known, "part": "held out", "step": float(step), "loss": loss, "low": loss, "high": loss})
    if not rows:
        raise InputError(f"{result.path} holds no training; give the folder of a post-training or of a whole run")
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """Training loss left, held-out loss right where there is one; each on its own scale."""
    arms = list(dict.fromkeys(table["arm"]))
    spare = iter(MORE * len(arms))
    alone = table["role"].nunique() == 1
    colours = {
        str(arm): next(spare) if alone or str(g["role"].iloc[0]) not in ROLE else ROLE[str(g["role"].iloc[0])]
        for arm, g in table.groupby("arm", sort=False)
    }
    lengths = {str(arm): g["step"].max() for arm, g in table.groupby("arm", sort=False)}
    for panel, (part, group) in zip(axes, table.groupby("part", sort=False), strict=True):
        held = part == "held out"
        for arm, curve in group.groupby("arm", sort=False):
            role = str(curve["role"].iloc[0])
            longest = max(lengths[str(a)] for a in table[table["role"] == role]["arm"])
            style = "-" if lengths[str(arm)] == longest else "--"
            panel.fill_between(
                curve["step"], curve["low"], curve["high"], color=colours[str(arm)], alpha=0.15, linewidth=0
            )
            panel.plot(
                curve["step"],
                curve["loss"],
                color=colours[str(arm)],
                linestyle=style,
                label=curve["title"].iloc[0],
                marker="o" if held else None,
                markersize=5,
            )
        head(panel, str(part), "plain loss of the averaged weights" if held else "on the remedy's own inputs")
        panel.set(xlabel="step", ylabel="loss")
        panel.set_xlim(left=0)
        panel.margins(y=0.12)
    legend_below(axes)


def alt(table: pd.DataFrame) -> str:
    """First and last loss of each arm."""
    parts = []
    for (title, part), curve in table.groupby(["title", "part"], sort=False):
        parts.append(f"{title}, {part} {curve['loss'].iloc[0]:.4f} to {curve['loss'].iloc[-1]:.4f}")
    return "Loss from the first to the last point drawn: " + "; ".join(parts) + "."


FIGURES.register("training", summary="training and held-out loss by step, every arm", source="SlowFlow")(
    Figure(
        title="How did the training go?",
        caption=(
            "Left: the loss each arm was trained on, averaged over stretches of steps (bands: two standard errors). Levels of "
            "different remedies do not compare, because their inputs differ. Right: the same plain loss on held-out images "
            "for every arm; it compares, and rises when a network begins to memorise."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(table["part"].nunique(), 4.8, 3.6),
        alt=alt,
        arms=True,
    )
)
