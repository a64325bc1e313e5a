"""Classifier-free guidance as a wrapper: a guided model is a model.

    u = u(null) + scale (u(cond) - u(null))      inside an interval of t, u(cond) outside it

Conditional and null halves go through the network as one batch. Because every conversion is affine in the network's
output, guiding predictions or velocities is the same thing.
Source: Ho and Salimans 2022 (arXiv 2207.12598); interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant, expand
from slowflow.flow.model import FlowModel, Predictor


@dataclass(frozen=True)
class Guided:
    """A class-conditional model under guidance.

    Args:
        model: must have a null condition.
        scale: 1 is the conditional model, 0 the unconditional one.
        interval: closed interval of t in which guidance acts.
    """

    model: FlowModel
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.model.null is None:
            raise InputError(f"'{self.model.name}' has no null condition, so guidance has nothing to push away from")

    @property
    def interpolant(self) -> Interpolant:
        """The model's path."""
        return self.model.interpolant

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state."""
        return self.model.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.classes

    @property
    def calls(self) -> int:
        """Two evaluations a prediction."""
        return 2 * self.model.calls

    @property
    def t_max(self) -> float:
        """Where sampling ends."""
        return self.model.t_max

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (data_hat, noise_hat)."""
        active = self._active(t)
        if not bool(active.any()):
            return self.model.predict(state, t, cond)
        data, noise = self.model.predict(*self._double(state, t, cond))
        return self._mix(data, active), self._mix(noise, active)

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Guided velocity."""
        active = self._active(t)
        if not bool(active.any()):
            return self.model.velocity(state, t, cond)
        return self._mix(self.model.velocity(*self._double(state, t, cond)), active)

    def _active(self, t: Tensor) -> Tensor:
        """Where guidance acts: one flag, or one a sample."""
        return (t >= self.interval[0]) & (t <= self.interval[1])

    def _double(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        null = torch.full_like(cond, int(self.model.null))  # type: ignore[arg-type]
        times = t if t.ndim == 0 else torch.cat([t, t])
        return torch.cat([state, state]), times, torch.cat([cond, null])

    def _mix(self, out: Tensor, active: Tensor) -> Tensor:
        given, null = out.chunk(2)
        return torch.where(expand(active, given), null + self.scale * (given - null), given)


def guided(model: FlowModel, scale: float) -> Predictor:
    """The model itself at scale 1, else the guided model."""
    if not 0.0 <= scale <= 100.0:
        raise InputError(f"guidance is {scale}, expected a scale between 0 and 100 (1 = none)")
    return model if scale == 1.0 else Guided(model, scale)
