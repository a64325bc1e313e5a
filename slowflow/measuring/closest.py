"""The closest time on the interpolation of one given pair.

For noise x0 and data y the squared distance of a state x from alpha(m) y + sigma(m) x0 depends on five inner products
only, so no candidate is ever built:

    |x|^2 - 2 alpha <x,y> - 2 sigma <x,x0> + alpha^2 |y|^2 + 2 alpha sigma <y,x0> + sigma^2 |x0|^2

On the linear path the minimum is closed-form, m = <x - x0, y - x0> / |y - x0|^2, and is not confined to [0, 1]: a
value outside is a finding. On curved paths it is the root of the derivative, bracketed on a grid.
All arithmetic is float64, row by row, so that an answer does not depend on the batch it was computed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.data.level import LAST as LAST  # curved paths are searched up to here: sigma' of VP is infinite at 1
from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant

GRID = 257
BISECTIONS = 60
TILE = 2**17
"""Bytes of each array that are looked at together on straight paths."""


@dataclass(frozen=True)
class Closest:
    """The nearest time of each state.

    Args:
        m: [n]; on the linear path it may lie outside [0, 1].
        distance: [n], Euclidean distance at the nearest time inside [0, 1].
        boundary: [n], True where the nearest time inside [0, 1] is an end of it.
    """

    m: np.ndarray
    distance: np.ndarray
    boundary: np.ndarray


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # a sum along the last axis reduces each row by itself, unlike a BLAS product, whose blocking depends on the batch
    return np.multiply(a, b).sum(axis=1)


def closest_time(
    state: Float[Tensor, "n *data"], noise: Float[Tensor, "n *data"], data: Float[Tensor, "n *data"], path: Interpolant
) -> Closest:
    """Slowed timestep of each state against its own given pair.

    Args:
        state: canonical states.
        noise, data: the pair of each state, the same shape.
        path: the interpolant.

    Raises:
        InputError: shapes differ, or a pair has equal noise and data (its line is a point).

    Source: MixFlow (arXiv 2512.19311), Figure 1 caption; the choice of pair is the reference's.
    """
    if not state.shape == noise.shape == data.shape:
        raise InputError(
            f"state {tuple(state.shape)}, noise {tuple(noise.shape)} and data {tuple(data.shape)} must be equal"
        )
    x, x0, y = (a.detach().cpu().to(torch.float64).flatten(1).numpy() for a in (state, noise, data))
    if path.straight:
        return _on_line(x, x0, y)
    return _on_curve(x, x0, y, path)


def _on_line(x: np.ndarray, x0: np.ndarray, y: np.ndarray) -> Closest:
    """A few rows at a time, so that differences and products stay in the cache; a row's answer is the same alone."""
    m, square = np.empty(len(x)), np.empty(len(x))
    rows = max(TILE // max(x[:1].nbytes, 1), 1)
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        r, v = x[part] - x0[part], y[part] - x0[part]
        length = _dot(v, v)
        if not (length > 0).all():
            row = first + int(np.flatnonzero(length <= 0)[0])
            raise InputError(f"pair {row} has equal noise and data; the nearest time on it is undefined")
        m[part] = _dot(r, v) / length
        r -= np.clip(m[part], 0.0, 1.0)[:, None] * v
        square[part] = _dot(r, r)
    return Closest(m, np.sqrt(square), (m <= 0.0) | (m >= 1.0))


def _on_curve(x: np.ndarray, x0: np.ndarray, y: np.ndarray, path: Interpolant) -> Closest:
    products = {"xy": _dot(x, y), "xn": _dot(x, x0), "yy": _dot(y, y), "yn": _dot(y, x0), "nn": _dot(x0, x0)}
    grid = np.linspace(0.0, LAST, GRID)
    best = np.argmin(_energy(path, grid[None, :], {k: v[:, None] for k, v in products.items()}), axis=1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, GRID - 1)]
    falling_low, falling_high = _slope(path, low, products) < 0, _slope(path, high, products) < 0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        falling = _slope(path, middle, products) < 0
        low, high = np.where(falling, middle, low), np.where(falling, high, middle)
    # no root inside the bracket: the minimum is at an end of [0, 1]
    m = np.where(~falling_low, 0.0, np.where(falling_high, 1.0, 0.5 * (low + high)))
    times = torch.from_numpy(m)
    rest = x - path.alpha(times).numpy()[:, None] * y - path.sigma(times).numpy()[:, None] * x0
    return Closest(m, np.sqrt(_dot(rest, rest)), (m <= 0.0) | (m >= 1.0))


def _energy(path: Interpolant, m: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    times = torch.from_numpy(m)
    a, s = path.alpha(times).numpy(), path.sigma(times).numpy()
    return a**2 * p["yy"] + 2 * a * s * p["yn"] + s**2 * p["nn"] - 2 * a * p["xy"] - 2 * s * p["xn"]


def _slope(path: Interpolant, m: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    # the sign of the slope is the same on any clock, and a table has derivatives only on its twin's
    path, times = path.twin(torch.from_numpy(m))
    a, s = path.alpha(times).numpy(), path.sigma(times).numpy()
    da, ds = path.alpha_dot(times).numpy(), path.sigma_dot(times).numpy()
    return da * (a * p["yy"] + s * p["yn"] - p["xy"]) + ds * (s * p["nn"] + a * p["yn"] - p["xn"])
