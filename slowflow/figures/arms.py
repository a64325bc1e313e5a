"""Arms of a study on paper: colour by gamma, ink for the base, blue for ordinary post-training, and what a study must hold."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from slowflow.errors import InputError
from slowflow.evaluating.evaluation import features_label, label
from slowflow.figures.style import BLUE, GREEN, INK, PURPLE, SKY
from slowflow.records import HIGHER_IS_BETTER
from slowflow.results import RunResult
from slowflow.sweep.folder import BASE, CONTROL, StudyResult

SWEPT = "mixflow"
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


def labelled(metric: str, features: str) -> str:
    """A metric in words, with the direction that is better."""
    return f"{label(metric, features_label(features))}, {'higher' if HIGHER_IS_BETTER[metric] else 'lower'} is better"


def log_ticks(panel: Axes, values: list[int]) -> None:
    """A logarithmic axis with a tick at every value that occurs."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator([float(v) for v in values]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(values, [f"{v:,}" for v in values])


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Base, plain, the sweep by gamma, then the others as they come."""
    first = {BASE: 0, CONTROL: 1}
    rank = [first.get(a, 2 if g == SWEPT else 3) for a, g in zip(table["arm"], table["group"], strict=True)]
    return table.assign(rank=rank).sort_values(["rank", "gamma"], kind="stable").drop(columns="rank")
