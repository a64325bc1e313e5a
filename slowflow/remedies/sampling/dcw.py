"""dcw: after every step the state is moved along its difference from the predicted data.

    state(s) += strength_t P (state(s) - data_hat)

strength_t falls with the path's sigma (1 at pure noise), or with EDM's, sigma / alpha over its largest of 80 as published (a tenth
at sigma / alpha = 8, so next to nothing where images form), or is constant.
data_hat is the last the network said in the step, so nothing more is asked. P is the identity (`pixel`) or the low band
of one Haar wavelet level (`low`): means of 2 x 2 pixels, repeated. With `scaled` the difference is that of EDM's variables,
state(s) - alpha(s) data_hat, which is noise alone.

What it does to the states: b(s) grows by the factor 1 + strength_t, and a(s) moves by strength_t (a(s) - 1), not at all with
`scaled`, where data_hat is right. On the linear field of Gaussian data every such change stays to the end as a factor: an axis
of variance c^2 gains 1 + strength_t (1 - alpha(t) c^2 / sqrt(v(t) v(s))), v = alpha^2 c^2 + sigma^2, more than 1 early, where the
state is mostly noise, less than 1 late. So the net effect on a strong axis may have either sign, and the fit goes through
it: it asks which strength would make the measured energies on strong axes (a^2 c^2 + b^2, from both clocks) and on pure
noise axes (b^2), and takes the opposite. `low` acts on strong axes and is fitted to them alone.
Source: DCW, SNR-t bias, CVPR 2026 (arXiv 2604.16044); the fit is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant, expand
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Curve, Findings, estimated
from slowflow.remedies.sampling.response import at_times, response, solve
from slowflow.remedies.sampling.stepping import Stepping, Witness

BANDS = ("pixel", "low")
WEIGHTS = ("falling", "edm", "constant")
LARGEST_SIGMA = 80.0
"""EDM's, where its sampling begins."""
LARGEST = 0.5


def low_band(x: Tensor) -> Tensor:
    """The part of images in the low band of one Haar level: the mean of every 2 x 2 pixels, in all four."""
    height, width = x.shape[-2:]
    blocks = x.reshape(*x.shape[:-2], height // 2, 2, width // 2, 2)
    return blocks.mean(dim=(-3, -1), keepdim=True).expand_as(blocks).reshape(x.shape)


@dataclass(frozen=True)
class Corrected(Stepping):
    """A sampler whose steps are corrected.

    Args:
        inner: the sampler.
        remedy: the settings.
    """

    remedy: DCW

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The inner step, then the correction."""
        witness, of = Witness.of(model), self.remedy
        reached = self.inner.step(witness, state, t, s, cond, noise)
        data, _ = witness.last()
        if of.scaled:
            data = expand(model.interpolant.alpha(s).to(data.dtype), data) * data
        gap = reached - data if of.band == "pixel" else low_band(reached - data)
        return reached + of.strength * of.share(model.interpolant, t).to(reached.dtype) * gap


@SAMPLING_REMEDIES.register(
    "dcw",
    summary="move the state along its difference from the predicted data after every step, all of it or its low band",
    source="DCW, SNR-t bias, CVPR 2026 (arXiv 2604.16044)",
)
@dataclass(frozen=True)
class DCW(SamplingRemedy):
    """Differential correction.

    Args:
        strength: lambda, in [-0.5, 0.5]; 0 changes nothing.
        band: `pixel` or `low`.
        weight: `falling` with sigma(t), `edm` with sigma / alpha over 80, or `constant`.
        scaled: in EDM's variables, where the difference is noise alone.
    """

    strength: float = 0.0
    band: str = "pixel"
    weight: str = "falling"
    scaled: bool = False
    name: ClassVar[str] = "dcw"
    constants: ClassVar[tuple[str, ...]] = ("strength",)

    def __post_init__(self) -> None:
        if not abs(self.strength) <= LARGEST:
            raise InputError(
                f"strength is {self.strength}, expected between -{LARGEST} and {LARGEST}; 0.005 is published"
            )
        for what, value, known in (("band", self.band, BANDS), ("weight", self.weight, WEIGHTS)):
            if value not in known:
                raise InputError(f"{what} is '{value}', expected one of {', '.join(known)}")

    @property
    def active(self) -> bool:
        """Whether anything is moved."""
        return self.strength != 0.0

    def share(self, path: Interpolant, t: Tensor) -> Tensor:
        """Share of the strength at time t."""
        if self.weight == "constant":
            return torch.ones_like(t)
        if self.weight == "edm":
            return (path.sigma(t) / (LARGEST_SIGMA * path.alpha(t))).clamp(max=1.0)  # infinite at pure noise, so 1
        return path.sigma(t)  # 1 at pure noise on every path, up to the start of tables and vp

    def check(self, model: Predictor, method: Sampler) -> None:
        """A low band needs images of even height and width."""
        even = len(model.shape) >= 2 and all(n % 2 == 0 for n in model.shape[-2:])
        if self.active and self.band == "low" and not even:
            raise InputError(
                f"states of shape {model.shape} have no Haar low band, which needs an even height and width; take band = pixel"
            )

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """The corrected sampler."""
        return Corrected(method, self), steps

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """The strength from both clocks."""
        shown = cls(**settings)
        observed, predicted = energies(findings, replace(shown, band="pixel"), noise_too=shown.band == "pixel")
        rows = -solve(observed, predicted, np.zeros(1))[:, 0]
        found = estimated(rows, findings.signal[0].n if findings.signal else 0)
        if not found.excludes(0.0):
            return Fit(
                cls(**settings), False, f"strength {found}: not clear of 0, nothing to move", {"strength": found}
            )
        if abs(found.value) > LARGEST:
            raise InputError(
                f"the clocks of {findings.source} ask for a strength of {found}, beyond {LARGEST}: dcw does not mend this lag"
            )
        return Fit(
            cls(found.value, **settings),
            True,
            f"strength {found}: takes the lag of the clocks away",
            {"strength": found},
        )


def energies(findings: Findings, remedy: DCW, *, noise_too: bool) -> tuple[np.ndarray, Any]:
    """(observed log ratios [rows, observations], strength -> those that it makes on Gaussian data).

    Half the log of the energy of the model's states over the null's, on the data's strong axes and, with `noise_too`, on
    axes that hold noise alone.

    Raises:
        InputError: the clocks were not measured.
    """
    if findings.signal is None or findings.noise is None or findings.variances is None or findings.counts is None:
        raise findings.missing("both clocks", "--reference clocks")
    strong = float(findings.counts @ findings.variances**2 / (findings.counts @ findings.variances))
    axes = np.array([strong, 0.0])[: 1 + noise_too]
    rows, columns = at_times(findings, findings.signal[0])
    logs = np.stack([_log_energy(findings.signal, findings.noise, c)[:, columns] for c in axes], axis=2)
    read = np.isfinite(logs).all(axis=0)  # the noise clock may read a square below 0 near the data
    if not read.any():
        raise InputError(f"the clocks of {findings.source} read no energy above 0; measure more samples")

    def predicted(strength: np.ndarray) -> np.ndarray:
        return response(findings, axes, replace(remedy, strength=float(strength[0])))[rows][read]

    return logs[:, read], predicted


def _log_energy(signal: tuple[Curve, Curve], noise: tuple[Curve, Curve], variance: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, theirs = (a.values * variance + b.values for a, b in zip(signal, noise, strict=True))
        return np.asarray(0.5 * (np.log(ours) - np.log(theirs)))
