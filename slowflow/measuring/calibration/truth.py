"""What planted effects must read on a Gaussian world, in closed form.

A linear field takes the state A z of noise z to A (m_c + g z): class means m_c, one growth g_i along each axis. So

    m_c(t) = what zero noise becomes,    g(t) = what the unit vector along all axes becomes, less m_c(t),    V = g^2

give the whole law of the states, with the solver's own error in it, from a handful of trajectories. The readings of that
law need no sample:

    signal, noise clock    a^2 = w_a . V,  b^2 = w_b . V          the weights of the clocks for the true variances
    level                  argmin_m sum_j ( E (y_j - alpha(m) mu_j)^2 / v_j(m) + log v_j(m) ), mean over classes

y = U^T x along the axes of the *total* covariance, in which the class means lie too: level sees them lag, clocks do not.
Readings of a mean are not means of readings; the difference is of order 1 / d and leaves with the base.
Source: Wang and Vastola 2023 (arXiv 2311.10892) for the linear field; the readings are SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from slowflow.data.bank import FLOOR
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import Predictor
from slowflow.flow.spectral import SpectralMixture
from slowflow.measuring.calibration.controls import FAULTS, NOISE
from slowflow.measuring.calibration.worlds import World, solved
from slowflow.measuring.closest import LAST
from slowflow.measuring.references.clocks import inverse, readout

LEVELS = 513


@dataclass(frozen=True)
class Law:
    """States of every class along the axes of the field.

    Args:
        means: [class, time, d]. variance: [time, d].
    """

    means: np.ndarray
    variance: np.ndarray


def genuine_law(field: SpectralMixture, t: np.ndarray) -> Law:
    """alpha c and alpha^2 s^2 + sigma^2."""
    alpha, sigma = _mixing(field.interpolant, t)
    centres = (field.centres.flatten(1) @ field.axes).numpy()
    return Law(alpha * centres[:, None], alpha**2 * field.variances.numpy() + sigma**2)


def solved_law(field: SpectralMixture, faulty: Predictor, times: int) -> Law:
    """The law of a linear field around `field`, solved as the states are.

    Args:
        field: one centre a class. faulty: the same with a fault that keeps it linear. times: number of times.
    """
    still = torch.zeros_like(field.centres)
    unit = field.assemble(torch.ones(1, len(field.variances), dtype=torch.float64), still[:1])
    both = torch.cat([still, unit]), torch.cat([field.labels, field.labels[:1]])
    reached = (solved(faulty, *both, times).flatten(2) @ field.axes).numpy()
    return Law(reached[:-1], np.square(reached[-1] - reached[0]))


@dataclass(frozen=True)
class Truth:
    """Closed-form readings of laws on a Gaussian world.

    Args:
        field: one centre a class. share: [class], of each in the data. t: [time].
    """

    field: SpectralMixture
    share: np.ndarray
    t: np.ndarray

    def slack(self, law: Law) -> dict[str, np.ndarray]:
        """reading -> [time]."""
        return {**self._clocks(law), "level": 1.0 - self._level(law) / self.t}

    def _clocks(self, law: Law) -> dict[str, np.ndarray]:
        path, variances = self.field.interpolant, self.field.variances.numpy()
        alpha, sigma = (x[:, 0].tolist() for x in _mixing(path, self.t))
        weights = [readout(variances, a, s) for a, s in zip(alpha, sigma, strict=True)]
        squares = np.stack([w @ v for w, v in zip(weights, law.variance, strict=True)], axis=1)
        of: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"signal clock": path.alpha, "noise clock": path.sigma}
        return {
            name: 1.0 - inverse(coefficient, path.straight)(np.sqrt(np.maximum(square, 0.0))) / self.t
            for (name, coefficient), square in zip(of.items(), squares, strict=True)
        }

    def _level(self, law: Law) -> np.ndarray:
        """m at each time, mean over classes."""
        centres = (self.field.centres.flatten(1) @ self.field.axes).numpy()
        mean = self.share @ centres
        between = (centres - mean).T @ ((centres - mean) * self.share[:, None])
        total, turned = np.linalg.eigh(np.diag(self.field.variances.numpy()) + between)
        total = np.maximum(total, FLOOR * total.mean())
        levels = np.linspace(0.0, LAST, LEVELS)
        alpha, sigma = _mixing(self.field.interpolant, levels)
        expected = alpha**2 * total + sigma**2
        volume, along = np.log(expected).sum(axis=1), alpha * (mean @ turned)
        found = []
        for variance, means in zip(law.variance, law.means.transpose(1, 0, 2), strict=True):
            own = np.square(turned).T @ variance
            scores = [((own + np.square(m @ turned - along)) / expected).sum(axis=1) + volume for m in means]
            found.append(np.mean([_lowest(levels, score) for score in scores]))
        return np.array(found)


def truths(world: World) -> dict[str, dict[str, np.ndarray]]:
    """control -> reading -> [time]: true slack over the base, for faults and added noise; empty but on a Gaussian world."""
    field = world.field
    if world.name != "gaussian" or not isinstance(field, SpectralMixture):
        return {}
    sizes = np.array([len(world.bank.shard(int(label))) for label in field.labels], dtype=np.float64)
    truth = Truth(field, sizes / sizes.sum(), world.t)
    genuine, null = genuine_law(field, world.t), truth.slack(solved_law(field, field, world.times))
    base, noisier = truth.slack(genuine), truth.slack(Law(genuine.means, genuine.variance + NOISE**2))
    found = {"added noise": {name: noisier[name] - base[name] for name in base}}
    for name, fault in FAULTS.items():
        slack = truth.slack(solved_law(field, fault(field), world.times))
        found[name] = {reading: slack[reading] - null[reading] for reading in null}
    return found


def _mixing(path: Interpolant, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma, [time, 1]."""
    times = torch.from_numpy(t)
    return path.alpha(times).numpy()[:, None], path.sigma(times).numpy()[:, None]


def _lowest(levels: np.ndarray, score: np.ndarray) -> float:
    """Where a score is least: the vertex of the parabola through the best level and its neighbours."""
    best = int(score.argmin())
    if best in (0, len(levels) - 1):
        return float(levels[best])
    left, centre, right = score[best - 1 : best + 2]
    return float(levels[best] + 0.5 * (left - right) / (left - 2.0 * centre + right) * (levels[1] - levels[0]))
