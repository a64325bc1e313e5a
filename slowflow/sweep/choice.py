"""Which gamma `auto` takes: a rule on the regret that studies have measured, and the numbers behind it.

Candidates are the gammas that the base's measurement suggests (band, excess), the paper's fixed ones, and the gamma that was
best after a shorter training (what a pilot finds). One of them replaces the band when

    enough    at least STUDIES studies have a whole sweep (every gamma they planned) under at least SEEDS seeds
    no worse  in none of them, at no step count, is its metric clearly above the band's after the longest training
    better    in each of them it is clearly below the band's at one step count or more

and the one with the lowest mean ratio to the band is taken; a pilot, which trains, only where nothing else passes. Clearly:
the 95 % interval of the difference excludes zero. The difference of two given gammas holds no best of anything, so the
winner's curse does not enter; regret against the best of the sweep stands beside it for people (`regret.py`). Until some
candidate passes, the band stays. What no correction costs stands in the table as well and is no candidate: `auto` takes a
gamma for whoever wants one, the verdict says whether one is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slowflow.errors import InputError
from slowflow.records import BEST_AFTER
from slowflow.sweep.folder import CONTROL, SWEPT, StudyResult
from slowflow.sweep.grid import Sweep, sweep_of
from slowflow.sweep.pooled import differences
from slowflow.sweep.regret import PAPER, UNCORRECTED, against, regret, suggestions, uncorrected

STUDIES, SEEDS = 2, 2
BAND = "band"


@dataclass(frozen=True)
class Choice:
    """What `auto` takes.

    Args:
        method: band, excess, fixed 0.8, fixed 0.4, or best after N (a pilot).
        why: one sentence.
        table: behind it, as `evidence` has it.
    """

    method: str
    why: str
    table: pd.DataFrame


def evidence(study: StudyResult, metric: str = "fd") -> pd.DataFrame:
    """Candidates at every step count after the longest training; empty where no sweep or no band is there.

    Returns:
        study, seeds, planned, gammas, whole, length, budget, method, gamma, best, at_best, value, low, high (against the band),
        ratio, regret, regret_low, regret_high, within_noise, over_plain, over_plain_low, over_plain_high (against plain training;
        not there where that is not finished). `at_best` is the metric at the best gamma of the sweep, `whole` says that no
        planned gamma is missing.
    """
    suggested = suggestions(study)
    swept = study.rows[(study.rows["group"] == SWEPT) & (study.rows["metric"] == metric)]
    if swept.empty or BAND not in suggested:
        return pd.DataFrame()
    length, rows = int(swept["length"].max()), []
    for budget in sorted(set(swept["budget"])):
        try:
            sweep = sweep_of(study, metric, length, int(budget))
            early = {n: sweep_of(study, metric, n, int(budget)) for n in sorted(set(swept["length"]) - {length})}
        except InputError:
            continue  # not swept yet
        if not sweep.holds(suggested[BAND]):
            continue  # nothing to compare with yet
        where = (metric, length, int(budget))
        beside = uncorrected(study, *where)
        for method, gamma in _candidates(suggested, early).items():
            if sweep.holds(gamma):
                row = _row(study, sweep, where, method, gamma, suggested[BAND])
                rows.append(row | _over_plain(study, beside, where, gamma))
        if beside is not None:
            rows.append(_row(study, beside, where, UNCORRECTED, None, suggested[BAND]))
    return pd.DataFrame(rows)


def _over_plain(
    study: StudyResult, beside: Sweep | None, where: tuple[str, int, int], gamma: float
) -> dict[str, float]:
    """The gamma against plain training of the same length; nothing where that is not finished.

    An arm's difference is that of every other table, with its interval; between two arms it is read off the sweep.
    """
    if beside is None:
        return {}
    table = differences(study, CONTROL)
    here = (table[["metric", "length", "budget"]] == list(where)).all(axis=1)
    arm = table[here & (table["group"] == SWEPT) & (table["gamma"] == gamma)]
    if len(arm):
        value, low, high = arm.iloc[0][["value", "low", "high"]]
    else:
        found = against(beside, gamma, None)
        value, low, high = found.value, found.low, found.high
    return {"over_plain": value, "over_plain_low": low, "over_plain_high": high}


def _candidates(suggested: dict[str, float], early: dict[int, Sweep]) -> dict[str, float]:
    pilots = {f"{BEST_AFTER}{n}": float(one.gammas[one.best]) for n, one in early.items()}
    return {**suggested, **{f"fixed {gamma:g}": gamma for gamma in PAPER}, **pilots}


def _row(
    study: StudyResult, sweep: Sweep, where: tuple[str, int, int], method: str, gamma: float | None, band: float
) -> dict[str, object]:
    apart, cost = against(sweep, gamma, band), regret(sweep, gamma)
    level = [abs(float(sweep.weights(g) @ sweep.mean)) for g in (gamma, band)]
    return {
        "study": study.protocol["name"], "seeds": sweep.seeds, "planned": len(study.protocol["seeds"]),
        "gammas": len(sweep.gammas), "whole": _planned(study) <= set(study.arms),
        "length": where[1], "budget": where[2], "method": method,
        "gamma": gamma, "best": cost.best, "at_best": sweep.sign * float(sweep.mean[sweep.best]),
        "value": apart.value, "low": apart.low, "high": apart.high, "ratio": level[0] / max(level[1], 1e-12),
        "regret": cost.value.value, "regret_low": cost.value.low, "regret_high": cost.value.high,
        "within_noise": cost.within_noise,
    }  # fmt: skip


def _planned(study: StudyResult) -> set[str]:
    """Arms of the sweep that the study is to have: the swept group's name and a gamma."""
    return {arm for arm, _ in study.plan if re.fullmatch(rf"{SWEPT}-[0-9.]+", arm)}


def choose(studies: Sequence[StudyResult] | pd.DataFrame, metric: str = "fd") -> Choice:
    """Which estimator the studies support.

    Args:
        studies: read back, or their rows from `evidence`.
        metric: what is judged.
    """
    if isinstance(studies, pd.DataFrame):
        table = studies
    else:
        found = [one for study in studies if len(one := evidence(study, metric))]
        table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    ripe = table[(table["seeds"] >= SEEDS) & table["whole"]] if len(table) else table
    count = ripe["study"].nunique() if len(ripe) else 0
    if count < STUDIES:
        why = f"the band until {STUDIES} studies have a whole sweep under {SEEDS} seeds or more ({count} so far)"
        return Choice(BAND, why, table)
    passed = {}
    for method, rows in ripe[~ripe["method"].isin([BAND, UNCORRECTED])].groupby("method"):
        everywhere = rows["study"].nunique() == count
        if everywhere and (rows["low"] <= 0.0).all() and (rows.groupby("study")["high"].min() < 0.0).all():
            passed[str(method)] = float(np.exp(np.log(rows["ratio"]).mean()))
    if not passed:
        why = (
            f"the band, because no other gamma was clearly better in each of {count} studies and clearly worse in none"
        )
        return Choice(BAND, why, table)
    best = min(passed, key=lambda name: (name.startswith(BEST_AFTER), passed[name]))
    why = f"{_called(best)}, because it was clearly better than the band in each of {count} studies, x{passed[best]:.2f} on average"
    return Choice(best, why, table)


def _called(method: str) -> str:
    """A method in words that need no table."""
    return f"a pilot, the gamma that was {method} steps" if method.startswith(BEST_AFTER) else method
