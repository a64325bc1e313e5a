"""The shape of slack: does the interval [(1 - gamma) t, t] describe it?

MixFlow slows a state by a factor uniform on [1 - gamma, 1]. Then the mean and the spread of slack give the same gamma.
Two other shapes give themselves away, and call for another remedy than an interval:

shift    mean far above spread: all states lag alike; a fixed shift of the label is the honest model
jitter   spread far above mean: states scatter to both sides; a one-sided interval is the wrong remedy
fast     mean below zero: slowing the inputs is the wrong direction

In between, where the two differ but not surely by a factor FAR, an interval is still named, and the reason says so.

All comparisons are made on the same resamples, so that an interval stands behind each of them, never a point value.
Source: MixFlow (arXiv 2512.19311) for the interval; the test is SlowFlow's.
"""

from __future__ import annotations

import numpy as np

from slowflow.measuring.bootstrap import interval
from slowflow.measuring.estimators import with_interval
from slowflow.records import Estimate

FAR = 2.0
"""Mean over spread above which slack is a shift; spread over mean above which it is jitter."""
LEAST = 0.01
"""Mean excess gamma below which no shape is named: a lag of the signal alone pulls `level` by a few thousandths."""


def shape(
    mean: tuple[float, np.ndarray], spread: tuple[float, np.ndarray] | None, n: int, floor: float = 0.0
) -> tuple[str, str]:
    """(interval, shift, jitter, fast or none; why).

    Args:
        mean: gamma by the mean over genuine states, and its resamples. spread: by the spread, the same resamples.
        n: trajectories. floor: excess that the instrument makes by itself.
    """
    by_mean = with_interval(*mean, n)
    present = by_mean.excludes(0.0) and abs(by_mean.value) > max(floor, LEAST)
    if present and by_mean.value < 0.0:
        return "fast", f"the mean gives {by_mean}, below zero"
    if spread is None:
        return "none", f"the mean gives {by_mean}; single states have no m here, so there is no spread to compare"
    by_spread = with_interval(*spread, n)
    apart = with_interval(mean[0] - spread[0], mean[1] - spread[1], n)
    found, why = _named(by_mean if present else None, by_spread, mean[1], spread[1])
    return found, f"{why}: the mean gives {by_mean}, the spread {by_spread}, their difference {apart}"


def _named(mean: Estimate | None, spread: Estimate, means: np.ndarray, spreads: np.ndarray) -> tuple[str, str]:
    """mean is None where it is not clear of zero, of the floor and of LEAST."""
    if mean is None:
        if spread.low > 0.0:
            return "jitter", "states scatter to both sides of where they should be"
        return "none", "neither mean nor spread is clear of zero"
    if interval(means - FAR * spreads)[0] > 0.0:
        return "shift", f"all states lag alike, with a spread below 1/{FAR:.0f} of the mean"
    if interval(spreads - FAR * means)[0] > 0.0:
        return "jitter", f"states scatter to both sides, with a spread above {FAR:.0f} times the mean"
    low, high = interval(means - spreads)
    if low > 0.0 or high < 0.0:
        other = "shift" if low > 0.0 else "symmetric jitter"
        return "interval", f"mean and spread differ, not surely by {FAR:.0f} times: between an interval and a {other}"
    doubt = "" if spread.low > 0.0 else ", and a shift cannot be told from it"
    return "interval", f"mean and spread fit one width{doubt}"
