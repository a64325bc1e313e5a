"""The Frechet distance at infinite n, and how much of the measured one is there because n is finite.

A covariance from n samples is noisy and its noise looks like distance: two sets of one law are at FD ~ b / n. Over
sets of n, n/2, n/3, ... the distance is a line in 1/n; its value at 1/n = 0 is the extrapolation:

    FD(n) = FD_inf + b / n

Both sides are cut to the same n (only the samples where the reference is a file of moments). The doubt is that of a
jackknife that leaves out a tenth of both sides at a time, so it covers the noise of samples and of real images. What it
does not cover is a bend of the line: sets smaller than twice the width of the features are therefore never used.
Source: Chong and Forsyth 2020 (arXiv 1911.07023), here with disjoint sets on both sides and an interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from slowflow import rng
from slowflow.evaluating.frechet import distance
from slowflow.evaluating.moments import Moments, Scatter
from slowflow.records import Estimate

PARTS = 5
"""The smallest sets are a fifth of all samples."""
GROUPS = 10
"""Groups of the jackknife."""
CELLS = 60
"""Pieces whose moments are kept; every set is made of whole pieces (60 divides by 1 to 5)."""


def largest_cut(n: int, width: int) -> int:
    """Into how many sets n samples may be cut so that each is at least twice as large as the features are wide."""
    return min(PARTS, int(0.9 * n) // (2 * width))


def to_infinity(
    features: Float[np.ndarray, "n k"], reference: Float[np.ndarray, "m k"] | Moments, seed: int = 0
) -> Estimate | None:
    """FD_inf with a 95 % interval; None where n is below four times the width of the features, or below 120.

    Args:
        features: of the samples.
        reference: of as many real images, or their moments.
        seed: of the order in which samples are cut.
    """
    n = len(features) if isinstance(reference, Moments) else min(len(features), len(reference))
    cut = largest_cut(n, features.shape[1])
    if cut < 2 or n < 2 * CELLS:
        return None
    ours = _Cells.of(features, seed, "samples")
    theirs = reference if isinstance(reference, Moments) else _Cells.of(reference, seed, "real")
    value = _intercept(ours, theirs, cut, np.arange(CELLS))
    left = [np.delete(np.arange(CELLS), np.arange(g, CELLS, GROUPS)) for g in range(GROUPS)]
    again = np.array([_intercept(ours, theirs, cut, cells) for cells in left])
    error = np.sqrt((GROUPS - 1) / GROUPS * ((again - again.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, GROUPS - 1)) * float(error)
    return Estimate(value, value - half, value + half, n)


@dataclass(frozen=True)
class _Cells:
    """Moments of CELLS random pieces of equal size, up to one sample: n [c], means [c, k], scatters [c, k, k]."""

    n: np.ndarray
    means: np.ndarray
    scatters: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, seed: int, what: str) -> _Cells:
        order = rng.permutation(seed, f"extrapolate/{what}", len(features))
        parts = [Scatter.of(features[np.sort(rows)]) for rows in np.array_split(order, CELLS)]
        return cls(
            np.array([part.n for part in parts]),
            np.stack([part.mean for part in parts]),
            np.stack([part.scatter for part in parts]),
        )

    def together(self, cells: np.ndarray) -> Moments:
        """Moments of some cells as one set: the formula of moments.py, for all of them at once."""
        n = self.n[cells]
        mean = n @ self.means[cells] / n.sum()
        gaps = self.means[cells] - mean
        scatter = self.scatters[cells].sum(axis=0) + (gaps * n[:, None]).T @ gaps
        return Moments(mean, scatter / (n.sum() - 1.0), int(n.sum()))


def _intercept(ours: _Cells, theirs: _Cells | Moments, cut: int, cells: np.ndarray) -> float:
    """FD at 1/n = 0 of a line through FD at n, n/2, ..., n/cut, each averaged over its disjoint sets."""
    inverse, values, weights = [], [], []
    for parts in range(1, cut + 1):
        for rows in np.array_split(cells, parts):
            a = ours.together(rows)
            inverse.append(1000.0 / a.n)
            values.append(distance(a, theirs if isinstance(theirs, Moments) else theirs.together(rows)))
            weights.append(1.0 / np.sqrt(parts))  # every size counts as much as every other
    return float(np.polyfit(inverse, values, 1, w=weights)[1])
