"""Which law the lag follows: gamma t (the model), c h (the step size), or both.

    t - m = gamma / 2 * t + c h,      so that mean slack is      gamma / 2 + c h / t,      h = 1 / steps

Both numbers come from all times and step counts at once, by least squares with the weights of the times; every step
count weighs alike, because the times of one grid move together. gamma is then the slope at h -> 0 and

    step term = 2 c h * weighted mean of 1 / t     (h of the reported grid)

the share of the step size in the units of gamma: slope + step term is what the law says the excess is. The lag of a
sampler of second order falls as h^2; a line through two step counts h and h' then reads the slope low, by a share h h'.

The laws are compared on trajectories left out of the fit. Genuine states are split too, so that a law is not paid for
following the error of the null. The simplest law within one standard error of the best wins.
Source: first step of Euler on an exact flow lags by about h (SlowFlow); Breiman et al. 1984 for one standard error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slowflow import rng
from slowflow.measuring.estimators import Curves, with_interval
from slowflow.measuring.slack import Reading
from slowflow.records import Estimate

FOLDS = 10
LAWS: dict[str, list[int]] = {"none": [], "gamma t": [0], "c h": [1], "gamma t + c h": [0, 1]}
"""Law -> columns of the design it uses."""


@dataclass(frozen=True)
class Grid:
    """One step count: its readings by kind and their curves."""

    kinds: Mapping[str, Reading]
    curves: Curves


def design(grids: Mapping[int, Grid]) -> tuple[np.ndarray, np.ndarray]:
    """(columns gamma and c [points, 2], weights [points] that sum to 1), all times of all step counts in a row."""
    columns = [np.stack([np.full_like(g.curves.t, 0.5), 1.0 / (steps * g.curves.t)]) for steps, g in grids.items()]
    return np.concatenate(columns, axis=1).T, np.concatenate([g.curves.weight for g in grids.values()]) / len(grids)


def solver(columns: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Points -> coefficients of the weighted least squares fit: [coefficients, points]."""
    root = np.sqrt(weight)
    return np.asarray(np.linalg.pinv(columns * root[:, None]) * root)


def separate(grids: Mapping[int, Grid], subject: str, reported: int) -> tuple[Estimate, Estimate]:
    """(slope, step term) of the excess over genuine states.

    Args:
        grids: steps -> states, two step counts or more, the same sample ids.
        subject: the kind that is fitted. reported: step count of the step term.
    """
    columns, weight = design(grids)
    solve = solver(columns, weight)
    every = [g.curves for g in grids.values()]
    point = np.concatenate([c.mean[subject] - c.mean["genuine"] for c in every])
    drawn = np.concatenate([c.resampled[subject] - c.resampled["genuine"] for c in every], axis=1)
    here = grids[reported].curves
    scale = np.array([1.0, 2.0 / reported * float(here.weight @ (1.0 / here.t))])
    value, resampled = scale * (solve @ point), scale * (drawn @ solve.T)
    n = min(here.n[subject], here.n["genuine"])
    slope, step = (with_interval(float(v), r, n) for v, r in zip(value, resampled.T, strict=True))
    return slope, step


def compare(grids: Mapping[int, Grid], subject: str, seed: int) -> tuple[str, dict[str, float]]:
    """(the law that wins, law -> squared error on trajectories left out, as a share of predicting no lag at all).

    Args:
        grids: steps -> states. subject: the kind that is fitted. seed: of the folds.
    """
    columns, weight = design(grids)
    folds = min(FOLDS, *(len(g.kinds[kind]) for g in grids.values() for kind in (subject, "genuine")))
    train = np.concatenate([_parts(g, subject, folds, seed, left_out=False) for g in grids.values()], axis=1)
    test = np.concatenate([_parts(g, subject, folds, seed, left_out=True) for g in grids.values()], axis=1)
    errors = {}
    for name, used in LAWS.items():
        fitted = train @ solver(columns[:, used], weight).T @ columns[:, used].T if used else 0.0
        errors[name] = (test - fitted) ** 2 @ weight
    scale = max(float(errors["none"].mean()), 1e-300)
    return _simplest(errors), {name: float(e.mean()) / scale for name, e in errors.items()}


def _parts(grid: Grid, subject: str, folds: int, seed: int, *, left_out: bool) -> np.ndarray:
    """Mean excess slack of each fold, or of all but it: [folds, kept]."""

    def means(kind: str) -> np.ndarray:
        reading = grid.kinds[kind]
        place = rng.permutation(seed, f"folds/{'genuine' if kind == 'genuine' else 'model'}", len(reading)) % folds
        inside = place == np.arange(folds)[:, None]
        return reading.mean_slack((inside if left_out else ~inside).astype(np.float64))[:, grid.curves.kept]

    return means(subject) - means("genuine")


def _simplest(errors: Mapping[str, np.ndarray]) -> str:
    """The law with the fewest numbers whose error is within one standard error of the best."""
    best = min(errors.values(), key=lambda e: float(e.mean()))
    close = {}
    for name, error in errors.items():
        worse = error - best
        if worse.mean() <= worse.std(ddof=1) / np.sqrt(len(worse)):
            close[name] = float(error.mean())
    return min(close, key=lambda name: (len(LAWS[name]), close[name]))
