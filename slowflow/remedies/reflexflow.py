"""reflexflow: one simulated sampling step from a real pair, and the direction from there to the datum.

    x0 on the path of (noise, data) at t0;   t1 ~ U[t0, 1];   x = x0 + (t1 - t0) v(x0, t0)
    published   || v(x, t1) / |v(x, t1)| - (data - x) / |data - x| ||^2,   with the gradient of the step
    here        state x, label t1, target |u| (data - x) / |data - x|,   u the pair's own velocity, without that gradient

so that the squared error asks for the published direction at the path's speed (`direction`), or for the whole vector
(data - x) / (1 - t1) that lands on the datum (`data`). On curved paths the vector is the velocity that belongs to
(data, what is left of x). The published second part, a reweighting by frequency, is not included.
Directions are those of a velocity, so other predictions are refused. Where a network is trained on a shorter interval than
[0, 1], t1 ends with it.
Source: ReflexFlow 2025 (arXiv 2512.04904), anti-drift rectification; formulas only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import expand, interpolant
from slowflow.remedies import REMEDIES
from slowflow.remedies.base import Pair, choice_checked
from slowflow.remedies.rollout import Rollout, landing

LEAST = 1e-9
"""Least sigma and least length that a direction is divided by, in float64."""


@REMEDIES.register(
    "reflexflow",
    summary="one simulated step, target the direction from there to the datum",
    source="ReflexFlow 2025 (arXiv 2512.04904), anti-drift rectification",
)
@dataclass(frozen=True)
class ReflexFlow(Rollout):
    """Anti-drift rectification.

    Args:
        target: `direction` (at the speed of the pair's own velocity) or `data` (the whole vector).
    """

    target: str = "direction"
    share: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        Rollout.__post_init__(self)
        choice_checked("target", self.target, ("direction", "data"))
        if self.prediction != "velocity":
            raise InputError(
                f"reflexflow compares directions of velocities, and this model predicts {self.prediction}; soar and "
                "self-forcing work for every prediction"
            )

    def calls(self, n: int) -> int:
        """One for each row that is rolled out."""
        return self.rows(n) * (1 if self.model is None else self.model.calls)

    def own_states(
        self, noise: Tensor, data: Tensor, t: Tensor, cond: Tensor, generator: torch.Generator | None
    ) -> Pair:
        """The state after one step of random length."""
        path = interpolant(self.interpolant)
        u = torch.rand(len(t), dtype=torch.float64, generator=generator).to(t.device)
        label = t + (self.last(t) - t) * u
        start = path.state(noise, data, t)
        state = start + expand(label - t, start) * self.trained().velocity(start, t, cond)
        if self.target == "data":
            return Pair(state, label, self.landing(noise, data, state, label))
        wanted = landing(path, self.prediction, noise, data, state, label, LEAST)
        speed, length = (_length(part) for part in (path.velocity(noise, data, label), wanted))
        return Pair(state, label, wanted * expand(speed / length.clamp_min(LEAST), wanted))


def _length(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).to(torch.float64).norm(dim=1)
