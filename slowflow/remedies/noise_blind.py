"""noise-blind: labels that say nothing about the state, so that the network must read the noise level off it.

    m ~ p   the plain law of times: state and target at m
    label   with chance `share` an independent draw from p, else m

With share = 1 label and state are independent and the minimiser is u(x) = E[u | state = x], whatever the label: blind in
the sense of a network without a time input, though this one still has it. States and targets are those of plain
training; only labels differ. With a uniform p it is the ablation `m ~ U[0, 1]` of MixFlow under uniform t, and the
limit that MixFlow approaches inside its window as gamma grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Times, share_checked


@REMEDIES.register(
    "noise-blind",
    summary="control: labels independent of the state",
    source="Sun et al. 2025, Is Noise Conditioning Necessary? (arXiv 2502.13129); control by SlowFlow",
)
@dataclass(frozen=True)
class NoiseBlind(TrainingRemedy):
    """Plain states under foreign labels.

    Args:
        share: chance that a label is an independent draw, in [0, 1].
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("share", self.share, "of the labels")

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(label, m, m)."""
        m, other = self.labels(n, generator), self.labels(n, generator)
        foreign = torch.rand(n, dtype=torch.float64, generator=generator) < self.share
        return torch.where(foreign, other, m), m, m
