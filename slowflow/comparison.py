"""compare: finished runs side by side, and what lies between them, with intervals that are paired wherever they can be.

Measurements and evaluations are paired by sample id, arms of a study by seed and sample id. Runs of unlike protocols are
refused, and the message names the field in which they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from slowflow.config import canonical, differences, plain_rows
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation, features_label, label
from slowflow.measuring.measurement import Measurement
from slowflow.records import Estimate
from slowflow.reporting.compared import CLEAR, difference_lines, regret_lines
from slowflow.results import Arm, RunResult, lag_changes
from slowflow.sweep import pooled
from slowflow.sweep.folder import BASE, CONTROL, SWEPT, StudyResult, is_study
from slowflow.sweep.regret import PAPER, regret_table, suggestions

OURS = ("arm", "metric", "steps", "nfe", "value", "low", "high", "n")
BETWEEN = (*OURS[:4], "against", *OURS[4:])
FREE = ("protocol.name", "protocol.seeds")
"""Fields in which studies may differ: they change what stands in a table, not what a number means."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        table: every number of every arm: arm, metric, steps, nfe, value, low, high, n (a study adds length and seeds).
        differences: arm minus `against`, paired, in the same columns.
        lag_change: change of the main lag from the first to the second of two measurements, in units of gamma, negative =
            smaller lag after; None where there are no two.
        regret: of the gammas that the measurement of a study's base suggests, and of the paper's fixed ones; None where no
            sweep over gamma is finished.
        measurements, evaluations: arm -> what was compared; empty for studies.
        labels: metric -> its printed name, with the features of its distances.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    lag_change: Estimate | None = None
    regret: pd.DataFrame | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict, repr=False)
    evaluations: dict[str, Evaluation] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def before(self) -> Measurement:
        """The first measurement."""
        return next(iter(self.measurements.values()))

    @property
    def after(self) -> Measurement:
        """The second measurement."""
        return list(self.measurements.values())[1]

    def __str__(self) -> str:
        lines = [*difference_lines(self.differences, self.labels), "", CLEAR]
        lines += regret_lines(self.regret, self.labels.get("fd", "FD"))
        if self.lag_change is not None:
            change = f"lag of {self.after.path} against {self.before.path}, in units of gamma: {self.lag_change}"
            lines = [f"{change} (negative = smaller)", *lines]
        return "\n".join(lines)


def compare(*runs: str | Path | Measurement | Evaluation | StudyResult, against: str | None = None) -> Comparison:
    """Compare finished runs of one protocol.

    Args:
        runs: measurements, evaluations, one whole run, or studies; folders or what was loaded from them.
        against: the arm the others are compared with; the first one, or `plain` in a study, when None.

    Raises:
        InputError: nothing to compare, kinds that do not go together, or unlike protocols: the message says in what.
    """
    studies = [found for run in runs if (found := _study(run)) is not None]
    if studies and len(studies) < len(runs):
        raise InputError("studies can be compared with studies only; leave the other runs out")
    if studies:
        return _of_studies(studies, against)
    paths = [run if isinstance(run, str | Path) else run.path for run in runs]
    return _of_runs(RunResult.load(*paths), against)


def _study(run: Any) -> StudyResult | None:
    if isinstance(run, str | Path):
        return StudyResult.load(run) if is_study(run) else None
    return run if isinstance(run, StudyResult) else None


def _of_runs(result: RunResult, against: str | None) -> Comparison:
    """Every arm against one of them."""
    if len(result.arms) < 2:
        raise InputError(f"{result.path} is one run; give at least two to compare")
    names = [arm.name for arm in result.arms]
    if against is not None and against not in names:
        raise InputError(f"there is no run '{against}' among {', '.join(names)}")
    first = result.arms[names.index(against)] if against else result.arms[0]
    _refuse_unlike(result.measurements)
    table = [row for arm in result.arms for row in (*_judged(result, arm), *_lags(result, arm))]
    between: list[dict[str, Any]] = []
    for arm in (arm for arm in result.arms if arm is not first):
        between += _judged_between(result, arm, first) + _lags_between(result, arm, first)
    if not between:
        raise InputError(f"{', '.join(names)} have nothing in common: compare measurements with measurements")
    measured = list(result.measurements.values())
    change = lag_changes(*measured)[measured[0].main_reference] if len(measured) == 2 else None
    return Comparison(
        pd.DataFrame(table, columns=list(OURS)),
        pd.DataFrame(between, columns=list(BETWEEN)),
        change,
        measurements=result.measurements,
        evaluations=result.evaluations,
        labels={metric: found.label(metric) for found in result.evaluations.values() for metric in found.metrics},
    )


def _refuse_unlike(measurements: dict[str, Measurement]) -> None:
    found = list(measurements.values())
    for other in found[1:]:
        mine, theirs = found[0].protocol(), other.protocol()
        unlike = [key for key in mine if key != "model" and mine[key] != theirs[key]]
        if unlike:
            raise InputError(f"the measurements differ in {unlike[0]}: {mine[unlike[0]]} and {theirs[unlike[0]]}")


def _judged(result: RunResult, arm: Arm) -> list[dict[str, Any]]:
    found = result.evaluations.get(arm.name)
    if found is None:
        return []
    return [
        _row(arm.name, metric, steps, found.facts["nfe"][str(steps)], found.estimate(metric, steps))
        for metric in found.metrics
        for steps in found.steps
    ]


def _lags(result: RunResult, arm: Arm) -> list[dict[str, Any]]:
    found = result.measurements.get(arm.name)
    if found is None:
        return []
    steps = found.steps[0]
    kept = {
        name: e
        for name, e in found.suggest().estimates.items()
        if name == "band" or "_exact" in name or "_genuine" in name
    }
    return [_row(arm.name, name, steps, found.facts["nfe"][str(steps)], e) for name, e in kept.items()]


def _judged_between(result: RunResult, arm: Arm, first: Arm) -> list[dict[str, Any]]:
    mine, theirs = result.evaluations.get(arm.name), result.evaluations.get(first.name)
    if mine is None or theirs is None:
        return []
    return [
        {**_row(arm.name, m, k, mine.facts["nfe"][str(k)], mine.difference(theirs, m, k)), "against": first.name}
        for m in mine.metrics
        if m in theirs.metrics
        for k in mine.steps
        if k in theirs.steps
    ]


def _lags_between(result: RunResult, arm: Arm, first: Arm) -> list[dict[str, Any]]:
    mine, theirs = result.measurements.get(arm.name), result.measurements.get(first.name)
    if mine is None or theirs is None:
        return []
    steps = mine.steps[0]
    return [
        {**_row(arm.name, f"lag ({name})", steps, mine.facts["nfe"][str(steps)], change), "against": first.name}
        for name, change in lag_changes(theirs, mine).items()
    ]


def _row(arm: str, metric: str, steps: int, nfe: int, found: Estimate) -> dict[str, Any]:
    return {"arm": arm, "metric": metric, "steps": steps, "nfe": nfe, **asdict(found)}


def _of_studies(studies: Sequence[StudyResult], against: str | None) -> Comparison:
    """The arms of one study, or of several with the same protocol."""
    for other in studies[1:]:
        lines = differences(_meaning(studies[0]), _meaning(other))
        if lines:
            raise InputError(f"{studies[0].path} and {other.path} differ in {lines[0]}")
    tables, between, costs = [], [], []
    for one in studies:
        prefix = "" if len(studies) == 1 else f"{one.protocol['name']}/"
        chosen = against or (CONTROL if CONTROL in one.arms else BASE)
        tables.append(_named(pooled.over_seeds(one), prefix))
        between.append(_named(pooled.differences(one, chosen), prefix))
        if _swept(one):
            costs.append(regret_table(one, suggestions(one)))
    regret = pd.concat(costs, ignore_index=True) if costs else None
    features = features_label(studies[0].protocol["features"])
    labels = {metric: label(metric, features) for metric in sorted(set(studies[0].rows["metric"]))}
    return Comparison(
        pd.concat(tables, ignore_index=True), pd.concat(between, ignore_index=True), regret=regret, labels=labels
    )


def _swept(study: StudyResult) -> bool:
    """True when at least one seed of a sweep that holds the paper's gammas is finished."""
    arms = study.rows[study.rows["group"] == SWEPT]
    had = arms.groupby("seed")["gamma"].nunique()
    return {*PAPER} <= set(arms["gamma"]) and bool((had == arms["gamma"].nunique()).any())


def _named(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    return table.assign(arm=prefix + table["arm"].astype(str)) if len(table) else table


def _meaning(study: StudyResult) -> dict[str, Any]:
    """What a number of a study depends on: its protocol and what that came to, without the arms."""
    return {"protocol": {k: v for k, v in study.protocol.items() if f"protocol.{k}" not in FREE}, **study.identity}


def answer(found: Comparison) -> dict[str, Any]:
    """The machine-readable answer of `slowflow compare --json`."""
    return {
        "table": plain_rows(found.table),
        "differences": plain_rows(found.differences),
        "lag_change": canonical(found.lag_change),
        "regret": None if found.regret is None else plain_rows(found.regret),
    }
