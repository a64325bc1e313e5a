"""same-marginal: MixFlow's inputs under their true label, the control that isolates the mismatch.

    (m, t) as MixFlow draws them;   state at m,   label m,   target at m

MixFlow sees noisier states than plain training does: without a shift and with gamma = 1 its inputs have the density
p(m) = 2 (1 - m), in general p(m) = 2 / gamma * (min(1, m / (1-gamma)) - m). This arm sees the same inputs and tells the
network the truth about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times, share_checked
from slowflow.remedies.mixflow import MixFlow


@REMEDIES.register(
    "same-marginal",
    summary="control: MixFlow's inputs with their correct label",
    source="SlowFlow; a control for the input marginal of MixFlow (arXiv 2512.19311)",
)
@dataclass(frozen=True)
class SameMarginal(TrainingRemedy):
    """MixFlow's law of inputs, labels that are right.

    Args:
        gamma: width of MixFlow's interval as a share of t, in [0, 1].
        order: of warp and slowing, as in MixFlow.
    """

    measured: ClassVar[str | None] = "gamma"

    gamma: float = 0.8
    order: str = "released"
    time_law: str | None = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("gamma", self.gamma, "of t")
        self._slowed()

    def _slowed(self) -> MixFlow:
        return MixFlow(self.gamma, order=self.order, time_law=self.time_law, shift=self.shift, support=self.support)

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(m, m, m)."""
        _, m, _ = self._slowed().times(n, generator)
        return m, m, m
