"""Tables of a study over its seeds: numbers, and differences against one arm on the same seeds and sample ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from slowflow.errors import InputError
from slowflow.sweep.folder import CONTROL, StudyResult
from slowflow.sweep.intervals import LEVEL, intervals

WHERE = ["length", "budget", "metric"]
ABOUT = ["arm", "group", "gamma"]
SHARES = ("coverage", "agreement")
FOUND = ["seeds", "value", "low", "high", "n"]


@dataclass(frozen=True)
class _Numbers:
    """One arm at one setting: what stands in its row, its number under every seed, and what samples alone do to it."""

    row: dict[str, Any]
    values: np.ndarray
    inside: float
    n: int


def over_seeds(result: StudyResult) -> pd.DataFrame:
    """One row an arm, length, budget and metric: value, low, high, n, seeds, steps, nfe, and the arm's `longest` length."""
    found = []
    for key, group in result.rows.groupby(["arm", *WHERE], sort=False):
        arm, length, budget, metric = _place(key)
        draws = [result.draws(arm, int(seed), metric, length, budget) for seed in group["seed"]]
        row = {name: group.iloc[0][name] for name in (*ABOUT, *WHERE, "steps", "nfe")}
        found.append(_Numbers(row, group["value"].to_numpy(), _variance(draws), int(group["n"].iloc[0])))
    table = _table(found, WHERE)
    # no metric is below zero, and shares are not above one
    table["low"] = table["low"].clip(lower=0.0)
    table["high"] = table["high"].where(~table["metric"].isin(SHARES), table["high"].clip(upper=1.0))
    return table.assign(longest=table.groupby("arm")["length"].transform("max"))


def at_longest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of every arm after its own longest training."""
    return table[table["length"] == table.groupby("arm")["length"].transform("max")]


def differences(result: StudyResult, against: str = CONTROL) -> pd.DataFrame:
    """Every arm minus the arm `against`, on the seeds both have, paired by seed and sample id.

    A number at a length is compared with `against` at the same length; an untrained arm has one length, 0, which every
    length is compared with.

    Raises:
        InputError: the study has no such arm.
    """
    if against not in result.arms:
        raise InputError(f"{result.path} has no finished arm '{against}' (it has {', '.join(result.arms)})")
    return result.once(f"differences from {against}", lambda: _differences(result, against))


def _differences(result: StudyResult, against: str) -> pd.DataFrame:
    theirs = result.rows[result.rows["arm"] == against]
    base = {tuple(row[:-1]): row[-1] for row in theirs[["seed", *WHERE, "value"]].itertuples(index=False)}
    untrained = set(theirs["length"]) == {0}
    found = []
    for key, group in result.rows.groupby(["arm", *WHERE], sort=False):
        arm, length, budget, metric = _place(key)
        at = 0 if untrained else length
        group = group[[(seed, at, budget, metric) in base for seed in group["seed"]]]
        if arm == against or group.empty:
            continue
        seeds = [int(seed) for seed in group["seed"]]
        other = np.array([base[seed, at, budget, metric] for seed in seeds])
        draws = [
            result.draws(arm, seed, metric, length, budget) - result.draws(against, seed, metric, at, budget)
            for seed in seeds
        ]
        row = {name: group.iloc[0][name] for name in (*ABOUT, *WHERE, "steps", "nfe")} | {"against": against}
        found.append(_Numbers(row, group["value"].to_numpy() - other, _variance(draws), int(group["n"].iloc[0])))
    return _table(found, WHERE, [*ABOUT, *WHERE, "steps", "nfe", "against"])


def gain_by_steps(result: StudyResult, metric: str = "fd", control: str = CONTROL) -> pd.DataFrame:
    """Does the gain over the control grow with fewer steps? log(arm / control) at the fewest steps minus that at the most.

    Ratios, because a metric is larger at fewer steps for every arm alike. Negative: the arm gains more at fewer steps (for a
    metric where lower is better). One row an arm of a sweep and length: `few` and `budget` are the two step counts.
    """
    budgets = [int(b) for b in (min(result.rows["budget"]), max(result.rows["budget"]))]
    rows = result.rows[(result.rows["metric"] == metric) & result.rows["gamma"].notna()]
    known = result.rows.set_index(["arm", "seed", "length", "metric", "budget"])["value"].to_dict()
    found = []
    for _, group in rows.groupby(["arm", "length"], sort=False):
        arm, length = str(group["arm"].iloc[0]), int(group["length"].iloc[0])
        seeds = [
            int(s) for s in group["seed"].unique() if all((control, s, length, metric, b) in known for b in budgets)
        ]
        if not seeds:
            continue
        signed = [(weight, name, b) for weight, b in zip((1, -1), budgets, strict=True) for name in (arm, control)]
        turned = [(weight * (1 if name == arm else -1), name, b) for weight, name, b in signed]
        values = [sum(w * np.log(known[name, s, length, metric, b]) for w, name, b in turned) for s in seeds]
        # to first order: a draw of a small distance may lie below zero, where there is no logarithm
        draws = [
            sum(
                w * result.draws(name, s, metric, length, b) / known[name, s, length, metric, b]
                for w, name, b in turned
            )
            for s in seeds
        ]
        row = {name: group.iloc[0][name] for name in ABOUT} | {"metric": metric, "length": length}
        row |= {"few": budgets[0], "budget": budgets[1]}
        found.append(_Numbers(row, np.array(values), _variance(draws), int(group["n"].iloc[0])))
    return _table(found, ["length"], [*ABOUT, "metric", "length", "few", "budget"])


def lags_over_seeds(result: StudyResult) -> pd.DataFrame:
    """The lag of measured arms over seeds: arm, group, gamma, length, kind, reading, seeds, value, low, high, n.

    `length` is the arm's last one, which an arm with `until` reaches sooner than others; only arms of one length share what
    is known of training's spread. Every seed is measured on the same noise and ids, which therefore do not average out.
    """
    found, about = [], [*ABOUT, "length", "kind", "reading"]
    for _, group in result.lags.groupby(["arm", "length", "kind", "reading"], sort=False):
        deviation = (group["high"] - group["low"]) / 2.0 / stats.norm.ppf(0.5 + LEVEL / 2.0)
        row = {name: group[name].iloc[0] for name in about}
        # the base is measured once and stands under every seed: seeds that agree exactly are one
        values = group["value"].to_numpy()
        values = values[:1] if np.ptp(values) == 0.0 else values
        found.append(_Numbers(row, values, float((deviation**2).mean()), int(group["n"].iloc[0])))
    return _table(found, ["length", "kind", "reading"], about, shared=True)


def common_length(result: StudyResult) -> int:
    """The longest length that every trained arm has reached: where all of them can be compared.

    An arm that diverged does not count unless all did. Raises InputError where no trained arm is finished.
    """
    reached: dict[str, int] = {}
    for whole in (True, False):
        for cell in result.cells:
            last = max((row["length"] for row in cell["rows"]), default=0)
            if last and (cell["failed"] is None) is whole:
                reached[cell["arm"]] = max(reached.get(cell["arm"], 0), last)
        if reached:
            return min(reached.values())
    raise InputError(f"{result.path} has no trained arm that is finished yet; repeat the command that made it")


def _variance(draws: list[np.ndarray]) -> float:
    return float(np.mean([np.var(one, ddof=1) for one in draws]))


def _table(
    found: Iterable[_Numbers], together: list[str], columns: list[str] | None = None, *, shared: bool = False
) -> pd.DataFrame:
    """One row each, with intervals; arms that agree in the columns `together` share what is known of training's spread.
    `shared`: all seeds were judged on the same samples."""
    rows = list(found)
    settings: dict[tuple[Any, ...], list[_Numbers]] = {}
    for one in rows:
        settings.setdefault(tuple(one.row[name] for name in together), []).append(one)
    filled: dict[int, dict[str, Any]] = {}
    for group in settings.values():
        numbers = ([o.values for o in group], [o.inside for o in group], [o.n for o in group])
        estimates = intervals(*numbers, shared=shared)
        for one, estimate in zip(group, estimates, strict=True):
            filled[id(one)] = {**one.row, "seeds": len(one.values), **asdict(estimate)}
    names = columns or [*ABOUT, *WHERE, "steps", "nfe"]
    return pd.DataFrame([filled[id(one)] for one in rows], columns=[*names, *FOUND])


def _place(key: Any) -> tuple[str, int, int, str]:
    arm, length, budget, metric = key
    return str(arm), int(length), int(budget), str(metric)
