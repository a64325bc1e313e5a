"""Heun: the mean of the velocities at both ends of a step. Order 2, two evaluations a step.

Also called improved Euler or explicit trapezoid (torchdiffeq calls something else "heun2" too: the same formula).
Where the velocity is infinite at the end of the last step (VP at t = 1) that step is Euler's; with `last_euler` it is
on every path, as EDM, REPA and JiT have it. SiT corrects to the end, which is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register(
    "heun", summary="second order, two network calls a step", source="Heun 1900; Karras et al. 2022 (arXiv 2206.00364)"
)
@dataclass(frozen=True)
class Heun(Sampler):
    """Predict with Euler, correct with the mean velocity.

    Args:
        last_euler: leave the step that ends at t_max uncorrected.
    """

    last_euler: bool = False
    name = "heun"
    order = 2

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """state + (s - t) (u(state, t) + u(predicted, s)) / 2."""
        first = model.velocity(state, t, cond)
        predicted = state + (s - t) * first
        if float(s) >= model.t_max and self._last_is_euler(model):
            return predicted
        return state + (s - t) * (first + model.velocity(predicted, s, cond)) / 2

    def _last_is_euler(self, model: Predictor) -> bool:
        end = torch.tensor(model.t_max, dtype=torch.float64)
        return self.last_euler or not bool(torch.isfinite(model.interpolant.sigma_dot(end)))


SAMPLERS.register(
    "heun-last-euler",
    summary="heun with an uncorrected last step, 2 N - 1 network calls for N steps",
    source="Karras et al. 2022 (arXiv 2206.00364); REPA (arXiv 2410.06940)",
)(partial(Heun, last_euler=True))
