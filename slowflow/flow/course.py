"""A course: what sampling walks. The field that is asked, the sampler that moves the state, and the times it visits.

Guidance and a remedy come in here and nowhere else, so that whatever samples, counts or measures does the same thing:

    field = remedy.around(guided model),      (sampler, steps) = remedy.solver(sampler, steps)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler, sampler


@runtime_checkable
class Correction(Protocol):
    """What sampling needs of a sampling remedy; the remedies themselves are in `slowflow.remedies.sampling`."""

    @property
    def equal_calls(self) -> bool:
        """True when it promises as many network calls as sampling without it."""
        ...

    def around(self, model: Predictor) -> Predictor:
        """The model that is asked."""
        ...

    def solver(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """The sampler that moves the state, and its number of intervals."""
        ...

    def check(self, model: Predictor, method: Sampler) -> None:
        """Refuse a model or a sampler that it cannot work with.

        Raises:
            InputError: one sentence that says why.
        """
        ...

    def record(self) -> dict[str, Any]:
        """Its name and settings in plain values, for protocols."""
        ...


@dataclass(frozen=True)
class Course:
    """What is walked.

    Args:
        field: what is asked. method: how a state moves. grid: the times, float64.
    """

    field: Predictor
    method: Sampler
    grid: Float[Tensor, " times"]


def course(
    model: FlowModel,
    method: str | Sampler,
    steps: int,
    *,
    guidance: float = 1.0,
    shift: float = 1.0,
    remedy: Correction | None = None,
) -> Course:
    """The course of a run.

    Args:
        model: in canonical time.
        method: sampler.
        steps: intervals.
        guidance: scale; 1 = none.
        shift: further warp of the grid.
        remedy: what corrects sampling; None = nothing.

    Raises:
        InputError: the remedy does not work with this model or sampler.
    """
    stepper, count = solver_of(model, method, steps, remedy)
    return Course(field_of(model, guidance, remedy), stepper, stepper.grid(model, count, shift))


def field_of(model: FlowModel, guidance: float, remedy: Correction | None = None) -> Predictor:
    """The guided and remedied model."""
    field = guided(model, guidance)
    return field if remedy is None else remedy.around(field)


def solver_of(
    model: FlowModel, method: str | Sampler, steps: int, remedy: Correction | None = None
) -> tuple[Sampler, int]:
    """The remedied sampler and its number of intervals."""
    stepper = sampler(method)
    if remedy is None:
        return stepper, steps
    remedy.check(model, stepper)
    return remedy.solver(stepper, steps)


def recorded_remedy(remedy: Correction | None) -> dict[str, Any]:
    """What a remedy adds to a configuration: nothing when there is none."""
    return {} if remedy is None else {"remedy": remedy.record()}
