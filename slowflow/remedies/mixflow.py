"""MixFlow: train on inputs that run slower than their label.

    t ~ Beta(2,1)          the label, density 2 t, so that (m, t) is uniform over the slowed triangle
    m ~ U[(1-gamma) t, t]  the slowed timestep
    state = alpha(m) data + sigma(m) noise,   label t,   target u(m) (or u(t))

On the linear interpolant u does not depend on time and both targets coincide; on curved ones they differ, and both
are on offer. gamma = 0 gives plain training under the Beta(2,1) law.

The paper's ablations are other laws of m:
    slowed  U[(1-gamma) t, t]                 gamma = 1 is U[0, t]
    both    U[(1-gamma) t, t + gamma (1-t)]   gamma = 1 is U[0, 1]; gamma = 0 is plain
    far     U[0, (1-gamma) t]                 what the slowed interval leaves out; gamma = 0.8 is U[0, 0.2 t]

Under a resolution shift W there are two orders, equal where there is no shift:
    released  t = W(t0), m ~ U[(1-gamma) t, t]     draw, warp, then slow: the code released for RAE (whose t0 ends at
                                                   sqrt(0.999), which support=(0, 0.9995) would repeat)
    paper     t = W(t0), m = W(m0), m0 ~ U[(1-gamma) t0, t0]     the derivation in unwarped time; (m0, t0) stays uniform
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import warp
from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times, choice_checked, share_checked

ORDERS = ("released", "paper")
LAWS = ("slowed", "both", "far")


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
        m_law: `slowed`, or for ablations `both` or `far`.
    """

    measured: ClassVar[str | None] = "gamma"

    gamma: float = 0.8
    target_at: str = "m"
    order: str = "released"
    m_law: str = "slowed"
    time_law: str | None = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("gamma", self.gamma, "of t")
        choice_checked("target_at", self.target_at, ("m", "t"))
        if self.order not in ORDERS:
            raise InputError(f"order is '{self.order}', expected one of {', '.join(ORDERS)}")
        if self.m_law not in LAWS:
            raise InputError(f"m_law is '{self.m_law}', expected one of {', '.join(LAWS)}")

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, m, time of the target)."""
        drawn = self.drawn(n, generator)
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        t, m = self.placed(drawn, lambda at, ends: self._inputs(at, u, ends))
        return t, m, m if self.target_at == "m" else t

    def placed(self, drawn: Tensor, inputs: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(t, m) behind the warp, in this order of warping and slowing.

        Args:
            drawn: t before the warp [n].
            inputs: (t, ends of the model's times there [2]) -> m [n].
        """
        t = warp(drawn, self.shift)
        if self.order == "released":
            return t, inputs(t, self.ends(warped=True))
        return t, warp(inputs(drawn, self.ends(warped=False)), self.shift)

    def _inputs(self, t: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        if self.m_law == "both":
            anywhere = ends[0] + (ends[1] - ends[0]) * u  # not nearer to the data than the model is ever trained
            return t + self.gamma * (anywhere - t)
        return t * (1.0 - self.gamma * u) if self.m_law == "slowed" else (1.0 - self.gamma) * t * u
