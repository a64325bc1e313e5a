"""A model whose predicted noise is scaled, with the data that the state then holds.

    noise' = noise_hat / lambda(t),      data' = (state - sigma noise') / alpha
    u' = u + (1 / lambda - 1) (sigma' - sigma alpha' / alpha) noise_hat

The second line follows from the first, and is what a velocity model needs: one call, and u itself where lambda is 1.
Where alpha is below FLOOR the state holds no data that could be recomputed (t = 0 of the linear path), and the
prediction is left alone: the change of u is proportional to d log(sigma/alpha)/dt, which is infinite there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow.flow.interpolants import expand
from slowflow.flow.model import FLOOR, convert
from slowflow.flow.wrapper import Wrapper


@dataclass(frozen=True)
class NoiseScaling(Wrapper):
    """The model with noise_hat divided by lambda(t).

    Args:
        model: what predicts.
        scale: lambda, from times of any shape.
    """

    scale: Callable[[Tensor], Tensor]

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(data', noise')."""
        data, noise = self.model.predict(state, t, cond)
        share, alpha = self._share(t, state)
        sigma = expand(self.interpolant.sigma(t.to(state.dtype)), state)
        return data - share * sigma / alpha * noise, noise + share * noise

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u'."""
        u, time, path = self.model.velocity(state, t, cond), t.to(state.dtype), self.interpolant
        _, noise = convert(path, "velocity", state, u, time)
        share, alpha = self._share(t, state)
        sigma, alpha_dot, sigma_dot = (expand(f(time), state) for f in (path.sigma, path.alpha_dot, path.sigma_dot))
        return u + share * (sigma_dot - sigma * alpha_dot / alpha) * noise

    def _share(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 / lambda - 1, which is 0 where there is no data in the state; alpha, held off 0."""
        alpha, time = self.interpolant.alpha(t), t.to(torch.float64)
        share = torch.where(alpha >= FLOOR, 1.0 / self.scale(time) - 1.0, 0.0)
        return tuple(expand(x.to(like.dtype), like) for x in (share, alpha.clamp_min(FLOOR)))  # type: ignore[return-value]
