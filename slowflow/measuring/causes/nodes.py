"""Nodes of a path: the times at which band energies are read, with the tables of the readings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.causes.bands import LEVELS, Bands, Node
from slowflow.measuring.closest import LAST


def nodes_of(bands: Bands, path: Interpolant, times: Iterable[float]) -> list[Node]:
    """One node a time: weights of the clocks as in `references.clocks`, a grid of levels for the likelihood."""
    levels = np.linspace(0.0, LAST, LEVELS)
    grid = torch.from_numpy(levels)
    alpha, sigma = path.alpha(grid).numpy(), path.sigma(grid).numpy()
    variance = bands.expected(alpha, sigma)
    found = []
    for t in times:
        here = torch.tensor(float(t), dtype=torch.float64)
        own = bands.expected(path.alpha(here).numpy(), path.sigma(here).numpy())
        weight = bands.size / own**2
        design = np.stack([bands.variance, np.ones_like(bands.variance)])
        readout = np.linalg.solve((design * weight) @ design.T, design * weight)
        found.append(Node(float(t), readout[0], readout[1], levels, variance, own, bands.size, alpha, sigma))
    return found
