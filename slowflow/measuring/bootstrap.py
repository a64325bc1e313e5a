"""Bootstrap by trajectory.

Time points of one trajectory move together, so whole trajectories are resampled, never points (resampling points
covers 70-77 % where 95 % is claimed). NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slowflow import rng
from slowflow.errors import InputError
from slowflow.records import Estimate

RESAMPLES = 500
LEVEL = 0.95
BLOCK = 50
"""Resamples taken at once by `total`."""


def weights(n: int, resamples: int, seed: int, purpose: str, kept_as: type = np.float64) -> np.ndarray:
    """How often each of n trajectories is drawn in each resample: [resamples, n], rows sum to n."""
    if n < 2:
        raise InputError(f"{n} trajectories cannot be resampled; at least 2 are needed")
    draw = rng.generator(seed, f"bootstrap/{purpose}", n)
    counts: np.ndarray = np.empty((resamples, n), dtype=kept_as)
    for row in counts:  # n draws with replacement, counted: the multinomial law, many times faster than drawing it so
        row[:] = np.bincount(draw.integers(0, n, size=n), minlength=n)
    return counts


def interval(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of resampled values."""
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=axis)
    return np.asarray(low), np.asarray(high)


def total(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over trajectories in each resample: drawn [resamples, n], values [n] or [n, ...] -> [resamples] or [resamples, ...].

    Counts may be kept as small integers; they become float64 a block of resamples at a time, so that many trajectories
    cost no memory that many resamples would multiply.
    """
    parts = (drawn[i : i + BLOCK].astype(np.float64) for i in range(0, len(drawn), BLOCK))
    return np.concatenate([part @ values for part in parts])


def mean_curve(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Means over trajectories in each resample: values [n, time], drawn [resamples, n] -> [resamples, time]."""
    return total(drawn, values) / drawn.sum(axis=1, keepdims=True)


def estimate(
    statistic: Callable[[np.ndarray], float], resampled: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray
) -> Estimate:
    """A statistic with its interval.

    Args:
        statistic: of the equal weights [n].
        resampled: of all resamples [resamples, n] at once, returns [resamples].
        drawn: the resamples.
    """
    low, high = interval(resampled(drawn))
    n = drawn.shape[1]
    return Estimate(float(statistic(np.ones(n))), float(low), float(high), n)
