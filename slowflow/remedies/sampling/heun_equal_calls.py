"""heun-equal-calls: the same network calls, spent on fewer steps of second order.

    N steps of one call      ->      N even: N / 2 Heun steps of two calls each
                                     N odd: (N + 1) / 2 Heun steps, the last of them Euler's

An arm, not a correction of the model: what of a lag is the solver's it takes away, and nothing else. In (a, b): removes
the step's share of the lag, which is in the signal. The number of network calls is checked to be the same; where Heun's last
step is uncorrected in any case (vp) that takes an odd N.
Source: Heun 1900; Karras et al. 2022 (arXiv 2206.00364).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from slowflow.errors import InputError
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler, sampler
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Findings

ONE_CALL = ("euler", "recombine")


@SAMPLING_REMEDIES.register(
    "heun-equal-calls",
    summary="Heun with half the steps, the same number of network calls",
    source="Karras et al. 2022 (arXiv 2206.00364)",
)
@dataclass(frozen=True)
class HeunEqualCalls(SamplingRemedy):
    """Heun instead of a first-order sampler.

    Args:
        on: False changes nothing.
    """

    on: bool = True
    name: ClassVar[str] = "heun-equal-calls"
    constants: ClassVar[tuple[str, ...]] = ("on",)

    @property
    def active(self) -> bool:
        """Whether the sampler is replaced."""
        return self.on

    @property
    def equal_calls(self) -> bool:
        """Promised."""
        return self.on

    def check(self, model: Predictor, method: Sampler) -> None:
        """Only a sampler of one call a step is replaced, and only where there are velocities."""
        if not self.on:
            return
        if method.name not in ONE_CALL:
            raise InputError(
                f"'{self.name}' replaces a deterministic sampler of one call a step ({' or '.join(ONE_CALL)}), not '{method.name}'"
            )
        path, zero = model.interpolant, torch.zeros((), dtype=torch.float64)
        if path.twin(zero)[0] is not path:
            raise InputError(
                f"the path '{path.name}' is a table of noise levels and has no velocity, which Heun needs; use more steps instead"
            )

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """Heun on half the intervals."""
        return (sampler("heun-last-euler"), (steps + 1) // 2) if steps % 2 else (sampler("heun"), steps // 2)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """On where the measurement says that steps dominate."""
        if findings.verdict == "steps dominate":
            return Fit(cls(on=True), True, "a perfect model under the same steps lags as well: the solver is the cause")
        text = f"the verdict is '{findings.verdict}': the steps are not what dominates"
        return Fit(cls(on=False), False, text)
