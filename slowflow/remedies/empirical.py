"""empirical: the slowed timestep drawn from the law that was measured, instead of from an interval of one width.

    t ~ Beta(2,1),   u ~ U[0, 1],   m = Q(t, u): the measured quantile of m at t, at level u
    state at m,   label t,   target at m (or t)

Q rises with u and is interpolated linearly in level and time. `strength` scales m - t; 0 gives plain training under the
same law of t, and MixFlow is the case Q(t, u) = t (1 - gamma (1 - u)). m is held within [0, 1]; it may exceed t where
the model was measured to run fast.
Source: MixFlow (arXiv 2512.19311) for training at m under label t; the measured law is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch

from slowflow.errors import InputError
from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times, choice_checked, share_checked
from slowflow.remedies.measured import Curves, Surface, checked


@REMEDIES.register(
    "empirical",
    summary="slowed inputs drawn from the measured law of m at each t",
    source="SlowFlow; generalises MixFlow (arXiv 2512.19311)",
)
@dataclass(frozen=True)
class Empirical(TrainingRemedy):
    """MixFlow with the measured law.

    Args:
        t: [T], labels at which m was measured, rising within [0, 1]; with a shift those after it, as samplers see them.
        u: [R], levels of the quantiles, rising within [0, 1].
        m: [R, T], the quantiles; they do not fall with the level.
        strength: factor of m - t, in [0, 1].
        target_at: `m` or `t`.
    """

    measured: ClassVar[str | None] = "law"

    t: tuple[float, ...]
    u: tuple[float, ...]
    m: Curves
    strength: float = 1.0
    target_at: str = "m"
    time_law: str | None = field(default="beta21", kw_only=True)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        checked("m", self.t, self.u, self.m)
        if any(low > high for below, above in pairwise(self.m) for low, high in zip(below, above, strict=True)):
            raise InputError("m falls with the level at some time, expected quantiles, which never do")
        share_checked("strength", self.strength, "of the measured slack")
        choice_checked("target_at", self.target_at, ("m", "t"))

    @cached_property
    def surface(self) -> Surface:
        """m - t as measured."""
        return Surface.of(self.t, self.u, self.m, torch.tensor(self.t, dtype=torch.float64))

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, m, time of the target)."""
        t = self.labels(n, generator)
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        m = (t + self.strength * self.surface.at(t, u)).clamp(0.0, 1.0)
        return t, m, m if self.target_at == "m" else t
