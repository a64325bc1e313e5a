"""level: the noise level of the state by itself, from the Gaussian likelihood of its energy along the data's spectrum.

    m = argmin_m  sum_i (z_i - alpha(m) mu_i)^2 / v_i(m) + log v_i(m),      v_i = sigma(m)^2 + alpha(m)^2 lambda_i

z are the state's coordinates along the principal axes of the bank, mu and lambda their means and variances in the
data. No noise, endpoint or image is paired with the state: the answer depends on the law of the states alone, and that
law is the same for genuine states and for a perfect model. Here, unlike under `own` and `nearest`, a perfect model has
an excess of zero over genuine states; the verdict is read from it. Data are not Gaussian, so a single m is biased;
the bias is the same for genuine states and leaves with them.

Axes are grouped by variance on a logarithmic scale, so a state enters by three sums a group. An axis whose variance
solves v' = 0 at the state's time says nothing; on a variance-preserving path with whitened data none does.
Source: rivals of the maximum-likelihood kind; Stein 1981 for the reading of energies; the calibration is SlowFlow's.
"""

from __future__ import annotations

import numpy as np
import torch

from slowflow.data.bank import Bank, Spectrum
from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.closest import LAST
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories

GRID = 257
TILE = 4096


class Level:
    """One likelihood a state on a grid of m, refined by a parabola."""

    start: Start = "noise"
    shares_noise = False

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m of every state; `residual` is the misfit, 1 where the spectrum explains the energy."""
        n, times, d = batch.states.shape
        spectrum = bank.spectrum
        flat = batch.states.reshape(n * times, d)
        parts = [_fit(spectrum, flat[i : i + TILE], batch.path) for i in range(0, len(flat), TILE)]
        m, misfit = (np.concatenate([part[j] for part in parts]).reshape(n, times) for j in (0, 1))
        return Assigned(m=m, residual=misfit, boundary=(m <= 0.0) | (m >= LAST), index=np.full((n, times), -1))


def _fit(spectrum: Spectrum, states: np.ndarray, path: Interpolant) -> tuple[np.ndarray, np.ndarray]:
    """(m, misfit) of each state."""
    coordinates = states @ spectrum.axes
    sums = np.stack([coordinates**2, coordinates * spectrum.mean], axis=2)  # energy, cross term with the mean
    edges = spectrum.first_of_group
    energy, cross = np.add.reduceat(sums, edges, axis=1).transpose(2, 0, 1)
    mean2 = np.add.reduceat(spectrum.mean**2, edges)
    grid = torch.linspace(0.0, LAST, GRID, dtype=torch.float64)
    alpha, sigma = path.alpha(grid).numpy(), path.sigma(grid).numpy()
    variance = sigma[:, None] ** 2 + alpha[:, None] ** 2 * spectrum.group_variance  # [grid, group]
    weight = 1.0 / variance
    score = (
        energy @ weight.T
        - 2.0 * (cross @ weight.T) * alpha
        + (alpha**2 * (weight @ mean2))
        + (np.log(variance) @ spectrum.group_size)
    )
    best = np.argmin(score, axis=1)
    m = _parabola(grid.numpy(), score, best)
    pick = np.arange(len(states))
    explained = score[pick, best] - (np.log(variance) @ spectrum.group_size)[best]
    return m, np.sqrt(explained / spectrum.group_size.sum())


def _parabola(grid: np.ndarray, score: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Minimum of the parabola through the best grid point and its neighbours; the grid point itself at the ends."""
    inner = np.clip(best, 1, len(grid) - 2)
    pick = np.arange(len(best))
    left, centre, right = (score[pick, inner + k] for k in (-1, 0, 1))
    curvature = left - 2.0 * centre + right
    shift = np.where(curvature > 0, 0.5 * (left - right) / np.where(curvature > 0, curvature, 1.0), 0.0)
    step = grid[1] - grid[0]
    refined = np.asarray(grid[inner] + np.clip(shift, -0.5, 0.5) * step)
    return np.where(best == inner, refined, grid[best])


REFERENCES.register(
    "level",
    summary="noise level of the state from its spectrum; no pairing; the verdict's zero",
    source="Gaussian likelihood; noise-level reading of exposure bias as in NAG (arXiv 2510.12497)",
)(Level())
