"""Heun: the mean of the velocities at both ends of a step. Order 2, two evaluations a step.

Also called improved Euler or explicit trapezoid (torchdiffeq calls something else "heun2" too: the same formula).
Where the velocity is infinite at the end of the last step (VP at t = 1) that step is Euler's, as REPA and JiT do for
every path; on linear and gvp the correction is made to the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register("heun", summary="second order, two network calls a step", source="Heun 1900; Karras et al. 2022 (arXiv 2206.00364)")
class Heun(Sampler):
    """Predict with Euler, correct with the mean velocity."""

    name = "heun"
    order = 2
    evaluations = 2

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """state + (s - t) (u(state, t) + u(predicted, s)) / 2."""
        first = model.velocity(state, t, cond)
        predicted = state + (s - t) * first
        if not bool(torch.isfinite(model.interpolant.sigma_dot(s))):
            return predicted
        return state + (s - t) * (first + model.velocity(predicted, s, cond)) / 2

    def network_calls(self, model: Predictor, steps: int) -> int:
        """2 a step, one less where the last step cannot be corrected."""
        end = torch.tensor(model.t_max, dtype=torch.float64)
        uncorrected = 0 if bool(torch.isfinite(model.interpolant.sigma_dot(end))) else 1
        return (2 * steps - uncorrected) * model.calls
