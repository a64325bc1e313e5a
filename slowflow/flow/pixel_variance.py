"""The pixel variance of a state as a clock: what it should be at each time, and the time that has a given one.

    published:  sigma(m)^2                      corrected:  sigma(m)^2 + alpha(m)^2 s^2

s^2 is the mean variance over the pixels of an image. A genuine state has the corrected value in the mean; the published
rule leaves the data's part out. The corrected curve is not the inverse of a function: it falls to a minimum (on the
linear path at 1 / (1 + s^2)) and rises again, and around the minimum it says nothing.
Source: Li et al. 2024, Time-Shift Sampler (arXiv 2305.15583); the data's part is SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from slowflow.flow.interpolants import Interpolant

GRID = 257
BISECTIONS = 50

Curve = Callable[[np.ndarray], np.ndarray]


def expected_variance(path: Interpolant, data: float) -> Curve:
    """m -> sigma(m)^2 + alpha(m)^2 data, the mean pixel variance of genuine states."""

    def curve(m: np.ndarray) -> np.ndarray:
        times = torch.from_numpy(np.asarray(m, dtype=np.float64))
        return path.sigma(times).numpy() ** 2 + path.alpha(times).numpy() ** 2 * data

    return curve


def match(
    variance: np.ndarray, t: np.ndarray, curve: Curve, first: float, last: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where a curve that falls and then rises has the given values.

    Args:
        variance: values, any shape.
        t: of the same shape; the root nearest to it is taken.
        curve: monotone on either side of its minimum (sigma^2 is convex in alpha^2 on every path).
        first, last: ends of the interval that is searched.

    Returns:
        m and a flag: True where m is not inside (0, 1), or where the curve never has the value.
    """
    middle = _minimum(curve, first, last)
    ends = curve(np.array([first, middle, last]))
    m = np.where(variance < ends[1], middle, first if ends[0] >= ends[2] else last)
    distance = np.full(variance.shape, np.inf)
    for low, high, rising in ((first, middle, False), (middle, last, True)):
        root = _bisect(curve, variance, low, high, rising)
        top = ends[2] if rising else ends[0]
        closer = (ends[1] <= variance) & (variance <= top) & (np.abs(root - t) < distance)
        m, distance = np.where(closer, root, m), np.where(closer, np.abs(root - t), distance)
    return m, np.isinf(distance) | (m <= 0.0) | (m >= 1.0)


def _bisect(curve: Curve, variance: np.ndarray, low: float, high: float, rising: bool) -> np.ndarray:
    left, right = np.full(variance.shape, low), np.full(variance.shape, high)
    for _ in range(BISECTIONS):
        centre = 0.5 * (left + right)
        beyond = (curve(centre) < variance) if rising else (curve(centre) > variance)
        left, right = np.where(beyond, centre, left), np.where(beyond, right, centre)
    return 0.5 * (left + right)


def _minimum(curve: Curve, first: float, last: float) -> float:
    grid = np.linspace(first, last, GRID)
    best = int(np.argmin(curve(grid)))
    if best in (0, GRID - 1):
        return float(grid[best])
    return float(
        minimize_scalar(
            lambda m: float(curve(np.array([m]))[0]),
            bounds=(grid[best - 1], grid[best + 1]),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
    )
