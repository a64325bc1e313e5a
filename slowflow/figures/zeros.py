"""Where every reading has its zero: what it says of states that do not lag, in units of gamma.

A reading whose zero is not on the diagonal m = t calls genuine states, or a perfect model, slow or fast. That number is an
artefact of the reading; figures and reports show it beside what is left of this model above both nulls.
"""

from __future__ import annotations

from dataclasses import dataclass

from slowflow.measuring import gamma as gammas
from slowflow.measuring.bootstrap import LEVEL
from slowflow.measuring.estimators import Curves, Draws, quantile_edges, with_interval
from slowflow.measuring.slack import Slack, everyone
from slowflow.measuring.verdict import ZERO_ERROR, Lag, joint_level, lag
from slowflow.records import Estimate
from slowflow.results import RunResult

SHOWN = ("genuine", "exact", "coarse")


@dataclass(frozen=True)
class Zero:
    """What one reading says of states that do not lag, and of this model beside them; all in units of gamma.

    Args:
        reading: its name.
        raw: kind -> twice its mean slack, against the diagonal and no null.
        off: kinds whose raw slack is not zero, by more than ZERO_ERROR, at a level that holds for all readings together.
        artefact: a perfect model over genuine states; None where one of them was not measured.
        differs: True where that is not zero, in the same sense.
        lag: the model over every null, with the intervals of the verdict.
        heard: True where the verdict is read from it.
    """

    reading: str
    raw: dict[str, Estimate]
    off: set[str]
    artefact: Estimate | None
    differs: bool
    lag: Lag
    heard: bool


def zeros(result: RunResult) -> list[Zero]:
    """Every reading of the first measured arm, in the order measured."""
    heard, together = result.heard, joint_level(len(result.curves))
    levels = {name: joint_level(len(heard)) if name in heard else LEVEL for name in result.curves}
    found = []
    for name, one in result.curves.items():
        raw = {kind: _raw(result.raw_curves[name], kind, LEVEL) for kind in (result.subject, *SHOWN) if kind in one.n}
        off = {kind for kind in raw if _apart(_raw(result.raw_curves[name], kind, together))}
        both = {"exact", "genuine"} <= one.n.keys()
        artefact = one.excess("exact", "genuine") if both else None
        differs = both and _apart(one.excess("exact", "genuine", together))
        above = lag(one, result.subject, levels[name])
        found.append(Zero(name, raw, off, artefact, differs, above, name in heard))
    return found


def bands(result: RunResult) -> dict[str, Estimate]:
    """kind -> the band of its raw fan: how much of the paper's gamma states draw that do not lag."""
    kinds = result.measured.readings()[result.fit.band_reference]
    draws = Draws(int(result.measured.config["probe"]["seed"]))
    found = {}
    for kind in ("model", "genuine", "exact"):
        one = kinds.get(kind)
        if isinstance(one, Slack):
            value = quantile_edges(one, everyone(one), [gammas.BAND])[0, 0]
            resampled = quantile_edges(one, draws.of(kind, len(one)), [gammas.BAND])[0]
            found[kind] = with_interval(float(value), resampled, len(one))
    return found


def _raw(curves: Curves, kind: str, level: float) -> Estimate:
    """Twice the mean slack of a kind, no null taken off."""
    value, resampled = (2.0 * parts[kind] @ curves.weight for parts in (curves.mean, curves.resampled))
    return with_interval(float(value), resampled, curves.n[kind], level)


def _apart(one: Estimate) -> bool:
    return one.excludes(0.0) and abs(one.value) > ZERO_ERROR
