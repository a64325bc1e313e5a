"""jitter: the label errs to both sides by as much as MixFlow's to one, the control that isolates the direction.

With (m, t) as MixFlow draws them, m ~ U[(1-gamma) t, t]:

    mirrored   state at m under label t, or state at t under label m, with equal chance
    centred    state at m' ~ U[t - h, t + h] under label t,   h = min(gamma t / 2, end - t)

`mirrored` has exactly MixFlow's gaps |t - m| and takes from it the sign alone; the times of inputs and of labels then
have one law, the mean of MixFlow's two. `centred` keeps MixFlow's labels and width gamma t, but has to be
narrower where the interval would pass the end of the model's training times, which is where MixFlow's is widest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times, choice_checked, share_checked
from slowflow.remedies.mixflow import MixFlow

FORMS = ("mirrored", "centred")


@REMEDIES.register(
    "jitter",
    summary="control: labels that err to both sides by MixFlow's width",
    source="SlowFlow; a control for the direction of MixFlow (arXiv 2512.19311)",
)
@dataclass(frozen=True)
class Jitter(TrainingRemedy):
    """Symmetric jitter.

    Args:
        gamma: width of MixFlow's interval as a share of t, in [0, 1].
        form: `mirrored` or `centred`.
        order: of warp and slowing, as in MixFlow.
    """

    measured: ClassVar[str | None] = "gamma"

    gamma: float = 0.8
    form: str = "mirrored"
    order: str = "released"
    time_law: str | None = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("gamma", self.gamma, "of t")
        choice_checked("form", self.form, FORMS)
        self._slowed()

    def _slowed(self) -> MixFlow:
        return MixFlow(self.gamma, order=self.order, time_law=self.time_law, shift=self.shift, support=self.support)

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(label, time of the input, time of the input)."""
        if self.form == "centred":
            drawn = self.drawn(n, generator)
            u = torch.rand(n, dtype=torch.float64, generator=generator)
            t, m = self._slowed().placed(drawn, lambda at, ends: self._around(at, u, ends))
            return t, m, m
        t, m, _ = self._slowed().times(n, generator)
        swap = torch.rand(n, dtype=torch.float64, generator=generator) < 0.5
        label, m = torch.where(swap, m, t), torch.where(swap, t, m)
        return label, m, m

    def _around(self, t: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        return t + torch.minimum(self.gamma * t / 2, ends[1] - t) * (2.0 * u - 1.0)
