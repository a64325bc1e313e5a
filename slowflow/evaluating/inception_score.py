"""Inception Score: are samples clearly of a class (low entropy each) and of all classes (high entropy together)?

    IS = exp( H(mean of p) - mean of H(p) )    between 1 and the number of classes

It never looks at real images. Splits of 5,000 are scored apart and averaged, as the usual evaluator does, because the
score of few samples is biased downwards; fewer samples than that are one split. NumPy only.
Source: Salimans et al. 2016 (arXiv 1606.03498); splits as in guided-diffusion's evaluator.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

SPLIT = 5000


def inception_score(
    probabilities: Float[np.ndarray, "n classes"], drawn: Float[np.ndarray, "resamples n"], split: int = SPLIT
) -> Float[np.ndarray, " resamples"]:
    """The score in each resample; a row of ones is the estimate itself.

    Args:
        probabilities: of the classes, one row a sample.
        drawn: how often each sample is drawn.
        split: samples scored together; a shorter last split is left out unless it is the only one.
    """
    n = len(probabilities)
    scores = []
    for first in range(0, max(n - split, 0) + 1, split):
        p = np.asarray(probabilities[first : first + split], dtype=np.float64)
        weights = drawn[:, first : first + split]
        total = weights.sum(axis=1)
        together = _entropy(weights @ p / total[:, None])
        each = weights @ _entropy(p) / total
        scores.append(np.exp(together - each))
    return np.asarray(np.mean(scores, axis=0))


def _entropy(p: np.ndarray) -> np.ndarray:
    """In nats, along the last axis; 0 log 0 = 0."""
    return np.asarray(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1))
