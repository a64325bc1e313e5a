"""Density and coverage: fidelity and diversity apart, on features, at equal n.

    density  = mean over generated of (number of real balls it lies in) / k
    coverage = share of real samples whose ball holds a generated one

A real sample's ball reaches to its k-th nearest other real sample. Density can exceed 1; a model that drops modes
keeps density and loses coverage. Source: Naeem et al. 2020 (arXiv 2002.09797).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from slowflow.errors import InputError

NEIGHBOURS = 5


def inside(
    real: Float[np.ndarray, "r k"], generated: Float[np.ndarray, "g k"], neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """[r, g] True where a generated feature lies in the ball of a real one.

    Raises:
        InputError: not more real features than neighbours.
    """
    if len(real) <= neighbours:
        raise InputError(f"{len(real)} real features are too few for {neighbours} neighbours")
    radii = np.partition(cdist(real, real), neighbours, axis=1)[:, neighbours]
    return np.asarray(cdist(real, generated) <= radii[:, None])


def density(hits: np.ndarray, drawn: Float[np.ndarray, "resamples g"], neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Mean number of balls around a generated sample, over k, in each resample: [resamples]."""
    return np.asarray(drawn @ hits.sum(axis=0) / drawn.sum(axis=1) / neighbours)


def coverage(hits: np.ndarray, drawn: Float[np.ndarray, "resamples g"]) -> np.ndarray:
    """Share of real balls that hold a drawn generated sample, in each resample: [resamples]."""
    return np.asarray((hits.astype(np.float32) @ (drawn > 0).astype(np.float32).T > 0).mean(axis=0))
