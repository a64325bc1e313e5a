"""Worlds: Gaussian mixtures that differ in how well a state tells its own noise level, and in nothing else.

    data = A (c_k + S e) + s0 (I - A A^T) e'        A [d, r] orthonormal, r = 8, k of 8 components, unequal weights

The r signal axes carry the same mixture at every dimension d; the d - r other axes carry plain Gaussian spread s0. On
the linear path a state at m has variance v_i = (1-m)^2 + m^2 s_i^2 along axis i, so the level's information is

    I(m) = 1/2 sum_i (v_i' / v_i)^2     (second moments alone; the mixture's shape adds a little)

which grows like d. With s0 = 0.2 ("manifold") every idle axis tells the level; with s0 = 1 ("white") v = (1-m)^2 + m^2 is
nearly flat and says nothing at m = 1/2. Everything exact needs only the r signal coordinates and the energy of the rest.
Source: Fisher information of a Gaussian variance, Cramer 1946.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow import rng

SIGNAL = 8
WEIGHTS = (4, 4, 2, 2, 1, 1, 1, 1)
SPREAD = 2.0
"""Standard deviation of the centres along each signal axis."""


@dataclass(frozen=True)
class World:
    """One mixture. basis [d, r]; centres [k, r]; weights [k], sum 1; spreads [r]; idle: s0."""

    basis: Tensor
    centres: Tensor
    weights: Tensor
    spreads: Tensor
    idle: float

    @property
    def d(self) -> int:
        """Dimension."""
        return len(self.basis)

    @property
    def rest(self) -> int:
        """How many axes carry no signal."""
        return self.d - len(self.spreads)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(data [n, d], component of each [n])."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        inside = self.centres[which] + self.spreads * torch.randn(n, len(self.spreads), generator=generator)
        ambient = self.idle * torch.randn(n, self.d, generator=generator)
        return ambient + (inside - ambient @ self.basis) @ self.basis.T, which

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(signal coordinates [..., r], what is left [..., d])."""
        inside = state @ self.basis
        return inside, state - inside @ self.basis.T

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [r] and covariance [r, r] of the signal."""
        mean = self.weights @ self.centres
        gap = self.centres - mean
        return mean, (gap * self.weights[:, None]).T @ gap + torch.diag(self.spreads.square())


def world(d: int, idle: float, seed: int) -> World:
    """The world of a dimension, a spread of the idle axes, and a seed (its centres and its axes)."""
    draws = rng.torch_generator(seed, "world")
    centres = SPREAD * torch.randn(len(WEIGHTS), SIGNAL, generator=draws)
    basis = torch.linalg.qr(torch.randn(d, SIGNAL, generator=draws))[0]
    weights = torch.tensor(WEIGHTS, dtype=torch.float32)
    spreads = torch.linspace(0.7, 0.2, SIGNAL)
    return World(basis, centres, weights / weights.sum(), spreads, idle)


def scores(one: World, inside: Tensor, m: Tensor) -> Tensor:
    """log w_k p(signal | k, m), [..., k]; m broadcasts against the leading axes of `inside`."""
    v = (1 - m[..., None]) ** 2 + (m[..., None] * one.spreads) ** 2
    gap = inside[..., None, :] - m[..., None, None] * one.centres
    quadratic = (gap.square() / v[..., None, :]).sum(-1)
    norm = v.log().sum(-1) + len(one.spreads) * math.log(2 * math.pi)
    return one.weights.log() - 0.5 * (quadratic + norm[..., None])


def idle_variance(one: World, m: Tensor) -> Tensor:
    """Variance of a state at m along each idle axis."""
    return (1 - m) ** 2 + (m * one.idle) ** 2


def log_density(one: World, inside: Tensor, energy: Tensor, m: Tensor) -> Tensor:
    """log p(state | m); energy: squared length of the rest."""
    v = idle_variance(one, m)
    rest = -0.5 * (energy / v + one.rest * (v.log() + math.log(2 * math.pi)))
    return scores(one, inside, m).logsumexp(-1) + rest


def information(one: World, m: Tensor) -> Tensor:
    """Fisher information of second moments about m, pooled over components: 1/2 sum_i (v_i' / v_i)^2."""
    total = one.moments()[1].diagonal()
    found = torch.zeros_like(m)
    for variance, count in [*((float(s), 1) for s in total), (one.idle**2, one.rest)]:
        v = (1 - m) ** 2 + m**2 * variance
        found = found + 0.5 * count * ((2 * m * variance - 2 * (1 - m)) / v).square()
    return found
