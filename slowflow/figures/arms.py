"""Arms of a study on paper: colour by gamma, ink for the base, blue for ordinary post-training, and what a study must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from slowflow.errors import InputError
from slowflow.evaluating.evaluation import features_label, label
from slowflow.figures.style import BLUE, GREEN, INK, PURPLE, SKY, note
from slowflow.records import HIGHER_IS_BETTER
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE, CONTROL, SWEPT, StudyResult

OTHERS = (GREEN, PURPLE, SKY, "#B8860B", "#7F3C8D", "#8C564B")
CROWDED = "#cfcfcf"
CROWD = "other arms (study-remedies names them)"


def studied(result: RunResult) -> StudyResult:
    """The study behind a result.

    Raises:
        InputError: it is none.
    """
    if result.study is None:
        raise InputError(f"{result.path} is no study")
    return result.study


def colours(table: pd.DataFrame) -> dict[str, str]:
    """arm -> colour: the sweep from light to dark with gamma, the base in ink, plain in blue, others as they come; all of
    those in grey where they are too many to tell apart."""
    swept = table[table["group"] == SWEPT][["arm", "gamma"]].drop_duplicates().sort_values("gamma")["arm"]
    found = dict(zip(swept, seaborn.color_palette("flare", max(len(swept), 1)).as_hex(), strict=False))
    found |= {BASE: INK, CONTROL: BLUE}
    rest = [arm for arm in table["arm"].unique() if arm not in found]
    if len(rest) > len(OTHERS):
        return found | dict.fromkeys(rest, CROWDED)
    return found | dict(zip(rest, OTHERS, strict=False))


def titled(arm: str, group: str, gamma: float) -> str:
    """An arm in words."""
    names = {BASE: "base, no post-training", CONTROL: "plain post-training"}
    return f"MixFlow, γ = {gamma:g}" if group == SWEPT else names.get(arm, arm)


def line(arm: str, part: pd.DataFrame, colour: dict[str, str]) -> dict[str, Any]:
    """How an arm's curve is drawn: dashed outside the sweep and its controls, behind the others where it is one of a crowd."""
    group, shade = str(part["group"].iloc[0]), colour[arm]
    crowd = shade == CROWDED
    return {
        "color": shade, "zorder": 2 - crowd, "marker": "o", "markersize": 4,
        "linestyle": "-" if arm in (BASE, CONTROL) or group == SWEPT else "--",
        "label": CROWD if crowd else titled(arm, group, float(part["gamma"].iloc[0])),
    }  # fmt: skip


def at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """The first metric at the most steps: what a sentence about a figure says."""
    return table[(table["metric"] == table["metric"].iloc[0]) & (table["budget"] == table["budget"].max())]


def labelled(metric: str, features: str) -> str:
    """A metric in words, with the direction that is better."""
    return f"{label(metric, features_label(features))}, {'higher' if HIGHER_IS_BETTER[metric] else 'lower'} is better"


def log_ticks(panel: Axes, values: list[int]) -> None:
    """A logarithmic axis with a tick at every value that occurs."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator([float(v) for v in values]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(values, [f"{v:,}" for v in values])


def window(values: pd.Series) -> tuple[float, float] | None:
    """What an axis shows where a few numbers lie so far off that the others could not be told apart; None where none does.

    Ten numbers or more: from one and a half spans of the middle 80 % below them to as much above.
    """
    found = values.dropna().to_numpy(dtype=np.float64)
    if len(found) < 10:
        return None
    low, high = np.quantile(found, [0.1, 0.9])
    ends = low - 1.5 * (high - low), high + 1.5 * (high - low)
    if ends[0] <= found.min() and found.max() <= ends[1]:
        return None
    inside = found[(found >= ends[0]) & (found <= ends[1])]
    pad = 0.15 * float(np.ptp(inside))
    return float(inside.min()) - pad, float(inside.max()) + pad


def off_the_scale(panel: Axes, table: pd.DataFrame) -> None:
    """The y axis of `window`, and in the corner which arms leave it."""
    shown = window(table["value"])
    if shown is None:
        return
    gone = table[(table["value"] < shown[0]) | (table["value"] > shown[1])]["arm"].unique()
    if not len(gone):
        return
    panel.set_ylim(*shown)
    said = str(gone[0]) if len(gone) == 1 else f"{len(gone)} arms" if len(gone) > 2 else f"{gone[0]}, {gone[1]}"
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    note(panel, f"off the scale: {said}", 0.99, 0.99, ha="right", va="top", fontsize=8, bbox=behind)


def in_rows(panel: Axes, table: pd.DataFrame, place: Callable[[Any], float], shade: Callable[[Any], str]) -> None:
    """Every row of the table on a line of its own, at `place` in the colour `shade` of it, on the scale of `window`."""
    shown = window(table["value"])
    for row in table.to_dict("records"):
        _point(panel, row, place(row), shade(row), shown)
    if shown is not None:
        panel.set_xlim(*shown)


def _point(panel: Axes, row: Mapping[Any, Any], y: float, shade: str, shown: tuple[float, float] | None) -> None:
    """value, low and high of a row on a line of its own; an arrow with the number where it lies off the scale."""
    value = float(row["value"])
    if shown is None or shown[0] <= value <= shown[1]:
        panel.hlines(y, row["low"], row["high"], color=shade, linewidth=1.9)
        panel.plot(value, y, "o", color=shade, markersize=5)
        return
    right = value > shown[1]
    edge = shown[right] + (shown[1] - shown[0]) * (-0.01 if right else 0.01)
    panel.plot(edge, y, ">" if right else "<", color=shade, markersize=5)
    number = f"{value:+,.0f}" if abs(value) >= 10 else f"{value:+.2f}"
    panel.annotate(
        number, (edge, y), xytext=(-6 if right else 6, 0), textcoords="offset points", color=shade, fontsize=8,
        ha="right" if right else "left", va="center",
    )  # fmt: skip


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Base, plain, the sweep by gamma, then the others as they come."""
    first = {BASE: 0, CONTROL: 1}
    rank = [first.get(a, 2 if g == SWEPT else 3) for a, g in zip(table["arm"], table["group"], strict=True)]
    return table.assign(rank=rank).sort_values(["rank", "gamma"], kind="stable").drop(columns="rank")
