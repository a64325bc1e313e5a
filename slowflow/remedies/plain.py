"""plain: ordinary training, the control arm of every comparison. Input, label and target share one time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow.remedies import REMEDIES, TrainingRemedy


@REMEDIES.register(
    "plain",
    summary="ordinary training of the same length: the control arm",
    source="Lipman et al. 2022, flow matching (arXiv 2210.02747)",
)
@dataclass(frozen=True)
class Plain(TrainingRemedy):
    """Ordinary flow matching; t is uniform unless `time_law` says otherwise."""

    def times(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """(t, t, t)."""
        t = self.labels(n, generator)
        return t, t, t
