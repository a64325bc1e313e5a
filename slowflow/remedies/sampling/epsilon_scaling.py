"""epsilon-scaling: the predicted noise divided by a number slightly off 1.

    noise_hat / lambda(t),      lambda(t) = constant + slope (1 - t)

What it does to the states: along an axis on which the data have variance c^2 it multiplies them by
exp((1 - 1/lambda) int sigma (sigma alpha' - alpha sigma') / (alpha v) dt), v = alpha^2 c^2 + sigma^2: on a pure noise axis that
is (1 - 1/lambda) / 2 times the log SNR gained. So lambda > 1 leaves *more* noise (larger b), and signal as well.

The fit asks by which factor a network would have to scale the noise for its states to show the measured norms, and
divides by that: lambda = the factor. `norms` gives the ratio rho(t) of the predicted noise on the model's states over that on a
perfect model's, and for Gaussian data rho^2 = sum_i n_i e^(2 response_i) / v_i over sum_i n_i / v_i. A lag that the steps make
is corrected with the rest, as the published constants do.
Source: Ning et al. 2024, Elucidating the Exposure Bias in Diffusion Models (arXiv 2308.15321); the fit is SlowFlow's.
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
from slowflow.remedies.sampling.findings import Findings, estimated
from slowflow.remedies.sampling.noise_scaling import NoiseScaling
from slowflow.remedies.sampling.response import at_times, response, solve

FORMS = ("constant", "linear")
WIDEST = 2.0


class OutOfRange(InputError):
    """A lambda that is no slight correction."""


@SAMPLING_REMEDIES.register(
    "epsilon-scaling",
    summary="divide the predicted noise by a number near 1, constant or linear in t",
    source="Ning et al. 2024, Epsilon Scaling (arXiv 2308.15321)",
)
@dataclass(frozen=True)
class EpsilonScaling(SamplingRemedy):
    """Scaled noise.

    Args:
        constant: b, lambda at the data end; 1 with slope 0 changes nothing.
        slope: k, what lambda gains from the data end to the noise end.
        form: what `fitted` fits: `constant`, or `linear` with a slope.
    """

    constant: float = 1.0
    slope: float = 0.0
    form: str = "constant"
    name: ClassVar[str] = "epsilon-scaling"
    constants: ClassVar[tuple[str, ...]] = ("constant", "slope")

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"form is '{self.form}', expected one of {', '.join(FORMS)}")
        ends = (self.constant, self.constant + self.slope)
        if not all(1.0 / WIDEST <= end <= WIDEST for end in ends):
            raise OutOfRange(
                f"lambda runs from {ends[1]} (noise) to {ends[0]} (data), expected between {1 / WIDEST} and {WIDEST}; "
                "published values are within 0.05 of 1, and 1 changes nothing"
            )

    @property
    def active(self) -> bool:
        """Whether lambda is anything but 1."""
        return self.constant != 1.0 or self.slope != 0.0

    def scale(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        return self.constant + self.slope * (1.0 - t.to(torch.float64))

    def wrapped(self, model: Predictor) -> Predictor:
        """The model with scaled noise."""
        return NoiseScaling(model, self.scale)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """lambda from the norms of the predicted noise."""
        shown = cls(**settings)
        start = np.array([1.0, 0.0])[: 1 + (shown.form == "linear")]
        names = ("constant", "slope")[: len(start)]
        try:
            rows = solve(*noise_norms(findings, lambda p: AsFault(*p.tolist())), start)
        except OutOfRange as error:
            raise InputError(
                f"the norms of {findings.source} ask for a scale far from 1, which is no noise scale: {error}"
            ) from error
        found = {name: estimated(rows[:, k], _n(findings)) for k, name in enumerate(names)}
        off = [name for name, zero in zip(names, start, strict=True) if found[name].excludes(float(zero))]
        text = ", ".join(f"{name} {value}" for name, value in found.items())
        if not off:
            return Fit(cls(**settings), False, f"{text}: not clear of 1, nothing to scale", found)
        constants = dict(zip(names, rows[0].tolist(), strict=True))
        return Fit(cls(**constants, **settings), True, f"{text}: the states' noise is predicted off its norm", found)


@dataclass(frozen=True)
class AsFault(EpsilonScaling):
    """A network whose noise is too large by lambda(t), which dividing by lambda(t) undoes exactly."""

    def scale(self, t: Tensor) -> Tensor:
        """1 / lambda(t)."""
        return 1.0 / super().scale(t)


def _n(findings: Findings) -> int:
    return findings.noise_norm.n if findings.noise_norm is not None else 0


def noise_norms(findings: Findings, remedy: Any) -> tuple[np.ndarray, Any]:
    """(observed log rho [rows, times], constants -> the log rho that `remedy(constants)` makes on Gaussian data).

    Raises:
        InputError: the norms, or the variances of the data, were not measured.
    """
    if findings.noise_norm is None:
        raise findings.missing("the norms of the predicted noise", "--measure norms")
    if findings.variances is None or findings.counts is None:
        raise findings.missing("the variances of the data", "--reference clocks")
    rows, columns = at_times(findings, findings.noise_norm)
    t = torch.from_numpy(findings.grid[1:][rows])
    alpha, sigma = (f(t).numpy()[:, None] for f in (findings.path.alpha, findings.path.sigma))
    variances = findings.variances
    weight = findings.counts / (alpha**2 * variances + sigma**2)
    weight = weight / weight.sum(axis=1, keepdims=True)

    def predicted(constants: np.ndarray) -> np.ndarray:
        moved = response(findings, variances, remedy(constants))[rows]
        return np.asarray(0.5 * np.log((weight * np.exp(2.0 * moved)).sum(axis=1)))

    return np.log(findings.noise_norm.values[:, columns]), predicted
