"""Network calls, counted and not computed: the sampler is run on a network that only counts.

Guidance intervals, uncorrected last steps and guides make formulas for the number of calls wrong sooner or later; a
dry run over the same grid with the same code cannot be.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.flow.course import Correction, course
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import Sampler, walk

ONE = (1,)
"""States of one value: how many calls are made does not depend on what a state is."""


class _Counter(nn.Module):
    """Answers zero and counts the rows it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Tensor:
        self.rows += len(state)
        return torch.zeros_like(state)


def network_calls(
    model: FlowModel,
    method: str | Sampler,
    steps: int,
    *,
    guidance: float = 1.0,
    shift: float = 1.0,
    remedy: Correction | None = None,
) -> int:
    """Network evaluations one sample costs, those of a guide included.

    Args:
        model: in canonical time.
        method: sampler.
        steps: intervals.
        guidance: scale; 1 = none.
        shift: further warp of the grid.
        remedy: what corrects sampling; its calls are counted too.

    Raises:
        InputError: a remedy that promises as many calls as sampling without it, and does not keep it here.
    """
    calls = _counted(model, method, steps, guidance, shift, remedy)
    if remedy is not None and remedy.equal_calls:
        plain = _counted(model, method, steps, guidance, shift, None)
        if calls != plain:
            raise InputError(
                f"the remedy '{remedy.record()['name']}' is compared at equal network calls, but takes {calls} here where "
                f"sampling without it takes {plain}; choose other steps, or drop guidance on an interval"
            )
    return calls


def _counted(
    model: FlowModel, method: str | Sampler, steps: int, guidance: float, shift: float, remedy: Correction | None
) -> int:
    """Rows a counting network is asked for. A remedy may look at the pixels of a state, so it gets whole ones."""
    own, other = _Counter(), _Counter()
    shape = ONE if remedy is None else model.shape
    guide = model.guiding.guide
    if isinstance(guide, FlowModel):
        guide = replace(guide, net=other, shape=shape)
    counted = replace(model, net=own, shape=shape, guiding=replace(model.guiding, guide=guide))
    way = course(counted, method, steps, guidance=guidance, shift=shift, remedy=remedy)
    start = torch.zeros(1, *shape, dtype=torch.float64)
    for _ in walk(way.field, way.method, start, torch.zeros(1, dtype=torch.int64), way.grid, _silent):
        pass
    return own.rows * model.calls + (other.rows * guide.calls if guide is not None else 0)


def _silent(step: int, like: Tensor) -> Tensor:
    return torch.zeros_like(like)
