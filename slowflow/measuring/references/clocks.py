"""clocks: how much signal and how much noise is in the states, read apart.

A state is a x1 + b x0 in law, with a = alpha(t) and b = sigma(t) for genuine states and for a perfect model. Along the
principal axes of the data, with the mean of the class taken out,

    E (z_i - alpha(t) mu_i)^2  =  a^2 lambda_i + b^2,

so a^2 and b^2 are the slope and the intercept of energies over the data's own variances. Axes with large lambda tell a,
axes with small lambda tell b. Weighted least squares with fixed weights 1 / v_i(t)^2 (the inverse variance of an energy
of a Gaussian) is linear in the energies, so every state gives an unbiased estimate of both by itself, and a mean over
trajectories is a clock.

Two clocks, because one time m is not enough: a step of Euler on an exact flow takes noise out on schedule, while the
signal lags by about a step; `level` sees mostly the noise where most axes of the data hold little variance.
The class mean is taken out because a sampler that lags in everything else has it right from the first step on. Where the
mean itself lags, by c - alpha, it adds (c - alpha)^2 mu_i^2 to the energies. c - alpha is estimated twice in every state, on
even and on odd axes; the product of the two is an unbiased estimate of the square, and what it adds is subtracted.
Source: second moments of the interpolant; the reading is SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.errors import DataError
from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.references.base import REFERENCES, Start, Trajectories
from slowflow.measuring.slack import Clock

GRID = 4001
LEAST = 1e-12
EASED = 0.01
"""Share of the data's mean variance added to v_i in the weights, so that axes without variance do not decide near t = 1."""
FLAT = 1e-3
"""Least squared sine of the angle between the variances and a constant, under which signal and noise look alike."""


class Clocks:
    """Signal and noise clock."""

    start: Start = "noise"
    shares_noise = False

    def observe(self, batch: Trajectories, bank: Bank) -> dict[str, np.ndarray]:
        """`signal` and `noise`: unbiased estimates of a^2 and b^2 of every state, [sample, time].

        Raises:
            DataError: the data have the same variance along every axis.
        """
        along, within = batch.along(bank.spectrum.axes), bank.within
        means = np.stack([within.means[int(label)] for label in batch.labels])
        squares = np.empty((2, *batch.states.shape[:2]))
        for k, t in enumerate(torch.from_numpy(batch.grid)):
            alpha, sigma = float(batch.path.alpha(t)), float(batch.path.sigma(t))
            rest, weights = along[:, k] - alpha * means, readout(within.variance, alpha, sigma)
            weight = 1.0 / (alpha**2 * within.variance + sigma**2 + EASED * within.variance.mean())
            lagging = np.prod(
                [_behind(rest[:, half::2], means[:, half::2], weight[half::2]) for half in (0, 1)], axis=0
            )
            squares[:, :, k] = weights @ np.square(rest).T - (weights @ np.square(means).T) * lagging
        return {"signal": squares[0], "noise": squares[1]}

    def clocks(self, stored: Mapping[str, np.ndarray], t: np.ndarray, path: Interpolant) -> dict[str, Clock]:
        """The signal clock and the noise clock."""
        return {
            f"{name} clock": Clock(stored[name], t, inverse(of, path.straight))
            for name, of in (("signal", path.alpha), ("noise", path.sigma))
        }


def _behind(rest: np.ndarray, means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """c - alpha of each state, by least squares of what is left of it on the mean of its class: [sample]."""
    return np.asarray(((rest * means) @ weight) / np.maximum(np.square(means) @ weight, LEAST))


def readout(variance: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """[2, d]: weights with which energies along the axes give a^2 and b^2.

    Args:
        variance: [d], of the data along each axis.
        alpha, sigma: nominal coefficients, which set the weights only.

    Raises:
        DataError: the variances are all alike.
    """
    expected = alpha**2 * variance + sigma**2 + EASED * variance.mean()
    weight = 1.0 / expected**2
    design = np.stack([variance, np.ones_like(variance)])
    normal = (design * weight) @ design.T
    if normal[0, 1] ** 2 >= (1.0 - FLAT) * normal[0, 0] * normal[1, 1]:
        raise DataError(
            "the data have nearly the same variance along every axis, so signal and noise cannot be told apart by "
            "energy; measure without 'clocks'"
        )
    return np.asarray(np.linalg.solve(normal, design * weight))


def inverse(coefficient: Callable[[torch.Tensor], torch.Tensor], straight: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Coefficient -> time, for alpha or sigma of a path. Not confined to [0, 1] on straight paths, clipped on others."""
    ends = coefficient(torch.tensor([0.0, 1.0], dtype=torch.float64)).numpy()
    if straight:
        return lambda value: (value - ends[0]) / (ends[1] - ends[0])
    times = np.linspace(0.0, 1.0, GRID)
    values = coefficient(torch.from_numpy(times)).numpy()
    order = np.argsort(values)
    return lambda value: np.interp(value, values[order], times[order])


REFERENCES.register(
    "clocks",
    summary="signal and noise in the states, read apart from band energies; no pairing",
    source="second moments of the interpolant; SlowFlow",
)(Clocks())
