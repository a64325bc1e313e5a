"""Band energies of states, and what clocks and level read from their means.

Along the principal axes of the data, class means taken out, axes are grouped by variance lambda. In group g

    V_g = E (z - alpha mu)^2 - (c_g - alpha)^2 mu_g^2 = a^2 lambda_g + b^2      (genuine states: a = alpha(t), b = sigma(t))

where c_g is the coefficient of the class mean in the states: a mean that lags would otherwise enter V_g by its square, which
does not add up along a path as variances do.

Everything here works on the *relative* energy rho_g = V_g / V_g(genuine): it is 1 in every band for a perfect model,
whatever the data, and what the data's shape does to the readings leaves with it. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slowflow.data.bank import Bank

GROUPS = 24
FLOOR = 1e-3
"""Least variance of a group, as a share of the mean one, so that its logarithm exists."""
LEVELS = 801
LEAST = 1e-9


@dataclass(frozen=True)
class Bands:
    """Groups of principal axes with like variance.

    Args:
        axes: [d, d], columns ordered by variance within the classes. means: class -> [d], along those axes.
        first: [g], first axis of each group. size: [g], axes in it. variance: [g], mean variance in it.
    """

    axes: np.ndarray
    means: dict[int, np.ndarray]
    first: np.ndarray
    size: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, bank: Bank) -> Bands:
        """Groups on a logarithmic scale of variance."""
        within = bank.within
        order = np.argsort(within.variance, kind="stable")
        variance = np.maximum(within.variance[order], FLOOR * within.variance.mean())
        edges = np.geomspace(variance[0], variance[-1] * (1 + 1e-9), GROUPS + 1)
        group = np.clip(np.searchsorted(edges, variance, side="right") - 1, 0, GROUPS - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        size = np.diff(first, append=len(variance)).astype(np.float64)
        mean = np.add.reduceat(within.variance[order], first) / size
        return cls(bank.spectrum.axes[:, order], {k: m[order] for k, m in within.means.items()}, first, size, mean)

    @property
    def mean_energy(self) -> np.ndarray:
        """[g], mean over classes of the energy of the class mean in each group."""
        means = np.stack(list(self.means.values()))
        return np.asarray((np.add.reduceat(np.square(means), self.first, axis=1) / self.size).mean(axis=0))

    def energies(self, states: np.ndarray, labels: np.ndarray, alpha: float) -> np.ndarray:
        """Energy in each group about the nominal mean, and how far the mean is behind: [n, d] -> [n, 2, g].

        The second row is an unbiased estimate of c - alpha in each group, by least squares.
        """
        means = np.stack([self.means[int(label)] for label in labels])
        rest = states @ self.axes - alpha * means
        energy, along, own = (np.add.reduceat(x, self.first, axis=1) for x in (rest**2, rest * means, means**2))
        return np.stack([energy / self.size, along / np.maximum(own, LEAST)], axis=1)

    def expected(self, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """V_g of genuine states: [..., g] for coefficients [...]."""
        return np.asarray(alpha[..., None] ** 2 * self.variance + sigma[..., None] ** 2)


@dataclass(frozen=True)
class Node:
    """One time at which energies are read, with everything the readings need there.

    Args:
        t: the time. signal, noise: [g], weights that turn energies into a^2 and b^2. levels: [m], times of the grid.
        variance: [m, g], expected energies at those times. own: [g], at t itself. size: [g].
        alpha, sigma: tables of the coefficients over `levels`.
    """

    t: float
    signal: np.ndarray
    noise: np.ndarray
    levels: np.ndarray
    variance: np.ndarray
    own: np.ndarray
    size: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    def lags(self, relative: np.ndarray) -> np.ndarray:
        """Slack (t - m)/t by signal clock, noise clock and level, for relative energies [..., g] -> [..., 3]."""
        energy = relative * self.own
        a, b = (np.sqrt(np.maximum(energy @ w, 0.0)) for w in (self.signal, self.noise))
        signal = np.interp(a, self.alpha, self.levels)
        noise = np.interp(-b, -self.sigma, self.levels)
        return 1.0 - np.stack([signal, noise, self.level(energy)], axis=-1) / self.t

    def level(self, energy: np.ndarray) -> np.ndarray:
        """argmin_m sum_g n_g (V_g / v_g(m) + log v_g(m)), refined by a parabola."""
        score = energy @ (self.size / self.variance).T + np.log(self.variance) @ self.size
        best = np.clip(score.argmin(axis=-1), 1, len(self.levels) - 2)
        left, centre, right = (np.take_along_axis(score, (best + k)[..., None], -1)[..., 0] for k in (-1, 0, 1))
        bend = np.maximum(left - 2.0 * centre + right, LEAST)
        shift = np.clip(0.5 * (left - right) / bend, -1.0, 1.0)
        return np.asarray(self.levels[best] + shift * (self.levels[1] - self.levels[0]))

    def misfit(self, relative: np.ndarray) -> np.ndarray:
        """Divergence of the energies from the law at t, and from the law at the best m: [..., 2].

        KL of Gaussians with these variances, sum_g n_g (V/v - 1 - log(V/v)) / 2.
        """
        energy = np.maximum(relative * self.own, LEAST)
        m = self.level(energy)
        best = np.stack([np.interp(m, self.levels, column) for column in self.variance.T], axis=-1)
        found = [(q - 1.0 - np.log(q)) @ self.size / 2.0 for q in (energy / self.own, energy / best)]
        return np.stack(found, axis=-1)
