"""input-perturbation: more noise in the input than the label says, the target as it was.

    noise' = noise + gamma xi,  xi ~ N(0, I);   state = alpha(t) data + sigma(t) noise',   label t,   target of (noise, data) at t

In law a state with noise coefficient sigma(t) sqrt(1 + gamma^2) and signal on schedule: a late noise clock, and one
point of it where MixFlow takes an interval of both clocks.
Source: Ning et al. 2023, Input Perturbation (arXiv 2301.11706).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slowflow.flow.interpolants import interpolant
from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Pair, Times, share_checked


@REMEDIES.register(
    "input-perturbation",
    summary="extra noise gamma xi in the input, target unchanged",
    source="Ning et al. 2023, Input Perturbation Reduces Exposure Bias (arXiv 2301.11706)",
)
@dataclass(frozen=True)
class InputPerturbation(TrainingRemedy):
    """Input perturbation.

    Args:
        gamma: standard deviation of the extra noise in units of the noise, in [0, 1]; published between 0.1 and 0.15.
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("gamma", self.gamma, "of the noise")

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, t, t)."""
        t = self.labels(n, generator)
        return t, t, t

    def built(
        self, noise: Tensor, data: Tensor, times: Times, generator: torch.Generator | None, cond: Tensor | None
    ) -> Pair:
        """The plain pair with a noisier state."""
        extra = torch.randn(noise.shape, generator=generator).to(noise)
        state = interpolant(self.interpolant).state(noise + self.gamma * extra, data, times[1])
        return super().built(noise, data, times, generator, cond)._replace(state=state.to(data.dtype))
