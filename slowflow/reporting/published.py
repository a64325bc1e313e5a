"""The user's numbers beside the published ones they may be put beside, and in what the protocols differ."""

from __future__ import annotations

from dataclasses import dataclass

from slowflow.evaluating.evaluation import label
from slowflow.published import Beside, beside
from slowflow.records import HIGHER_IS_BETTER
from slowflow.reporting import text
from slowflow.results import RunResult


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        who: an arm of the user's, or table, model and method of a published row.
        settings: of its protocol, as far as they are stated.
        cells: a number a metric; a published one has no interval, because none was published.
        differences: between its protocol and the user's; empty for the user's own.
        source: where it was read, and how surely; empty for the user's own.
        own: made by the user.
    """

    who: str
    settings: str
    cells: list[str]
    differences: str
    source: str
    own: bool


@dataclass(frozen=True)
class Table:
    """Metrics by their printed names, and lines: the user's first."""

    metrics: list[str]
    lines: list[Line]


def table(result: RunResult, model: str | None = None) -> Table | None:
    """The nearest published rows of every arm at the step count the page speaks of; None where no table is about such numbers.

    Args:
        result: what is shown.
        model: the published model that is meant, where the checkpoint's name does not tell.

    Raises:
        InputError: no published model of that name.
    """
    arms = [arm for arm in result.arms if arm.name in result.evaluations]
    if not arms:
        return None
    steps, found = text.main_steps(result), dict[str, Beside]()
    for arm in arms:
        for near in beside(result.evaluations[arm.name].protocol(steps), model=model):
            found.setdefault(f"{near.row.name} {near.row.settings}", near)
    if not found:
        return None
    known = {metric for near in found.values() for metric in near.row.metrics}
    metrics = [m for m in HIGHER_IS_BETTER if m in known and m in result.evaluations[arms[0].name].all_metrics]
    lines = []
    for arm in arms:
        mine = result.evaluations[arm.name]
        cells = [text.plain(mine.estimate(m, steps), 2) if m in mine.all_metrics else "–" for m in metrics]
        lines.append(Line(arm.title, text.settings(mine.protocol(steps)), cells, "", "", own=True))
    lines += [_published(near, metrics) for near in found.values()]
    return Table([label(m, "FID") for m in metrics], lines)


def _published(near: Beside, metrics: list[str]) -> Line:
    row = near.row
    cells = [f"{row.metrics[m]:g}" if m in row.metrics else "–" for m in metrics]
    source = f"{row.table.source} ({row.table.certainty})"
    return Line(row.name, row.settings, cells, "; ".join(near.differences) or "none that is stated", source, own=False)
