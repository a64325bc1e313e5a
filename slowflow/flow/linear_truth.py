"""Variances that a linear field must produce: closed-form truths for faults planted in a Gaussian field.

Along axis i of Gaussian data with variance s_i^2 every fault that keeps the field linear makes

    d(z - mean)/dt = r_i(t) (z - mean),     so     var_i(t) = var_i(0) exp(2 int_0^t r_i)      solved exactly
                                                   var_i(t_k) = var_i(0) prod_j (1 + h_j r_i(t_j))^2        by Euler

wherever the centre lies, with v_i = alpha^2 s_i^2 + sigma^2 and

    exact         r_i = (alpha alpha' s_i^2 + sigma sigma') / v_i = v_i' / (2 v_i)
    scaled        factor r_i(t)
    mislabelled   r_i(t + offset), the label held within [0, t_max]
    smoothed      alpha' a_i + sigma' (1 - alpha a_i) / sigma,      a_i = (1 - shrink) alpha s_i^2 / v_i

The difference of two of these, or of Euler's from the exact one, is what a measurement of the same model must show.
Source: Wang and Vastola 2023 (arXiv 2311.10892) for the exact rate; the others follow from `slowflow.flow.planted`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.integrate import quad_vec

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant, interpolant
from slowflow.flow.model import FLOOR
from slowflow.flow.spectral import NEGLIGIBLE

Rate = Callable[[float], NDArray[np.float64]]
"""Time -> r [d]."""
LAST = 1.0 - 1e-8
"""Beyond this time rates are integrated as constant: they may be infinite at t = 1 (axes without variance, vp)."""
PRECISION = 1e-7
"""Absolute error allowed in the logarithm of a standard deviation, on each interval of the grid."""


def rate_exact(variances: Float[np.ndarray, " d"], path: str | Interpolant) -> Rate:
    """Rate of the exact field.

    Args:
        variances: of the data along each axis, at least 0.
        path: linear, gvp or vp.
    """

    def rate(t: float) -> np.ndarray:
        alpha, sigma, alpha_dot, sigma_dot = _coefficients(path, t)
        # where sigma' is infinite (vp at t = 1) the path preserves variance: sigma sigma' = -alpha alpha'
        noise_part = sigma * sigma_dot if np.isfinite(sigma_dot) else -alpha * alpha_dot
        return (alpha * alpha_dot * variances + noise_part) / _variance(variances, alpha, sigma)

    return rate


def rate_scaled(variances: Float[np.ndarray, " d"], path: str | Interpolant, factor: float) -> Rate:
    """Rate of `Scaled` around the exact field; arguments as there."""
    exact = rate_exact(variances, path)
    return lambda t: factor * exact(t)


def rate_smoothed(variances: Float[np.ndarray, " d"], path: str | Interpolant, shrink: float) -> Rate:
    """Rate of `Smoothed` around the exact field, whatever it shrinks towards; sigma is held at FLOOR as there."""

    def rate(t: float) -> np.ndarray:
        alpha, sigma, alpha_dot, sigma_dot = _coefficients(path, t)
        share = (1.0 - shrink) * alpha * variances / _variance(variances, alpha, sigma)
        return alpha_dot * share + sigma_dot * (1.0 - alpha * share) / max(sigma, FLOOR)

    return rate


def rate_mislabelled(
    variances: Float[np.ndarray, " d"], path: str | Interpolant, offset: float, t_max: float = 1.0
) -> Rate:
    """Rate of `Mislabelled` around the exact field; arguments as there."""
    exact = rate_exact(variances, path)
    return lambda t: exact(min(max(t + offset, 0.0), t_max))


def planted_variances(
    grid: Float[np.ndarray, " times"], rate: Rate, start: float = 1.0
) -> Float[np.ndarray, "steps d"]:
    """Variances at grid[1:] when the field is solved exactly.

    Args:
        grid: increasing times in [0, 1].
        rate: r(t), one of the above or your own.
        start: variance of every axis at grid[0]; 1 for noise.

    Returns:
        [len(grid) - 1, d].

    Raises:
        InputError: fewer than two times, or times that do not increase.
    """
    _check(grid)

    def held(t: float) -> NDArray[np.float64]:
        return rate(min(t, LAST))

    intervals = pairwise(grid.tolist())
    growth = [quad_vec(held, a, b, epsabs=PRECISION, epsrel=0.0, norm="max")[0] for a, b in intervals]
    return start * np.exp(2.0 * np.cumsum(growth, axis=0))


def euler_variances(grid: Float[np.ndarray, " times"], rate: Rate, start: float = 1.0) -> Float[np.ndarray, "steps d"]:
    """Variances at grid[1:] when the field is solved by Euler's method on the grid itself; arguments as above.

    Raises:
        InputError: fewer than two times, or times that do not increase.
    """
    _check(grid)
    factors = [1.0 + (b - a) * rate(a) for a, b in pairwise(grid.tolist())]
    return start * np.cumprod(np.square(factors), axis=0)


def _coefficients(path: str | Interpolant, t: float) -> tuple[float, float, float, float]:
    """alpha, sigma, alpha', sigma' at t; a sigma is 0 where it is for the exact field."""
    way, time = interpolant(path), torch.tensor(t, dtype=torch.float64)
    alpha, sigma, alpha_dot, sigma_dot = (float(f(time)) for f in (way.alpha, way.sigma, way.alpha_dot, way.sigma_dot))
    return alpha, sigma if sigma >= NEGLIGIBLE else 0.0, alpha_dot, sigma_dot


def _variance(variances: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """v_i, kept off zero as in the exact field."""
    return np.maximum(alpha**2 * variances + sigma**2, NEGLIGIBLE**2)


def _check(grid: np.ndarray) -> None:
    if grid.ndim != 1 or len(grid) < 2 or not bool((np.diff(grid) > 0).all()):
        raise InputError(f"a grid of shape {grid.shape} was given, expected at least two increasing times")
