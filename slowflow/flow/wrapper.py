"""A wrapper: a model around a model. It changes what is predicted; everything else is the inner model's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slowflow.flow.interpolants import Interpolant
from slowflow.flow.predictor import Predictor


@dataclass(frozen=True)
class Wrapper(ABC):
    """What guidance, planted faults, clipping and remedies have in common.

    Args:
        model: network, guided model, exact field, or another wrapper.
    """

    model: Predictor

    @property
    def interpolant(self) -> Interpolant:
        """The path of the model."""
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
        """Network evaluations of one prediction."""
        return self.model.calls

    @property
    def t_max(self) -> float:
        """Where sampling ends."""
        return self.model.t_max

    @property
    def device(self) -> torch.device:
        """Where the innermost network lives; the CPU for fields that have none."""
        return getattr(self.model, "device", torch.device("cpu"))

    def for_step(self, t: Tensor) -> Predictor:
        """What a step that starts at t uses: this wrapper around what the model inside uses."""
        decide = getattr(self.model, "for_step", None)
        return self if decide is None else replace(self, model=decide(t))

    @abstractmethod
    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(data_hat, noise_hat), each like `state`."""

    @abstractmethod
    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The velocity field, like `state`."""
