"""Interpolants: how data and noise are mixed at time t.

    state = alpha(t) * data + sigma(t) * noise,        t = 0 noise, t = 1 data
    velocity u = alpha'(t) * data + sigma'(t) * noise

Three continuous ones: linear (rectified flow, SiT's default), gvp (trigonometric, alpha^2 + sigma^2 = 1) and
vp (the continuous variance-preserving schedule of SiT, beta from 0.1 to 20). VP at t = 0 keeps 0.7 % of the data
(alpha(0) = 0.0066) and its sigma' is infinite at t = 1. DDPM's table of noise levels is in table.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slowflow.registry import Registry

INTERPOLANTS: Registry[type[Interpolant]] = Registry("interpolant", "slowflow.flow")


def expand(t: Shaped[Tensor, "..."], like: Tensor) -> Tensor:
    """Give a time (or a flag) of shape [] or [sample] trailing axes so that it broadcasts against `like` [sample, *data]."""
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


class Interpolant(ABC):
    """alpha, sigma, their derivatives, and what follows from them. Times are tensors in [0, 1], any shape."""

    name: str
    straight = False
    """True when u does not depend on t, so that an interpolation is a straight line in state space."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Coefficient of the data; increasing, 1 at t = 1."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Coefficient of the noise; decreasing, 0 at t = 1."""

    @abstractmethod
    def alpha_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Derivative of alpha."""

    @abstractmethod
    def sigma_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Derivative of sigma."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The t at which `log_snr(t)` has this value."""

    def log_snr(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log(alpha^2 / sigma^2): -inf at pure noise, +inf at data; strictly increasing."""
        return 2.0 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def twin(self, t: Float[Tensor, "..."]) -> tuple[Interpolant, Float[Tensor, "..."]]:
        """A path with derivatives and the time on it at which alpha and sigma are those of t here: itself, unless it is a table."""
        return self, t

    def state(self, noise: Tensor, data: Tensor, t: Float[Tensor, "..."]) -> Tensor:
        """alpha(t) data + sigma(t) noise; t is a scalar or one value a sample."""
        return expand(self.alpha(t), data) * data + expand(self.sigma(t), data) * noise

    def velocity(self, noise: Tensor, data: Tensor, t: Float[Tensor, "..."]) -> Tensor:
        """alpha'(t) data + sigma'(t) noise, the regression target of a velocity network."""
        return expand(self.alpha_dot(t), data) * data + expand(self.sigma_dot(t), data) * noise


@INTERPOLANTS.register(
    "linear", summary="alpha = t, sigma = 1 - t; straight lines", source="Liu et al. 2022 (arXiv 2209.03003)"
)
class Linear(Interpolant):
    name = "linear"
    straight = True

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return t

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1.0 - t

    def alpha_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def sigma_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.ones_like(t)

    def time_of_log_snr(self, log_snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sigmoid(log_snr / 2.0)


@INTERPOLANTS.register(
    "gvp",
    summary="alpha = sin(pi t / 2), sigma = cos(pi t / 2)",
    source="Ma et al. 2024, SiT (arXiv 2401.08740)",
)
class GVP(Interpolant):
    name = "gvp"

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sin(t * (math.pi / 2))

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.cos(t * (math.pi / 2))

    def alpha_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (math.pi / 2) * torch.cos(t * (math.pi / 2))

    def sigma_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -(math.pi / 2) * torch.sin(t * (math.pi / 2))

    def time_of_log_snr(self, log_snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (2.0 / math.pi) * torch.atan(torch.exp(log_snr / 2.0))


@INTERPOLANTS.register(
    "vp",
    summary="continuous variance preserving, beta from 0.1 to 20",
    source="Song et al. 2021 (arXiv 2011.13456) in the time of SiT (arXiv 2401.08740)",
)
class VP(Interpolant):
    """alpha = exp(L), L = -(b1 - b0)/4 (1 - t)^2 - b0/2 (1 - t), sigma = sqrt(1 - exp(2 L))."""

    name = "vp"
    _b0, _b1 = 0.1, 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        u = 1.0 - t
        return -0.25 * (self._b1 - self._b0) * u**2 - 0.5 * self._b0 * u

    def _log_alpha_dot(self, t: Tensor) -> Tensor:
        return 0.5 * (self._b1 - self._b0) * (1.0 - t) + 0.5 * self._b0

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # expm1 keeps sigma exact near the data end, where 1 - exp(2L) would cancel
        return torch.sqrt(-torch.expm1(2.0 * self._log_alpha(t)))

    def alpha_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.alpha(t) * self._log_alpha_dot(t)

    def sigma_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.exp(2.0 * self._log_alpha(t)) * self._log_alpha_dot(t) / self.sigma(t)

    def time_of_log_snr(self, log_snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # exp(2L) = sigmoid(log_snr); then L is a quadratic in u = 1 - t
        log_alpha = 0.5 * torch.nn.functional.logsigmoid(log_snr)
        a, b = 0.25 * (self._b1 - self._b0), 0.5 * self._b0
        # the root of a u^2 + b u + L = 0, written so that it stays exact for small u
        u = -2.0 * log_alpha / (b + torch.sqrt(b**2 - 4.0 * a * log_alpha))
        return 1.0 - u


def interpolant(name: str | Interpolant) -> Interpolant:
    """The interpolant called `name` (linear, gvp, vp or table); an interpolant is returned as it is."""
    return name if isinstance(name, Interpolant) else INTERPOLANTS.get(name)()
