"""Kernel distance (KID on Inception features): squared maximum mean discrepancy under a cubic kernel, unbiased.

    k(x, y) = (x.y / d + 1)^3
    MMD^2 = mean of k over pairs of different generated + the same over real - 2 mean of k over generated x real

Its expectation does not depend on n, so unlike FD it needs no extrapolation; it may come out below zero. The published
protocol averages it over random subsets of 1,000 (`over_subsets`); the mean over all pairs used here has the same
expectation and less noise. Blocks of the kernel are summed and dropped.
Source: Binkowski et al. 2018 (arXiv 1801.01401).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from slowflow import rng
from slowflow.errors import InputError

BLOCK = 2**23
"""Kernel values held at once: 64 MB."""


def kernel(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """(x.y / d + 1)^3 of every pair."""
    return np.asarray((a @ b.T / a.shape[1] + 1.0) ** 3)


def squared_mmd(
    generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], drawn: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """Unbiased MMD^2 in each resample of the generated samples; a row of ones is the estimate itself.

    Pairs of a sample with itself never count, also where a resample draws it twice.

    Raises:
        InputError: fewer than two features on a side.
    """
    if min(len(generated), len(real)) < 2:
        raise InputError(f"{len(generated)} and {len(real)} features; at least 2 on either side are needed")
    generated, real = (np.asarray(x, dtype=np.float64) for x in (generated, real))
    among = np.zeros(len(drawn))
    across = np.zeros(len(drawn))
    height = max(BLOCK // max(len(generated), len(real)), 1)
    for i in range(0, len(generated), height):
        rows, weights = generated[i : i + height], drawn[:, i : i + height]
        pairs = kernel(rows, generated)
        pairs[np.arange(len(rows)), np.arange(i, i + len(rows))] = 0.0
        among += (weights * (drawn @ pairs.T)).sum(axis=1)
        across += weights @ kernel(rows, real).mean(axis=1)
    total = drawn.sum(axis=1)
    return np.asarray(among / (total**2 - (drawn**2).sum(axis=1)) + _itself(real, height) - 2.0 * across / total)


def _itself(x: np.ndarray, height: int) -> float:
    """Mean of the kernel over pairs of different features of one set."""
    whole = sum(float(kernel(x[i : i + height], x).sum()) for i in range(0, len(x), height))
    own = float(((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1.0) ** 3).sum())
    return (whole - own) / (len(x) * (len(x) - 1))


def over_subsets(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    *,
    size: int = 1000,
    count: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean, standard deviation) of MMD^2 over random subsets, as the published protocol has it.

    Raises:
        InputError: a side has fewer features than a subset.
    """
    if size > min(len(generated), len(real)):
        raise InputError(f"subsets of {size} need as many features; there are {len(generated)} and {len(real)}")
    ones, found = np.ones((1, size)), []
    for i in range(count):
        ours = rng.permutation(seed, "kernel/generated", len(generated), i)[:size]
        theirs = rng.permutation(seed, "kernel/real", len(real), i)[:size]
        found.append(float(squared_mmd(generated[ours], real[theirs], ones)[0]))
    return float(np.mean(found)), float(np.std(found))
