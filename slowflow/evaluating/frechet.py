"""Frechet distance between two sets of features, with a bootstrap over generated samples.

    FD = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr( (S_1^(1/2) S_2 S_1^(1/2))^(1/2) )

With factors S = F F^T from a symmetric eigendecomposition the last trace is the sum of the singular values of
F_1^T F_2. Nothing can become complex, a singular covariance only has a narrower factor, and the distance of a set from
itself is zero to rounding; a square root of S_1 S_2 (SciPy's `sqrtm`, or eigenvalues) has none of the three.

Resamples are taken by the first order of FD in the weights of the samples,

    FD(resample) = FD + mean over drawn i of phi_i    phi_i = 2 (mu_1 - mu_2).c_i + c_i^T (I - T) c_i - tr((I - T) S_1)

with c_i = x_i - mu_1 and T the optimal map from N(mu_1, S_1) to N(mu_2, S_2). That is one pass over the samples instead
of one eigendecomposition a resample, and it is the better interval too: the covariance of a real resample is noisier than
that of a sample, so at 400 samples of width 64 its distances scatter 1.8 times as far as those of new samples do, the
first order 1.2 times (tests/evaluate/test_frechet.py). NumPy only, float64.
Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500); Efron 1982 (infinitesimal jackknife).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from slowflow.evaluating.moments import ROWS, Moments, moments


def factor(matrix: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k rank"]:
    """F with F F^T = matrix, for a positive semi-definite matrix; directions below rounding are left out."""
    values, vectors = np.linalg.eigh(matrix)
    floor = len(matrix) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    kept = values > floor
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def distance(a: Moments, b: Moments) -> float:
    """Frechet distance, at least 0 up to rounding; symmetric in its arguments."""
    product = factor(a.covariance).T @ factor(b.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap)


def resampled(
    features: Float[np.ndarray, "n k"], reference: Moments, drawn: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """Distance to a fixed reference in each resample, to first order; `drawn` counts how often each sample is drawn."""
    value = distance(moments(features), reference)
    return np.asarray(value + drawn @ influence(features, reference) / drawn.sum(axis=1))


def influence(features: Float[np.ndarray, "n k"], reference: Moments) -> Float[np.ndarray, " n"]:
    """phi_i: how FD moves, to first order, with the weight of each sample; its mean over samples is zero."""
    own = moments(features)
    slope = (np.eye(len(own.mean)) - optimal_map(own, reference)) * own.n / (own.n - 1.0)  # of an unbiased covariance
    found = np.empty(len(features))
    for i in range(0, len(features), ROWS):
        centred = np.asarray(features[i : i + ROWS], dtype=np.float64) - own.mean
        found[i : i + ROWS] = 2.0 * centred @ (own.mean - reference.mean) + ((centred @ slope) * centred).sum(axis=1)
    return found - found.mean()


def optimal_map(a: Moments, b: Moments) -> Float[np.ndarray, "k k"]:
    """T = F (F^T S_a F)^(-1/2) F^T with S_b = F F^T: carries N(0, S_a) to N(0, S_b); pseudo-inverse where singular."""
    root = factor(b.covariance)
    if not root.size:
        return np.zeros_like(b.covariance)
    values, vectors = np.linalg.eigh(root.T @ a.covariance @ root)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    half = root @ vectors[:, kept]
    return np.asarray((half / np.sqrt(values[kept])) @ half.T)
