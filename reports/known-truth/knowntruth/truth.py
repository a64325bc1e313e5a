"""Exact fields in the reduced coordinates of a world: v*, and the optimum of MixFlow's loss.

    v*(x, m) = sum_k p(k | x, m) [c_k + v_i'/(2 v_i) (z - m c_k)_i]  on the signal,   v'/(2 v) rest  on the idle axes
    u_gamma(x, t) = E[ v*(x, m) | x ],   m ~ U[(1-gamma) t, t] a priori

The posterior over m is narrow in high dimension (1 / sqrt(I)), so the quadrature goes twice: once over the whole
interval, then over what of it carries weight. `slowflow.flow.mixflow_optimum` has the general field; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from knowntruth.worlds import World, idle_variance, log_density, scores

NODES = 33
REACH = 5.0
"""Half-width of the second pass, in posterior standard deviations of the first."""


def parts(one: World, inside: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """v* at m: its signal coordinates [..., r] and the factor of the rest [...]."""
    share = torch.softmax(scores(one, inside, m), dim=-1)
    centre = share @ one.centres
    time = m[..., None]
    slope = (time * one.spreads**2 - (1 - time)) / ((1 - time) ** 2 + (time * one.spreads) ** 2)
    idle = (m * one.idle**2 - (1 - m)) / idle_variance(one, m)
    return centre + slope * (inside - time * centre), idle


def assemble(one: World, signal: Tensor, idle: Tensor, rest: Tensor) -> Tensor:
    """Back to states."""
    return signal @ one.basis.T + idle[..., None] * rest


def levels(one: World, inside: Tensor, energy: Tensor, t: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Nodes of m [n, q] and their posterior weights [n, q], sum 1."""
    q = (torch.arange(NODES, dtype=inside.dtype) + 0.5) / NODES
    low, width = (1 - gamma) * t[:, None], gamma * t[:, None]
    m = low + width * q
    weight = torch.softmax(log_density(one, inside[:, None], energy[:, None], m), dim=1)
    mean = (weight * m).sum(1, keepdim=True)
    deviation = (weight * (m - mean).square()).sum(1, keepdim=True).sqrt()
    reach = torch.maximum(REACH * deviation, 1.5 * width / NODES)
    start, stop = torch.maximum(mean - reach, low), torch.minimum(mean + reach, low + width)
    m = start + (stop - start) * q
    return m, torch.softmax(log_density(one, inside[:, None], energy[:, None], m), dim=1)


@dataclass(frozen=True)
class Optimum:
    """The field that minimises MixFlow's loss; gamma = 0 is v* itself."""

    world: World
    gamma: float = 0.0

    def __call__(self, state: Tensor, t: Tensor) -> Tensor:
        """state [n, d], t [n] -> velocity [n, d]."""
        inside, rest = self.world.split(state)
        if self.gamma == 0.0:
            signal, idle = parts(self.world, inside, t)
            return assemble(self.world, signal, idle, rest)
        m, weight = levels(self.world, inside, rest.square().sum(-1), t, self.gamma)
        signal, idle = parts(self.world, inside[:, None].expand(-1, m.shape[1], -1), m)
        return assemble(self.world, (weight[..., None] * signal).sum(1), (weight * idle).sum(1), rest)
