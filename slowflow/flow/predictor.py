"""Predictor: what samplers and measures need of a model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from slowflow.flow.interpolants import Interpolant


@runtime_checkable
class Predictor(Protocol):
    """What samplers and measures need of a model: networks, guided models and exact fields all provide it."""

    @property
    def interpolant(self) -> Interpolant:
        """The path."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes, 0 when unconditional."""
        ...

    @property
    def calls(self) -> int:
        """Network evaluations one `predict` costs."""
        ...

    @property
    def t_max(self) -> float:
        """Where sampling ends."""
        ...

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(data_hat, noise_hat), each like `state`."""
        ...

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The velocity field, like `state`."""
        ...
