"""Guidance as a wrapper: a guided model is a model.

    u = g + scale (u(cond) - g)      inside an interval of t, u(cond) outside it

g is the model's own answer without the condition (classifier-free guidance; both halves go through the network as one
batch), or the answer of a weaker guide under the same condition (autoguidance; one call each, nothing is doubled).
Because every conversion is affine in the network's output, guiding predictions or velocities is the same thing.
Source: Ho and Salimans 2022 (arXiv 2207.12598); interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724);
autoguidance: Karras et al. 2024 (arXiv 2406.02507).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.habits import Guiding
from slowflow.flow.interpolants import expand
from slowflow.flow.model import FlowModel
from slowflow.flow.predictor import Predictor
from slowflow.flow.wrapper import Wrapper

EDGE = 1e-9
"""An interval is closed: a time that is its end but for rounding belongs to it."""


@dataclass(frozen=True)
class Guided(Wrapper):
    """A class-conditional model under guidance.

    Args:
        model: must have a null condition, unless a guide is given.
        scale: 1 is the conditional model, 0 the null condition or the guide.
        how: interval, channels, moment of decision, guide.
    """

    model: FlowModel
    scale: float
    how: Guiding = field(default_factory=Guiding)

    def __post_init__(self) -> None:
        guide = self.how.guide
        if guide is None and self.model.null is None:
            raise InputError(f"'{self.model.name}' has no null condition, so guidance has nothing to push away from")
        if guide is not None and (guide.shape, guide.classes) != (self.model.shape, self.model.classes):
            raise InputError(
                f"the guide makes states of shape {guide.shape} in {guide.classes} classes, '{self.model.name}' makes "
                f"{self.model.shape} in {self.model.classes}; they must agree"
            )
        if guide is not None and guide.interpolant.name != self.model.interpolant.name:
            raise InputError(
                f"the guide's path is '{guide.interpolant.name}', the model's '{self.model.interpolant.name}'"
            )

    @property
    def calls(self) -> int:
        """Evaluations of one guided prediction: the model twice, or the model and its guide once each."""
        return self.model.calls + (self.model.calls if self.how.guide is None else self.how.guide.calls)

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (data_hat, noise_hat)."""
        active = self._active(t)
        if not bool(active.any()):
            return self.model.predict(state, t, cond)
        if self.how.guide is not None:
            pairs = zip(self.model.predict(state, t, cond), self.how.guide.predict(state, t, cond), strict=True)
            data, noise = (self._mix(given, weak, active) for given, weak in pairs)
        else:
            halves = (out.chunk(2) for out in self.model.predict(*self._double(state, t, cond)))
            data, noise = (self._mix(given, null, active) for given, null in halves)
        return data, noise

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Guided velocity."""
        active = self._active(t)
        if not bool(active.any()):
            return self.model.velocity(state, t, cond)
        if self.how.guide is not None:
            given, weak = self.model.velocity(state, t, cond), self.how.guide.velocity(state, t, cond)
        else:
            given, weak = self.model.velocity(*self._double(state, t, cond)).chunk(2)
        return self._mix(given, weak, active)

    def for_step(self, t: Tensor) -> Predictor:
        """What a step that starts at t uses: decided here for all of its evaluations, or left to each of them."""
        if self.how.decide == "each":
            return self
        return replace(self, how=replace(self.how, interval=(0.0, 1.0))) if bool(self._active(t)) else self.model

    def _active(self, t: Tensor) -> Tensor:
        """Where guidance acts: one flag, or one a sample."""
        low, high = self.how.interval
        return (t >= low - EDGE) & (t <= high + EDGE)

    def _double(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        null = torch.full_like(cond, int(self.model.null))  # type: ignore[arg-type]
        times = t if t.ndim == 0 else torch.cat([t, t])
        return torch.cat([state, state]), times, torch.cat([cond, null])

    def _mix(self, given: Tensor, weak: Tensor, active: Tensor) -> Tensor:
        out = torch.where(expand(active, given), weak + self.scale * (given - weak), given)
        channels = self.how.channels
        return out if channels is None else torch.cat([out[:, :channels], given[:, channels:]], dim=1)


def guided(model: FlowModel, scale: float) -> FlowModel | Guided:
    """The model itself at scale 1, else the guided model, in the way of its authors (`model.guiding`)."""
    if not 0.0 <= scale <= 100.0:
        raise InputError(f"guidance is {scale}, expected a scale between 0 and 100 (1 = none)")
    return model if scale == 1.0 else Guided(model, scale, model.guiding)
