"""Intervals of numbers that were found under several seeds.

Under seed s arm a gives v[a, s]. Samples alone make it vary by a variance i_a that the bootstrap within a seed knows;
training under another seed adds to that. The addition is estimated from all arms of one setting together, as a factor on
what samples do (overdispersion), because two or three seeds of one arm say next to nothing about a variance:

    r_a = sum_s (v[a,s] - v[a,.])^2 / ((S_a - 1) i_a)        phi = max(1, mean of r_a over seeds beyond the first)
    value = v[a,.]        half-width = q sqrt(phi i_a / S_a)

An arm whose r_a is over 20 times the median has broken down in a way of its own (under the normal law two degrees of freedom
exceed it once in a million): it is left out of phi, which would widen the intervals of all others, and has its own.

q is Student's t where phi exceeds 1, the normal quantile otherwise. Arms are not independent: what a seed draws they share, and
differences share their control. With u the residuals in units of sqrt(i_a), B the variance over seeds of their mean over
arms and E what is left of phi, the degrees of freedom are Satterthwaite's,

    f = (B + E)^2 / (B^2 / (S - 1) + E^2 / ((A - 1)(S - 1)))

which is A (S - 1) at most, 4 (S - 1) for differences whose control has half of their variance, and S - 1 where all arms move
together.

Where samples are the same under every seed (the probe of the lag), what they do does not average out:

    half-width = q sqrt(i_a + phi i_a / S_a),   phi as above without its floor: it holds training alone

With one seed everywhere phi is 1 (0 where samples are shared) and the interval knows nothing of training; tables say how
many seeds stand behind a number.
Source: the scale of a quasi-likelihood (McCullagh and Nelder 1989, section 4.5); Satterthwaite 1946, Biometrics Bulletin 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from slowflow.errors import InputError
from slowflow.records import Estimate

LEVEL = 0.95
UNLIKE = 20.0
"""Times the median over arms from which an arm's spread over seeds is its own."""


def intervals(
    values: Sequence[np.ndarray],
    inside: Sequence[float],
    n: Sequence[int],
    level: float = LEVEL,
    *,
    shared: bool = False,
) -> list[Estimate]:
    """The mean over seeds of every arm of one setting, with its interval.

    Args:
        values: for every arm its numbers, [seed]; arms with as many seeds as any have the same ones in the same order.
        inside: for every arm the variance that samples alone give a number of one seed.
        n: samples behind a number of each arm.
        level: of the intervals.
        shared: the samples are the same under every seed.

    Raises:
        InputError: an arm without a number, or lists of different lengths.
    """
    if not len(values) == len(inside) == len(n):
        raise InputError(f"{len(values)} arms, {len(inside)} variances and {len(n)} sample sizes; one each is needed")
    if any(len(one) == 0 for one in values):
        raise InputError("an arm has no number under any seed")
    found = []
    for one, variance, count, spread in zip(values, inside, n, overdispersion(values, inside), strict=True):
        trained = (spread.factor if shared else max(spread.factor, 1.0)) * variance / len(one)
        known = variance if shared else 0.0
        sure = not shared and spread.factor <= 1.0
        half = _quantile(level, known, trained, np.inf if sure else spread.freedom) * float(np.sqrt(known + trained))
        mean = float(np.mean(one))
        found.append(Estimate(mean, mean - half, mean + half, int(count)))
    return found


class Spread(NamedTuple):
    """How much seeds spread an arm, in units of what samples alone do (phi without its floor), and how well that is known."""

    factor: float
    freedom: float


def overdispersion(values: Sequence[np.ndarray], inside: Sequence[float]) -> list[Spread]:
    """Of every arm: that of all ordinary ones together, or its own."""
    ratios = np.array(
        [
            np.var(one, ddof=1) / variance if len(one) > 1 and variance > 0.0 else np.nan
            for one, variance in zip(values, inside, strict=True)
        ]
    )
    known = np.isfinite(ratios)
    if not known.any():
        return [Spread(0.0, np.inf)] * len(ratios)
    ordinary = known & ~(ratios > UNLIKE * np.median(ratios[known]))
    beyond = np.array([len(one) - 1 for one in values])[ordinary]
    most = int(beyond.max()) + 1
    rows = [
        (one - one.mean()) / np.sqrt(variance)
        for one, variance, plain in zip(values, inside, ordinary, strict=True)
        if plain and len(one) == most
    ]
    together = Spread(float(np.average(ratios[ordinary], weights=beyond)), _freedom(np.array(rows)))
    return [
        Spread(float(ratio), float(len(one) - 1)) if apart else together
        for ratio, one, apart in zip(ratios, values, known & ~ordinary, strict=True)
    ]


def _freedom(residuals: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of the mean square of residuals [arm, seed] that arms share in part."""
    arms, seeds = residuals.shape
    together = residuals.mean(axis=0)
    common = float((together**2).sum()) / (seeds - 1)
    own = float(((residuals - together) ** 2).sum()) / (arms * (seeds - 1))
    if common + own == 0.0:
        return float(seeds - 1)
    spread = common**2 / (seeds - 1) + (own**2 / ((arms - 1) * (seeds - 1)) if arms > 1 else 0.0)
    return (common + own) ** 2 / spread


def _quantile(level: float, known: float, estimated: float, freedom: float) -> float:
    """Of a mean whose variance is one part known and one part estimated with `freedom`."""
    upper = 0.5 + level / 2.0
    if estimated <= 0.0 or np.isinf(freedom):
        return float(stats.norm.ppf(upper))
    return float(stats.t.ppf(upper, freedom * ((known + estimated) / estimated) ** 2))
