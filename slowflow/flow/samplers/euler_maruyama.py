"""Euler-Maruyama: the drift at the start of the step, held over it, plus noise.

    state(s) = state + (s - t) (u + w score) + sqrt(2 w (s - t)) z

One network call a step gives velocity and score together (SiT's script makes two). `em` has equal steps;
`em-sit` is SiT's and REPA's protocol: a last step of 0.04, so "250 steps" are 249 noisy ones and the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS
from slowflow.flow.samplers.sde import StochasticSampler


@SAMPLERS.register(
    "em", summary="stochastic, w = sigma, one network call a step", source="Ma et al. 2024, SiT (arXiv 2401.08740)"
)
@dataclass(frozen=True)
class EulerMaruyama(StochasticSampler):
    """One evaluation of the drift a step."""

    name = "em"

    def inner(self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor) -> Tensor:
        """Drift over the step, then noise."""
        return state + (s - t) * self.drift(model, state, t, cond) + self.spread(model, t, s) * noise


SAMPLERS.register(
    "em-sit",
    summary="em with a last step of 0.04, as SiT and REPA sample",
    source="Ma et al. 2024, SiT (arXiv 2401.08740)",
)(partial(EulerMaruyama, last_step=0.04))
