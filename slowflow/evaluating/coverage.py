"""Precision, recall, density and coverage: fidelity and diversity apart, on features.

A ball around a feature reaches to its k-th nearest other feature of the same set.

    precision = share of generated samples in any real ball           k = 3
    recall    = share of real samples in any generated ball           k = 3
    density   = mean over generated of (real balls it lies in) / k    k = 5
    coverage  = share of real balls that hold a generated sample      k = 5

One outlier's ball is huge, which precision and recall take at face value; density and coverage do not. Density can
exceed 1; a model that drops modes keeps density and precision and loses coverage and recall. Distances are taken in
blocks, so memory grows with n and not with its square; centred first, in float64.

In a resample the balls stay as they are (a sample drawn twice would shrink its own to nothing) and those of samples not
drawn are taken away.
Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991); Naeem et al. 2020 (arXiv 2002.09797).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

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
    reach = squared_radii(generated, (peers,), "generated")[:, 0]
    present = (drawn > 0).T.astype(np.float32)
    around, inside = np.zeros(len(generated)), np.zeros(len(generated), dtype=bool)
    covered, recalled = np.zeros(len(drawn)), np.zeros(len(drawn))
    for rows, squared in _blocks(real, generated):
        held = squared <= radii[rows, 1, None]
        around += held.sum(axis=0)
        inside |= (squared <= radii[rows, 0, None]).any(axis=0)
        covered += (held.astype(np.float32) @ present > 0).sum(axis=0)
        recalled += ((squared <= reach).astype(np.float32) @ present > 0).sum(axis=0)
    total = drawn.sum(axis=1)
    return Neighbourhood(
        precision=np.asarray(drawn @ inside / total),
        recall=recalled / len(real),
        density=np.asarray(drawn @ around / total / neighbours),
        coverage=covered / len(real),
    )


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
