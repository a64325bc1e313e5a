"""score-rescaling: Temporal Score Rescaling, noise scaling that grows from nothing at the noise end.

    noise_hat * ratio(t),      ratio = (snr s^2 + 1) / (snr s^2 / k + 1),      snr = alpha^2 / sigma^2

ratio is 1 at pure noise and k at the data: the score of the data with their bumps of width s narrowed by sqrt(k), which
steers between sharper (k > 1) and broader (k < 1) samples. It is the generalisation of epsilon scaling that is not
infinite at t = 0. In the states it leaves noise where k < 1, late in time, as lambda = 1 / ratio > 1 does.
Source: Xu et al. 2025, Temporal Score Rescaling (arXiv 2510.01184); the fit is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.predictor import Predictor
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.epsilon_scaling import noise_norms
from slowflow.remedies.sampling.findings import Findings, estimated
from slowflow.remedies.sampling.noise_scaling import NoiseScaling
from slowflow.remedies.sampling.response import solve

RANGE = (0.5, 2.0)


@SAMPLING_REMEDIES.register(
    "score-rescaling",
    summary="scale the predicted noise by a ratio that runs from 1 at the noise to k at the data",
    source="Xu et al. 2025, Temporal Score Rescaling (arXiv 2510.01184)",
)
@dataclass(frozen=True)
class ScoreRescaling(SamplingRemedy):
    """Noise scaled by signal-to-noise ratio.

    Args:
        k: ratio at the data end, in [0.5, 2]; 1 changes nothing.
        width: s, standard deviation of the bumps of the data, above 0.
    """

    k: float = 1.0
    width: float = 0.5
    name: ClassVar[str] = "score-rescaling"
    constants: ClassVar[tuple[str, ...]] = ("k",)

    def __post_init__(self) -> None:
        if not RANGE[0] <= self.k <= RANGE[1]:
            raise InputError(f"k is {self.k}, expected a ratio between 0.5 and 2 (1 changes nothing)")
        if not 0.0 < self.width <= 100.0:
            raise InputError(f"width is {self.width}, expected a standard deviation above 0")

    @property
    def active(self) -> bool:
        """Whether the ratio is anything but 1."""
        return self.k != 1.0

    def wrapped(self, model: Predictor) -> Predictor:
        """The model with scaled noise."""
        path = model.interpolant

        def scale(t: Tensor) -> Tensor:
            signal = (path.alpha(t) * self.width).square()
            noise = path.sigma(t).to(torch.float64).square()
            return (signal / self.k + noise) / (signal + noise)

        return NoiseScaling(model, scale)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """k that takes the measured excess of the noise's norm away."""
        cls(**settings)
        observed, predicted = noise_norms(findings, lambda p: cls(float(np.clip(p[0], *RANGE)), **settings))
        rows = solve(-observed, predicted, np.array([1.0]))[:, 0]
        found = estimated(rows, findings.noise_norm.n if findings.noise_norm else 0)
        if not RANGE[0] <= found.value <= RANGE[1]:
            raise InputError(
                f"the norms of {findings.source} ask for k {found}, beyond {RANGE}: rescaling does not mend this"
            )
        if not found.excludes(1.0):
            return Fit(cls(**settings), False, f"k {found}: not clear of 1, nothing to rescale", {"k": found})
        return Fit(
            cls(found.value, **settings), True, f"k {found}: takes the excess of the noise's norm away", {"k": found}
        )
