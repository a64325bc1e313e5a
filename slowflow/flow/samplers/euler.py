"""Euler: state + (s - t) u(state, t). Order 1, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register("euler", summary="first order, one network call a step", source="Euler 1768")
class Euler(Sampler):
    """The velocity at the start of the step, held over the step."""

    name = "euler"

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """state + (s - t) u(state, t)."""
        return state + (s - t) * model.velocity(state, t, cond)
