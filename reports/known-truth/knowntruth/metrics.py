"""What samples are worth against the truth: one distance, and fidelity and coverage apart.

    fd            Frechet distance to the exact moments: full on the signal axes, axis by axis (ambient) on the rest
    fd_signal     its first part
    surprise      (E[-log p(sample)] - E[-log p(data)]) / d, nats: above 0 off the data, below 0 sharper than the data
    astray        share of samples further from their component, on the signal axes, than 99 % of the data: fidelity
    idle          spread along idle axes over the true one: above 1 noise is left, below 1 too smooth
    frequency     total variation between component frequencies and the weights: coverage between components
    within        squared distance to the nearest component over the true one: above 1 blurred, below 1 coverage is lost

Source: Dowson and Landau 1982 for the distance of Gaussians.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from knowntruth.worlds import World, log_density, scores

ONE = torch.ones(())
NAMES = ("fd", "fd_signal", "surprise", "astray", "idle", "frequency", "within")


def bures(a: np.ndarray, b: np.ndarray) -> float:
    """tr a + tr b - 2 tr (b^(1/2) a b^(1/2))^(1/2)."""
    values, vectors = np.linalg.eigh(b)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ a @ root)
    return float(np.trace(a) + np.trace(b) - 2 * np.sqrt(np.maximum(inner, 0.0)).sum())


def idle_distance(one: World, rest: Tensor) -> float:
    """Frechet distance of the rest, coordinate by coordinate."""
    truth = one.idle * (1 - one.basis.square().sum(1)).clamp_min(0).sqrt()
    return float(rest.mean(0).square().sum() + (rest.std(0) - truth).square().sum())


def measured(one: World, samples: Tensor, entropy: float) -> dict[str, float]:
    """All metrics of samples [n, d]; entropy: E[-log p] of data, a number of the world."""
    inside, rest = one.split(samples)
    mean, covariance = one.moments()
    wide = inside.double().numpy()
    signal = float(np.square(wide.mean(0) - mean.double().numpy()).sum()) + bures(
        np.cov(wide.T), covariance.double().numpy()
    )
    energy = rest.square().sum(1)
    share = torch.softmax(scores(one, inside, ONE.expand(len(inside))), dim=1)
    gap = (inside[:, None] - one.centres).square()
    nearest = share.argmax(1)
    own = gap[torch.arange(len(gap)), nearest]
    far = (own / one.spreads.square()).sum(1) > chi2.ppf(0.99, len(one.spreads))
    return {
        "fd": signal + idle_distance(one, rest),
        "fd_signal": signal,
        "surprise": (-float(log_density(one, inside, energy, ONE.expand(len(inside))).mean()) - entropy) / one.d,
        "astray": float(far.float().mean()),
        "idle": float((energy.mean() / one.rest).sqrt()) / one.idle,
        "frequency": 0.5 * float((share.mean(0) - one.weights).abs().sum()),
        "within": float(own.sum(1).mean() / one.spreads.square().sum()),
    }


def entropy(one: World, generator: torch.Generator, n: int = 20_000) -> float:
    """E[-log p] of data by sampling."""
    total = 0.0
    for _ in range(10):
        inside, rest = one.split(one.draw(n // 10, generator)[0])
        total -= float(log_density(one, inside, rest.square().sum(1), ONE.expand(n // 10)).mean()) / 10
    return total
