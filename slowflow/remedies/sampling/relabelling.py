"""A model that is told another time than the schedule's; its answer is used at the schedule's.

    u'(state, t) = u(state, m),      m = label(state, t)

(data', noise') follow from u' at t, so that both still add up to the state and samplers agree on what a step is. On a
table of noise levels, which has no velocity, noise_hat(state, m) is kept and data' follows from it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from slowflow.flow.model import convert
from slowflow.flow.wrapper import Wrapper


@dataclass(frozen=True)
class Relabelled(Wrapper):
    """What every such model has in common."""

    @abstractmethod
    def label(self, state: Tensor, t: Tensor) -> Tensor:
        """What the model is told: one time, or one a sample, within [0, t_max]."""

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(data', noise')."""
        path, time = self.interpolant, t.to(state.dtype)
        if path.twin(t)[0] is path:
            return convert(path, "velocity", state, self.velocity(state, t, cond), time)
        _, noise = self.model.predict(state, self.label(state, t), cond)
        return convert(path, "noise", state, noise, time)

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u at the label."""
        return self.model.velocity(state, self.label(state, t), cond)
