"""Grids of sampling times, and the resolution warp.

    W(t) = t / (s - (s-1) t),    inverse W^-1(t) = s t / (1 + (s-1) t)

s = 1 leaves time alone; s > 1 spends more of it near the noise (RAE: sqrt(C H W / 4096), SD3: 3).
A grid of `steps` intervals has steps + 1 times.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError


def warp(t: Float[Tensor, "..."], shift: float) -> Float[Tensor, "..."]:
    """W(t); maps 0 to 0 and 1 to 1. Source: Esser et al. 2024, SD3 (arXiv 2403.03206)."""
    return t if shift == 1.0 else t / (shift - (shift - 1.0) * t)


def unwarp(t: Float[Tensor, "..."], shift: float) -> Float[Tensor, "..."]:
    """The inverse of `warp`."""
    return t if shift == 1.0 else shift * t / (1.0 + (shift - 1.0) * t)


def uniform_grid(steps: int, *, start: float = 0.0, end: float = 1.0, shift: float = 1.0) -> Float[Tensor, " times"]:
    """steps + 1 times from `start` to `end`, float64; equally spaced before the warp.

    Args:
        steps: number of intervals, at least 1.
        start: first time, at least 0.
        end: last time, at most 1; t_max of a model that stops early.
        shift: s of the warp.

    Raises:
        InputError: steps below 1, or times outside 0 <= start < end <= 1.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1 (steps counts intervals)")
    if not 0.0 <= start < end <= 1.0:
        raise InputError(f"a grid from {start} to {end} was asked for, expected 0 <= start < end <= 1")
    bounds = unwarp(torch.tensor([start, end], dtype=torch.float64), shift)
    grid = warp(torch.linspace(float(bounds[0]), float(bounds[1]), steps + 1, dtype=torch.float64), shift)
    grid[0], grid[-1] = start, end
    return grid


def refine(grid: Float[Tensor, " times"], every: int) -> Float[Tensor, " fine"]:
    """The grid with every interval cut into `every` equal parts; every `every`-th time is one of the old ones."""
    parts = torch.arange(every, dtype=torch.float64) / every
    inner = grid[:-1, None] + parts * (grid[1:] - grid[:-1])[:, None]
    return torch.cat([inner.flatten(), grid[-1:]])
