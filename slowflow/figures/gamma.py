"""Every estimate of gamma with its interval, grouped by what it is read from."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text

from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, number
from slowflow.measuring.named import grouped, headings, taken
from slowflow.results import RunResult

COLOUR = {"raw": GREY, "excess": BLUE, "signal": PURPLE, "noise": GREEN}


def data(result: RunResult) -> pd.DataFrame:
    """name, family, group, meaning, value, low, high, chosen; in reading order."""
    fit, groups = result.fit, headings(result.fit)
    rows = []
    for family, found in grouped(fit.estimates).items():
        for name, meaning, one in found:
            same = {"name": name, "family": family, "group": groups[family], "meaning": meaning}
            rows.append({**same, "value": one.value, "low": one.low, "high": one.high, "chosen": name == taken(fit)})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A dot and a bar an estimate, under the name of its group; the one that is taken in orange."""
    panel = axes[0]
    labels: list[str] = []
    panel.axvline(0.0, color=INK, linewidth=1.0)
    for group, part in table.groupby("group", sort=False):
        labels.append(str(group))
        for row in part.to_dict("records"):
            y, colour = len(labels), ORANGE if row["chosen"] else COLOUR[row["family"]]
            panel.hlines(y, row["low"], row["high"], color=colour, linewidth=4, alpha=0.45)
            panel.plot([row["value"]], [y], "o", color=colour)
            text = f"{number(row['value'])}  [{number(row['low'])}, {number(row['high'])}]"
            panel.annotate(
                text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=9.5, annotation_clip=False
            )
            labels.append(row["meaning"])
    panel.set_yticks(range(len(labels)), labels)
    for tick in panel.yaxis.get_ticklabels():
        if isinstance(tick, Text) and tick.get_text() in set(table["group"]):
            tick.set_fontweight("bold")
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=6)  # long labels with signs run into each other
    panel.grid(axis="y", visible=False)
    panel.set(ylim=(len(labels) - 0.3, -0.7), xlabel="gamma, the width of [(1 − γ) t, t]; below zero: fast")


def alt(table: pd.DataFrame) -> str:
    """All values."""
    parts = [f"{r.group}, {r.meaning} {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.itertuples()]
    return "Estimates of gamma with 95 % intervals: " + "; ".join(parts) + "."


FIGURES.register("gamma", summary="every estimate of gamma with its interval", source="SlowFlow")(
    Figure(
        title="Which gamma follows?",
        caption=(
            "Two kinds of gamma that answer different questions. The raw fan (grey) is how wide a mixture the paper's recipe "
            "would use, and contains what a perfect model draws too. An excess is what is left above a null, and says how much "
            "exposure bias there is; the two clocks read it from data and from noise apart. Only values whose bars keep "
            "clear of zero over genuine states and over a perfect model are a lag. Orange is what suggest takes, where that is "
            "one of these."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(1, 9.4, 1.0 + 0.31 * (len(table) + table["group"].nunique())),
        alt=alt,
    )
)
