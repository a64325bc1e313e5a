"""Frechet distance between two sets of features, with a bootstrap over generated samples.

    FD = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr( (S_1^(1/2) S_2 S_1^(1/2))^(1/2) )

The trace of the root is a sum over eigenvalues of a symmetric matrix, so there is no complex part and a singular
covariance needs no jitter. NumPy only, float64.
Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from slowflow.errors import InputError


@dataclass(frozen=True)
class Moments:
    """Mean [k] and unbiased covariance [k, k] of n features."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


def moments(features: Float[np.ndarray, "n k"], weights: np.ndarray | None = None) -> Moments:
    """Moments in float64; `weights` counts how often each row is drawn.

    Raises:
        InputError: fewer than two features, or one is not finite.
    """
    x = np.asarray(features, dtype=np.float64)
    if len(x) < 2:
        raise InputError(f"{len(x)} features have no covariance; at least 2 are needed")
    if not np.isfinite(x).all():
        raise InputError(f"feature {int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])} is not finite")
    w = np.ones(len(x)) if weights is None else weights
    total = w.sum()
    mean = w @ x / total
    centred = x - mean
    return Moments(mean, (centred * w[:, None]).T @ centred / (total - 1.0), len(x))


def symmetric_root(matrix: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """The symmetric square root of a positive semi-definite matrix; rounding below zero is cut."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def distance(a: Moments, b: Moments) -> float:
    """Frechet distance, at least 0 up to rounding; symmetric in its arguments."""
    return _distance(a, b, symmetric_root(b.covariance))


def _distance(a: Moments, b: Moments, root_b: np.ndarray) -> float:
    inner = np.linalg.eigvalsh(root_b @ a.covariance @ root_b)
    gap = a.mean - b.mean
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * np.sqrt(np.maximum(inner, 0.0)).sum()
    return float(gap @ gap + trace)


def resampled(features: np.ndarray, reference: Moments, drawn: np.ndarray) -> np.ndarray:
    """Distance to a fixed reference in each resample: drawn [resamples, n] -> [resamples].

    A resample repeats samples, so its distance is biased upwards; differences of two arms on the same resamples are
    not. For one arm the caller recentres.
    """
    root = symmetric_root(reference.covariance)
    return np.array([_distance(moments(features, row), reference, root) for row in drawn])
