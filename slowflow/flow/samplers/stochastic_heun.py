"""Heun for the stochastic sampler: noise first, then Heun's mean of two drifts.

    x^ = state + sqrt(2 w(t) (s - t)) z,    k1 = f(x^, t),    k2 = f(x^ + (s - t) k1, s)
    state(s) = x^ + (s - t) (k1 + k2) / 2,                    f = u + w score

The last step is the same as Euler-Maruyama's. Source: Karras et al. 2022 (arXiv 2206.00364), as SiT uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS
from slowflow.flow.samplers.sde import StochasticSampler


@dataclass(frozen=True)
class StochasticHeun(StochasticSampler):
    """Two evaluations of the drift a step, one on the last."""

    name = "sde-heun"

    def inner(self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor) -> Tensor:
        """Noise, then the mean of the drifts at both ends."""
        noisy = state + self.spread(model, t, s) * noise
        first = self.drift(model, noisy, t, cond)
        return noisy + (s - t) * (first + self.drift(model, noisy + (s - t) * first, s, cond)) / 2


SAMPLERS.register(
    "sde-heun",
    summary="stochastic Heun, w = sigma, last step 0.04, two network calls a step",
    source="Ma et al. 2024, SiT (arXiv 2401.08740)",
)(partial(StochasticHeun, last_step=0.04))
