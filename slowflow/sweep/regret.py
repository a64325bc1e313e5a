"""Regret: how much worse a suggested gamma is than the best of a full sweep.

    regret(gamma) = metric at gamma - min over the sweep of the metric,      lower is better

The best of a noisy sweep looks better than it is (the winner's curse): with K equal gammas and noise sigma the minimum lies
below the truth by sigma times the expected minimum of K normals, and the naive regret is too large by that much. Three
numbers are therefore given:

    naive      metric at gamma minus the lowest mean; too large on average
    split      the best gamma is chosen on the other seeds and judged on the one left out, in turn; not cursed, but what it
               compares with is the best a sweep of S - 1 seeds finds, so it is a little too small where gammas differ
    corrected  naive plus (mean of the minimum of redrawn sweeps - minimum); the bootstrap's correction, also for one seed

`split` decides where there are two seeds or more, `corrected` otherwise. Intervals redraw the whole table of gammas and
seeds around its means, with the variance of `grid.py`, select anew each time, and compare with the regret that is true in
that world; bias and selection are then inside the interval. `noise` is the half-width of the difference between the two
best gammas: a regret below it cannot be told from zero by this sweep.

Not correcting at all (`UNCORRECTED`: plain training of the same length) is judged against the same best gamma. Its regret
may lie below zero: then whoever was told that no correction is needed did better than the best of the sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from slowflow import rng
from slowflow.errors import InputError
from slowflow.records import BEST_AFTER, Estimate, excess_key
from slowflow.sweep.folder import BASE, SWEPT, StudyResult
from slowflow.sweep.grid import Sweep, sweep_of

REDRAWN = 4000
PAPER = (0.8, 0.4)
"""The paper's fixed gammas, for SiT and for RAE."""
UNCORRECTED = "no correction"


@dataclass(frozen=True)
class Regret:
    """Regret of one gamma.

    Args:
        gamma: the suggested one; None = no correction. best: the one with the lowest mean.
        value: split, or corrected under one seed, with its interval.
        naive, corrected, split: see above; split is None under one seed.
        noise: half-width of the 95 % interval of a difference between two gammas.
        chance_best: share of redrawn sweeps in which no gamma of the sweep is better than the suggested one.
        seeds: behind it.
    """

    gamma: float | None
    best: float
    value: Estimate
    naive: float
    corrected: float
    split: float | None
    noise: float
    chance_best: float
    seeds: int

    @property
    def within_noise(self) -> bool:
        """True when this sweep cannot tell the regret from zero."""
        return self.value.low <= 0.0


def regret(sweep: Sweep, gamma: float | None, seed: int = 0) -> Regret:
    """Regret of `gamma` in a sweep; between two gammas of the sweep the metric is read off linearly.

    Args:
        sweep: values over gamma and seeds.
        gamma: the suggested one, inside the sweep; None = no correction, where the sweep has that beside it.
        seed: of the redrawn sweeps.

    Raises:
        InputError: gamma outside the sweep.
    """
    at, swept = sweep.weights(gamma), len(sweep.gammas)
    mean, world = sweep.mean, _redrawn(sweep, rng.generator(seed, "regret", sweep.seeds))
    means = world.mean(axis=2)
    best, bests = mean[:swept].min(), means[:, :swept].min(axis=1)
    naive = float(at @ mean - best)
    corrected = naive + float(bests.mean() - best)
    split = float(_split(sweep.values[None], at, swept)[0]) if sweep.seeds > 1 else None
    again = means @ at - bests if split is None else _split(world, at, swept)
    found = naive if split is None else split
    value = corrected if split is None else split
    low, high = found - np.quantile(again - naive, [0.975, 0.025])
    order, unit = np.argsort(mean[:swept]), np.eye(len(mean))
    noise, own = (_half(sweep, unit[order[1]] - unit[order[0]]), _half(sweep, at - unit[order[0]]))
    if np.count_nonzero(at) > 1:
        own = max(own, noise)  # a gamma that was read off between two others is not better known than they are
    low, high = min(low, value - own), max(high, value + own)  # redrawing alone is too sure near a flat minimum
    return Regret(
        gamma=gamma,
        best=float(sweep.gammas[order[0]]),
        value=Estimate(value, float(low), float(high), sweep.seeds),
        naive=naive,
        corrected=corrected,
        split=split,
        noise=noise,
        chance_best=float(np.mean(means @ at <= bests + 1e-12)),
        seeds=sweep.seeds,
    )


def _split(values: np.ndarray, at: np.ndarray, swept: int) -> np.ndarray:
    """[world, row, seed] -> [world]: the best of the first `swept` rows is chosen on all seeds but one and judged on that one,
    in turn."""
    seeds = values.shape[2]
    others = (values.sum(axis=2, keepdims=True) - values) / (seeds - 1)
    chosen = np.take_along_axis(values, others[:, :swept].argmin(axis=1)[:, None, :], axis=1)[:, 0, :]
    return np.asarray((np.einsum("g,wgs->ws", at, values) - chosen).mean(axis=1))


def _half(sweep: Sweep, contrast: np.ndarray) -> float:
    """Half-width of the 95 % interval of a weighted difference of means."""
    quantile = stats.norm.ppf(0.975) if np.isinf(sweep.freedom) else stats.t.ppf(0.975, sweep.freedom)
    return float(quantile * np.sqrt(max(contrast @ sweep.covariance() @ contrast, 0.0)))


def _redrawn(sweep: Sweep, draw: np.random.Generator) -> np.ndarray:
    """Tables [REDRAWN, row, seed] around the means."""
    errors = sweep.errors(draw, (REDRAWN, sweep.seeds)) * np.sqrt(sweep.seeds)
    return np.asarray(sweep.mean[:, None] + errors.transpose(0, 2, 1))


def suggestions(result: StudyResult) -> dict[str, float]:
    """estimator -> gamma, as the measurement of the base suggests it: the band, and the excess held to [0, 1]."""
    base = result.lags[(result.lags["arm"] == BASE) & (result.lags["kind"] == "excess")]
    found = dict(zip(base["reading"], base["value"], strict=True))
    zero = excess_key(found)
    named = {"band": found.get("band"), "excess": None if zero is None else found[zero]}
    return {name: float(np.clip(value, 0.0, 1.0)) for name, value in named.items() if value is not None}


def regret_table(
    result: StudyResult, suggested: dict[str, float], *, group: str = SWEPT, fixed: tuple[float, ...] = PAPER
) -> pd.DataFrame:
    """Regret of every suggestion, of the paper's fixed gammas, and of no correction, at every length, step count and metric.

    Args:
        result: a study with a sweep over gamma.
        suggested: estimator -> gamma.
        group: arms that are swept.
        fixed: gammas taken without looking. Gammas outside what is swept so far are left out.

    Returns:
        study, metric, length, budget, method, gamma (NaN for no correction), best, value, low, high, naive, corrected, split,
        noise, chance_best, seeds, within_noise. No correction is there when some seed has it and the whole sweep.

    Raises:
        InputError: the study has no finished sweep.
    """
    methods = {**suggested, **{f"fixed {gamma:g}": gamma for gamma in fixed}}
    rows = []
    settings = result.rows[(result.rows["group"] == group)][["metric", "length", "budget"]].drop_duplicates()
    for metric, length, budget in settings.itertuples(index=False):
        sweep = sweep_of(result, metric, length, budget, group)
        inside = {method: gamma for method, gamma in methods.items() if sweep.holds(gamma)}
        where = (metric, length, budget)
        rows += [_row(result, sweep, where, method, gamma) for method, gamma in inside.items()]
        if (beside := uncorrected(result, *where, group)) is not None:
            rows.append(_row(result, beside, where, UNCORRECTED, None))
    if not rows:
        raise InputError(f"{result.path} has no sweep of '{group}'")
    return pd.DataFrame(rows)


def uncorrected(result: StudyResult, metric: str, length: int, budget: int, group: str = SWEPT) -> Sweep | None:
    """The sweep with plain training of the same length beside it; None where no seed has all of it."""
    try:
        return sweep_of(result, metric, length, budget, group, control=True)
    except InputError:
        return None  # plain training is not finished where the sweep is


def pilot_table(result: StudyResult, group: str = SWEPT) -> pd.DataFrame:
    """Regret, after the longest training, of the gamma that was best after each shorter one: what a pilot would cost.

    Both lengths are stops of the same runs, so their noise is shared; a pilot of its own would do a little worse.

    Returns:
        As `regret_table`, with the methods `best after N`; empty where there is one length.
    """
    rows = []
    here = result.rows[result.rows["group"] == group]
    longest, lengths = int(here["length"].max()), sorted(int(n) for n in here["length"].unique())
    for metric, budget in here[["metric", "budget"]].drop_duplicates().itertuples(index=False):
        sweep = sweep_of(result, metric, longest, budget, group)
        for length in lengths[:-1]:
            early = sweep_of(result, metric, length, budget, group)
            gamma = float(early.gammas[early.best])
            rows.append(_row(result, sweep, (metric, longest, budget), f"{BEST_AFTER}{length}", gamma))
    return pd.DataFrame(rows)


def against(sweep: Sweep, gamma: float | None, other: float | None) -> Estimate:
    """Metric at one gamma minus metric at another, lower is better; nothing was selected, so nothing is cursed.
    None is no correction.

    Raises:
        InputError: a gamma outside the sweep.
    """
    contrast = sweep.weights(gamma) - sweep.weights(other)
    value, half = float(contrast @ sweep.mean), _half(sweep, contrast)
    return Estimate(value, value - half, value + half, sweep.seeds)


def _row(
    result: StudyResult, sweep: Sweep, where: tuple[str, int, int], method: str, gamma: float | None
) -> dict[str, Any]:
    found = regret(sweep, gamma)
    metric, length, budget = where
    return {
        "study": result.protocol["name"], "metric": metric, "length": length, "budget": budget,
        "method": method, "gamma": gamma, "best": found.best,
        "value": found.value.value, "low": found.value.low, "high": found.value.high,
        "naive": found.naive, "corrected": found.corrected, "split": found.split, "noise": found.noise,
        "chance_best": found.chance_best, "seeds": found.seeds, "within_noise": found.within_noise,
    }  # fmt: skip
