"""MixFlow: train on inputs that run slower than their label.

    t ~ Beta(2,1)          the label, density 2 t, so that (m, t) is uniform over the slowed triangle
    m ~ U[(1-gamma) t, t]  the slowed timestep
    state = alpha(m) data + sigma(m) noise,   label t,   target u(m) (or u(t))

On the linear interpolant u does not depend on time and both targets coincide; on curved ones they differ, and both
are on offer. gamma = 0 gives plain training under the Beta(2,1) law.

Under a resolution shift W there are two orders, equal where there is no shift:
    released  t = W(t0), m ~ U[(1-gamma) t, t]     draw, warp, then slow: the code released for RAE (whose t0 ends at
                                                   sqrt(0.999), which support=(0, 0.9995) would repeat)
    paper     t = W(t0), m = W(m0), m0 ~ U[(1-gamma) t0, t0]     the derivation in unwarped time; (m0, t0) stays uniform
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import warp
from slowflow.remedies import REMEDIES, TrainingRemedy

ORDERS = ("released", "paper")


@REMEDIES.register(
    "mixflow",
    summary="post-train on slowed inputs m ~ U[(1-gamma)t, t] under label t",
    source="MixFlow Training, CVPR 2026 (arXiv 2512.19311)",
)
@dataclass(frozen=True)
class MixFlow(TrainingRemedy):
    """The paper's remedy.

    Args:
        gamma: width of the slowed interval as a share of t, in [0, 1]; of time after the shift in the released order,
            before it in the paper's.
        target_at: `m` (the velocity of the input) or `t` (the velocity at the label).
        order: `released` (draw, warp, slow) or `paper` (draw, slow, warp).
    """

    gamma: float = 0.8
    target_at: str = "m"
    order: str = "released"
    time_law: str | None = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma is {self.gamma}, expected a share of t between 0 and 1")
        if self.target_at not in ("m", "t"):
            raise InputError(f"target_at is '{self.target_at}', expected 'm' or 't'")
        if self.order not in ORDERS:
            raise InputError(f"order is '{self.order}', expected one of {', '.join(ORDERS)}")

    def times(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """(t, m, time of the target)."""
        drawn = self.drawn(n, generator)
        kept = 1.0 - self.gamma * torch.rand(n, dtype=torch.float64, generator=generator)
        t = warp(drawn, self.shift)
        m = t * kept if self.order == "released" else warp(drawn * kept, self.shift)
        return t, m, m if self.target_at == "m" else t
