"""Mean and covariance of features, streamed in float64 and exact over shards and ranks.

Two parts of n_a and n_b features with means m_a, m_b and scatters M = sum (x - m)(x - m)^T merge into

    n = n_a + n_b    m = m_a + (n_b / n) (m_b - m_a)    M = M_a + M_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)^T

No part is ever uncentred, so nothing is lost to cancellation when the mean is large. NumPy only.
Source: Chan, Golub and LeVeque 1983 (The American Statistician 37).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from slowflow.errors import InputError

ROWS = 4096
"""Features that are widened to float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Mean [k] and unbiased covariance [k, k] of n features; n is 0 where a file does not tell."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


@dataclass(frozen=True)
class Scatter:
    """What is merged: n features, their mean [k] and their scatter [k, k] about it."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: Float[np.ndarray, "n k"]) -> Scatter:
        """Of some features, read a few thousand rows at a time.

        Raises:
            InputError: no feature, or one that is not finite, named by its row.
        """
        whole: Scatter | None = None
        for first in range(0, len(features), ROWS):
            part = _scatter(np.asarray(features[first : first + ROWS], dtype=np.float64), first)
            whole = part if whole is None else whole.merge(part)
        if whole is None:
            raise InputError("there are no features to take moments of")
        return whole

    def merge(self, other: Scatter) -> Scatter:
        """Of both parts together; in which order parts are merged changes rounding only.

        Raises:
            InputError: features of another width.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(f"features of width {len(self.mean)} and {len(other.mean)} cannot be merged")
        n = self.n + other.n
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n)
        return Scatter(n, self.mean + gap * (other.n / n), scatter)

    def moments(self) -> Moments:
        """Mean and unbiased covariance.

        Raises:
            InputError: fewer than two features.
        """
        if self.n < 2:
            raise InputError(f"{self.n} features have no covariance; at least 2 are needed")
        return Moments(self.mean, self.scatter / (self.n - 1.0), self.n)


def _scatter(x: Float[np.ndarray, "n k"], first: int) -> Scatter:
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise InputError(f"feature {first + int(np.flatnonzero(~finite)[0])} is not finite")
    mean = x.mean(axis=0)
    centred = x - mean
    return Scatter(len(x), mean, centred.T @ centred)


def merged(parts: Iterable[Scatter]) -> Scatter:
    """Of all parts, such as those of ranks or shards.

    Raises:
        InputError: no part.
    """
    whole: Scatter | None = None
    for part in parts:
        whole = part if whole is None else whole.merge(part)
    if whole is None:
        raise InputError("there are no features to take moments of")
    return whole


def moments(features: Float[np.ndarray, "n k"]) -> Moments:
    """Moments in float64.

    Raises:
        InputError: fewer than two features, or one is not finite.
    """
    return Scatter.of(features).moments()
