"""What remedies that change the state between two times share: a sampler around a sampler, and a witness.

A remedy that needs what the network said in a step does not ask it again: the step is made with a witness in the model's
place, which hands every question on and keeps the last answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from slowflow.flow.model import FlowModel, convert
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.flow.wrapper import Wrapper

Answer = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Witness(Wrapper):
    """The model, and its last answer as (data_hat, noise_hat).

    Args:
        model: what answers.
        answers: the last one, made only when it is asked for.
    """

    answers: list[Callable[[], Answer]] = field(default_factory=list)

    @classmethod
    def of(cls, model: Predictor) -> Witness:
        """A new witness."""
        return cls(model)

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """The model's."""
        answer = self.model.predict(state, t, cond)
        self.answers[:] = [lambda: answer]
        return answer

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The model's."""
        u = self.model.velocity(state, t, cond)
        self.answers[:] = [lambda: convert(self.interpolant, "velocity", state, u, t.to(state.dtype))]
        return u

    def last(self) -> Answer:
        """(data_hat, noise_hat) of the last question."""
        return self.answers[0]()


@dataclass(frozen=True)
class Stepping(Sampler):
    """A sampler around a sampler; a remedy implements `step`.

    Args:
        inner: what steps.
    """

    inner: Sampler

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the sampler inside."""
        return self.inner.name

    @property
    def order(self) -> int:  # type: ignore[override]
        """Of the sampler inside."""
        return self.inner.order

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """As the sampler inside."""
        return self.inner.stochastic

    def grid(self, model: FlowModel, steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
        """Of the sampler inside."""
        return self.inner.grid(model, steps, shift)
