"""Precision, recall, density and coverage: fidelity and diversity apart, on features.

A ball around a feature reaches to its k-th nearest other feature of the same set.

    precision = share of generated samples in any real ball           k = 3
    recall    = share of real samples in any generated ball           k = 3
    density   = mean over generated of (real balls it lies in) / k    k = 5
    coverage  = share of real balls that hold a generated sample      k = 5

One outlier's ball is huge, which precision and recall take at face value; density and coverage do not. Density can
exceed 1; a model that drops modes keeps density and precision and loses coverage and recall. Distances are taken in
blocks, so memory grows with n and not with its square; centred first, in float64.

Precision and density are means over samples and are resampled as they are. Recall and coverage are not, and repeating a
sample would shrink its own ball to nothing; so a resample adds up what each sample is worth, to first order,

    T(resample) = T + mean over drawn j of phi_j    phi_j = (n - 1) (T - T without j), less its mean

where without j its ball is gone and the balls that j helped to bound reach to the next neighbour. On average this is at
least as wide as the truth (Efron and Stein 1981).
Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991); Naeem et al. 2020 (arXiv 2002.09797).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse

from slowflow.errors import InputError

NEIGHBOURS = 5
PEERS = 3
"""k of density and coverage, and of precision and recall, as their authors have them."""
BLOCK = 2**23
"""Distances held at once: 64 MB."""


@dataclass(frozen=True)
class Neighbourhood:
    """What one pass over all pairs says, in every resample of the generated samples: four arrays [resamples]."""

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def neighbourhood(
    real: Float[np.ndarray, "r k"],
    generated: Float[np.ndarray, "g k"],
    drawn: Float[np.ndarray, "resamples g"],
    *,
    neighbours: int = NEIGHBOURS,
    peers: int = PEERS,
) -> Neighbourhood:
    """All four, in each resample; a row of ones is the estimate itself.

    Args:
        real, generated: features.
        drawn: how often each generated sample is drawn.
        neighbours, peers: k of density and coverage, k of precision and recall.

    Raises:
        InputError: not more features than neighbours on either side.
    """
    centre = np.asarray(real, dtype=np.float64).mean(axis=0)
    real, generated = (np.asarray(x, dtype=np.float64) - centre for x in (real, generated))
    radii = squared_radii(real, (peers, neighbours), "real")
    balls = _Balls.around(generated, peers)
    around, inside = np.zeros(len(generated)), np.zeros(len(generated), dtype=bool)
    covered, recalled = _Worth(len(generated)), _Worth(len(generated))
    for rows, squared in _blocks(real, generated):
        held = squared <= radii[rows, 1, None]
        around += held.sum(axis=0)
        inside |= (squared <= radii[rows, 0, None]).any(axis=0)
        covered.add(held)
        recalled.add(squared <= balls.reach, balls.instead(squared))
    total = drawn.sum(axis=1)
    return Neighbourhood(
        precision=np.asarray(drawn @ inside / total),
        recall=recalled.resampled(drawn),
        density=np.asarray(drawn @ around / total / neighbours),
        coverage=covered.resampled(drawn),
    )


@dataclass(frozen=True)
class _Balls:
    """Balls around generated samples: squared reach to the k-th and the next neighbour, and who bounds them [n, n]."""

    reach: np.ndarray
    further: np.ndarray
    bounding: sparse.csr_array

    @classmethod
    def around(cls, x: np.ndarray, k: int) -> _Balls:
        if len(x) <= k + 1:
            raise InputError(f"{len(x)} generated features are too few for {k} neighbours and the next")
        reach, nearest = np.empty((len(x), 2)), np.empty((len(x), k), dtype=np.int64)
        for rows, squared in _blocks(x, x):
            here = np.arange(rows.start, rows.stop)
            squared[here - rows.start, here] = np.inf
            order = np.argpartition(squared, [k - 1, k], axis=1)
            nearest[rows] = order[:, :k]
            reach[rows] = np.take_along_axis(squared, order[:, k - 1 : k + 1], axis=1)
        ones, ends = np.ones(nearest.size), np.arange(0, nearest.size + 1, k)
        return cls(reach[:, 0], reach[:, 1], sparse.csr_array((ones, nearest.ravel(), ends), shape=(len(x), len(x))))

    def instead(self, squared: np.ndarray) -> Callable[[np.ndarray], sparse.csr_array]:
        """Of some rows: [rows, j] above zero where a ball that j helps to bound would hold the row without j."""

        def found(rows: np.ndarray) -> sparse.csr_array:
            wider = (squared[rows] <= self.further) & (squared[rows] > self.reach)
            return sparse.csr_array(sparse.csr_array(wider.astype(np.float64)) @ self.bounding)

        return found


class _Worth:
    """A share of rows that something holds, and how many rows it would lose without each sample."""

    def __init__(self, n: int) -> None:
        self.lost, self.held, self.rows = np.zeros(n), 0, 0

    def add(self, holds: np.ndarray, instead: Callable[[np.ndarray], sparse.csr_array] | None = None) -> None:
        """Rows [rows, n] and whether each sample's ball holds them; `instead` as `_Balls.instead`."""
        count = holds.sum(axis=1)
        self.held += int((count > 0).sum())
        self.rows += len(holds)
        single = np.flatnonzero(count == 1)
        alone = holds[single].argmax(axis=1)
        np.add.at(self.lost, alone, 1.0)
        if instead is None:
            return
        if len(single):
            kept = instead(single).toarray()[np.arange(len(single)), alone] > 0
            np.subtract.at(self.lost, alone[kept], 1.0)
        none = np.flatnonzero(count == 0)
        if len(none):
            self.lost -= np.bincount(
                instead(none).indices, minlength=len(self.lost)
            )  # only what is above zero is stored

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """The share in each resample, to first order."""
        phi = (len(self.lost) - 1.0) * self.lost / self.rows
        return np.asarray(self.held / self.rows + drawn @ (phi - phi.mean()) / drawn.sum(axis=1))


def squared_radii(
    x: Float[np.ndarray, "n k"], neighbours: tuple[int, ...], what: str = "real"
) -> Float[np.ndarray, "n neighbours"]:
    """Squared distance of each feature to its k-th nearest other feature, for every k asked for.

    Raises:
        InputError: not more features than neighbours.
    """
    if len(x) <= max(neighbours):
        raise InputError(f"{len(x)} {what} features are too few for {max(neighbours)} neighbours")
    found = np.empty((len(x), len(neighbours)))
    for rows, squared in _blocks(x, x):
        here = np.arange(rows.start, rows.stop)
        squared[here - rows.start, here] = np.inf  # a feature is no neighbour of itself
        order = np.partition(squared, [k - 1 for k in neighbours], axis=1)
        found[rows] = order[:, [k - 1 for k in neighbours]]
    return found


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of `a` and their squared distances to all of `b`; both are centred already."""
    height = max(BLOCK // len(b), 1)
    squares = (b**2).sum(axis=1)
    for first in range(0, len(a), height):
        rows = slice(first, min(first + height, len(a)))
        squared = (a[rows] ** 2).sum(axis=1)[:, None] - 2.0 * a[rows] @ b.T + squares
        yield rows, np.maximum(squared, 0.0, out=squared)
