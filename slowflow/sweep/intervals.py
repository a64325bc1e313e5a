"""Intervals of numbers that were found under several seeds.

Under seed s arm a gives v[a, s]. Samples alone make it vary by a variance i_a that the bootstrap within a seed knows;
training under another seed adds to that. The addition is estimated from all arms of one setting together, as a factor on
what samples do (overdispersion), because two or three seeds of one arm say next to nothing about a variance:

    phi = max(1, sum_a sum_s (v[a,s] - v[a,.])^2 / sum_a (S_a - 1) i_a)        with  sum_a (S_a - 1)  degrees of freedom
    value = v[a,.]        half-width = q sqrt(phi i_a / S_a)

q is Student's t at those degrees of freedom where phi exceeds 1, the normal quantile otherwise. With one seed everywhere
phi is 1 and the interval knows nothing of training; tables say how many seeds stand behind a number.
Source: the scale of a quasi-likelihood (McCullagh and Nelder 1989, section 4.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from slowflow.errors import InputError
from slowflow.records import Estimate

LEVEL = 0.95


def intervals(
    values: Sequence[np.ndarray], inside: Sequence[float], n: Sequence[int], level: float = LEVEL
) -> list[Estimate]:
    """The mean over seeds of every arm of one setting, with its interval.

    Args:
        values: for every arm its numbers, [seed]; arms may have different seeds.
        inside: for every arm the variance that samples alone give a number of one seed.
        n: samples behind a number of each arm.
        level: of the intervals.

    Raises:
        InputError: an arm without a number, or lists of different lengths.
    """
    if not len(values) == len(inside) == len(n):
        raise InputError(f"{len(values)} arms, {len(inside)} variances and {len(n)} sample sizes; one each is needed")
    if any(len(one) == 0 for one in values):
        raise InputError("an arm has no number under any seed")
    factor, freedom = overdispersion(values, inside)
    upper = 0.5 + level / 2.0
    quantile = stats.t.ppf(upper, freedom) if factor > 1.0 else stats.norm.ppf(upper)
    found = []
    for one, variance, count in zip(values, inside, n, strict=True):
        mean, half = float(np.mean(one)), float(quantile * np.sqrt(factor * variance / len(one)))
        found.append(Estimate(mean, mean - half, mean + half, int(count)))
    return found


def overdispersion(values: Sequence[np.ndarray], inside: Sequence[float]) -> tuple[float, int]:
    """(phi, its degrees of freedom): how much more seeds spread than samples alone would make them."""
    freedom = sum(len(one) - 1 for one in values)
    expected = sum((len(one) - 1) * variance for one, variance in zip(values, inside, strict=True))
    if expected <= 0.0:
        return 1.0, freedom
    return max(sum(float(np.var(one) * len(one)) for one in values) / expected, 1.0), freedom
