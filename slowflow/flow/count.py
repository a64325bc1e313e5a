"""Network calls, counted and not computed: the sampler is run on a network that only counts.

Guidance intervals, uncorrected last steps and guides make formulas for the number of calls wrong sooner or later; a
dry run over the same grid with the same code cannot be.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import Sampler, sampler, walk

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
    model: FlowModel, method: str | Sampler, steps: int, *, guidance: float = 1.0, shift: float = 1.0
) -> int:
    """Network evaluations one sample costs, those of a guide included.

    Args:
        model: in canonical time.
        method: sampler.
        steps: intervals.
        guidance: scale; 1 = none.
        shift: further warp of the grid.
    """
    own, other, stepper = _Counter(), _Counter(), sampler(method)
    guide = model.guiding.guide
    if isinstance(guide, FlowModel):
        guide = replace(guide, net=other, shape=ONE)
    counted = replace(model, net=own, shape=ONE, guiding=replace(model.guiding, guide=guide))
    grid = stepper.grid(counted, steps, shift)
    start = torch.zeros(1, *ONE, dtype=torch.float64)
    for _ in walk(guided(counted, guidance), stepper, start, torch.zeros(1, dtype=torch.int64), grid, _silent):
        pass
    return own.rows * model.calls + (other.rows * guide.calls if guide is not None else 0)


def _silent(step: int, like: Tensor) -> Tensor:
    return torch.zeros_like(like)
