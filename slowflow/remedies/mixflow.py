"""MixFlow: train on inputs that run slower than their label.

    t ~ Beta(2,1)          the label, density 2 t, so that (m, t) is uniform over the slowed triangle
    m ~ U[(1-gamma) t, t]  the slowed timestep
    state = alpha(m) data + sigma(m) noise,   label t,   target u(m) (or u(t))

On the linear interpolant u does not depend on time and both targets coincide; on curved ones they differ, and both
are on offer. gamma = 0 gives plain training under the Beta(2,1) law. With a shift the order is draw, warp, then slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.remedies import REMEDIES, TrainingRemedy


@REMEDIES.register(
    "mixflow",
    summary="post-train on slowed inputs m ~ U[(1-gamma)t, t] under label t",
    source="MixFlow Training, CVPR 2026 (arXiv 2512.19311)",
)
@dataclass(frozen=True)
class MixFlow(TrainingRemedy):
    """The paper's remedy.

    Args:
        gamma: width of the slowed interval as a share of t, in [0, 1], in the time variable after the shift.
        target_at: `m` (the velocity of the input) or `t` (the velocity at the label).
    """

    gamma: float = 0.8
    target_at: str = "m"
    time_law: str = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma is {self.gamma}, expected a share of t between 0 and 1")
        if self.target_at not in ("m", "t"):
            raise InputError(f"target_at is '{self.target_at}', expected 'm' or 't'")

    def times(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """(t, m, time of the target)."""
        t = self.labels(n, generator)
        m = t * (1.0 - self.gamma * torch.rand(n, dtype=torch.float64, generator=generator))
        return t, m, m if self.target_at == "m" else t
