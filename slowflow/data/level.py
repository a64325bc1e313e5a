"""The noise level of single states, from the Gaussian likelihood of their energy along the data's spectrum.

    m = argmin_m  sum_i (z_i - alpha(m) mu_i)^2 / v_i(m) + log v_i(m),      v_i = sigma(m)^2 + alpha(m)^2 lambda_i

z are the state's coordinates along the principal axes of the data, mu and lambda the means and variances there. Axes are
grouped by variance on a logarithmic scale, so a state enters by three sums a group. NumPy, rows in and numbers out: what
measures states and what corrects them read the same level.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from slowflow.data.bank import Spectrum
from slowflow.flow.interpolants import Interpolant

GRID = 257
LAST = 1.0 - 1e-12
"""Largest m: at 1 itself an axis without variance would be divided by."""
TILE = 4096


def noise_levels(
    spectrum: Spectrum, states: Float[np.ndarray, "n d"], path: Interpolant
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(m, misfit) of each state, on a grid of m refined by a parabola.

    Args:
        spectrum: principal axes of the data.
        states: one a row.
        path: the interpolant.

    Returns:
        m in [0, LAST], and a misfit that is 1 where the spectrum explains the energy.
    """
    parts = [levels_along(spectrum, states[i : i + TILE] @ spectrum.axes, path) for i in range(0, len(states), TILE)]
    m, misfit = (np.concatenate([part[j] for part in parts]) for j in (0, 1))
    return m, misfit


def levels_along(
    spectrum: Spectrum, coordinates: Float[np.ndarray, "n d"], path: Interpolant
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """`noise_levels` of states whose coordinates along the axes are known."""
    parts = [_fit(spectrum, coordinates[i : i + TILE], path) for i in range(0, len(coordinates), TILE)]
    m, misfit = (np.concatenate([part[j] for part in parts]) for j in (0, 1))
    return m, misfit


def _fit(spectrum: Spectrum, coordinates: np.ndarray, path: Interpolant) -> tuple[np.ndarray, np.ndarray]:
    """(m, misfit) of each state."""
    edges = spectrum.first_of_group
    energy = np.add.reduceat(np.square(coordinates), edges, axis=1)
    cross = np.add.reduceat(coordinates * spectrum.mean, edges, axis=1)  # with the mean
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
    pick = np.arange(len(coordinates))
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
