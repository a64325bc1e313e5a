"""self-forcing: train on states that the model reaches from a noised datum, in the few-step form.

    s = t - k / N           k model steps of a sampler of N before the label, in unwarped time
    x(s) on the path of (noise, data);   x(t) = k model steps from x(s), without gradient
    state x(t), label t, target that of the pair at t (`path`), or the one that leads from x(t) to the datum (`data`)

The published method unrolls a four-step video generator over frames and matches distributions with a second network;
this is its idea for images, teacher-free: the loss is taken on the model's own states. With the target `data` it is
scheduled sampling as in Markup-to-Image (noise further back, roll forward without gradient, derive the target anew).
k = 0, or a share of 0, is plain training.
Source: Huang et al. 2025, Self Forcing (arXiv 2506.08009); Deng et al. 2023, Markup-to-Image (arXiv 2210.05147).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import unwarp, warp
from slowflow.flow.interpolants import interpolant
from slowflow.flow.prediction import regression_target
from slowflow.remedies import REMEDIES
from slowflow.remedies.base import Pair, choice_checked
from slowflow.remedies.rollout import Rollout, rolled


@REMEDIES.register(
    "self-forcing",
    summary="loss on states after k model steps from a noised datum",
    source="Huang et al. 2025, Self Forcing (arXiv 2506.08009), few-step form",
)
@dataclass(frozen=True)
class SelfForcing(Rollout):
    """Self-forcing.

    Args:
        rollout: model steps k before the loss; network calls a row that is rolled out.
        target: `data` or `path`.
    """

    rollout: int = 2
    target: str = "data"

    def __post_init__(self) -> None:
        Rollout.__post_init__(self)
        choice_checked("target", self.target, ("data", "path"))
        if not 0 <= self.rollout <= self.steps:
            raise InputError(
                f"rollout is {self.rollout}, expected 0 to {self.steps} model steps (steps is {self.steps})"
            )

    def rows(self, n: int) -> int:
        """How many of n rows are rolled out."""
        return super().rows(n) if self.rollout else 0

    def calls(self, n: int) -> int:
        """k for each row that is rolled out."""
        return self.rows(n) * self.rollout * (1 if self.model is None else self.model.calls)

    def own_states(
        self, noise: Tensor, data: Tensor, t: Tensor, cond: Tensor, generator: torch.Generator | None
    ) -> Pair:
        """States after k steps."""
        path = interpolant(self.interpolant)
        nodes = self.nodes(self.after(t, -self.rollout), t)
        state = rolled(self.trained(), path.state(noise, data, nodes[0]), nodes, cond)
        if self.target == "data":
            return Pair(state, t, self.landing(noise, data, state, t))
        return Pair(state, t, regression_target(path, self.prediction, noise, data, t))

    def nodes(self, start: Tensor, end: Tensor) -> Tensor:
        """k + 1 times from start to end, [k + 1, n], equally spaced in unwarped time."""
        low, high = unwarp(start, self.shift), unwarp(end, self.shift)
        inner = [low + (high - low) * (j / self.rollout) for j in range(1, self.rollout)]
        return torch.stack([start, *(self.rounded(warp(u, self.shift)) for u in inner), end])
