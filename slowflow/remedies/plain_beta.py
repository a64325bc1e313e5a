"""plain-beta: ordinary training under MixFlow's law of times, the control that isolates that law.

    t ~ Beta(2,1),   state, label and target at t

What MixFlow does better than this arm is owed to the slowed inputs, not to seeing late times more often.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times


@REMEDIES.register(
    "plain-beta",
    summary="control: ordinary training with t ~ Beta(2,1), MixFlow's law of times",
    source="an ablation of MixFlow (arXiv 2512.19311); control by SlowFlow",
)
@dataclass(frozen=True)
class PlainBeta(TrainingRemedy):
    """Ordinary flow matching, late times more often."""

    time_law: str | None = field(default="beta21", kw_only=True)

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, t, t)."""
        t = self.labels(n, generator)
        return t, t, t
