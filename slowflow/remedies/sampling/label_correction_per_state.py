"""label-correction-per-state: the network is told where this very state is.

    m(state, t) = mean(t) + reliability(t) (G^-1(level(state)) - mean(t))

level is the noise level of one state from its energy along the data's spectrum (`slowflow.data.level`), G the mean it has
over genuine states at t, so that G^-1 calibrates it. One state tells its level only roughly, and most of the scatter
of a level over states is error: the scatter genuine states show too. reliability = 1 - Var(genuine) / Var(model), never below 0, is
the share that is not, and the line is the best linear guess of m from the level. Where the model's states scatter no
more than genuine ones it is the mean, and this is `label-correction`.
In the states: as label-correction, state by state.
Source: noise level of a single state: Sun et al. 2025 (arXiv 2502.13129); the shrinkage is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from slowflow.data.bank import Spectrum
from slowflow.data.level import noise_levels
from slowflow.errors import InputError
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.records import Estimate
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Curve, Findings, estimated
from slowflow.remedies.sampling.label_correction import check_map, from_origin, monotone
from slowflow.remedies.sampling.relabelling import Relabelled

EARLIEST = 0.2
"""Reliabilities are pooled from this time on; before, a level is mostly error in any case."""


@dataclass(frozen=True)
class ByState(Relabelled):
    """A model told m(state, t).

    Args:
        model: what is told.
        remedy: the settings, with the spectrum.
    """

    remedy: LabelCorrectionPerState

    def label(self, state: Tensor, t: Tensor) -> Tensor:
        """m of every state."""
        of, spectrum = self.remedy, self.remedy.known_spectrum()
        flat = state.detach().flatten(1).to("cpu", torch.float64).numpy()
        read, _ = noise_levels(spectrum, flat, self.interpolant)
        times = np.broadcast_to(t.detach().cpu().numpy(), read.shape)
        knots, means = from_origin(of.times, of.labels)
        mean = times + np.interp(times, knots, np.subtract(means, knots))
        at, levels = from_origin(of.times, of.null)
        own = np.interp(read, levels, at)
        m = mean + np.interp(times, of.times, of.reliability) * (own - mean)
        told = times + of.strength * (m - times)
        return torch.from_numpy(np.clip(told, 0.0, self.t_max)).to(t)


@SAMPLING_REMEDIES.register(
    "label-correction-per-state",
    summary="tell the network the level read from each state, as far as it can be read",
    source="Sun et al. 2025 (arXiv 2502.13129) for levels of single states; SlowFlow",
)
@dataclass(frozen=True)
class LabelCorrectionPerState(SamplingRemedy):
    """A label a state.

    Args:
        times: knots. labels: mean m of the model's states there. null: mean level of genuine states there.
        reliability: share of the scatter of levels that is no error, in [0, 1], at the same times.
        strength: share of the lag that is told; 0 = nothing changes.
        data: fingerprint of the data whose spectrum is used.
        spectrum: their principal axes; comes with a measurement.
    """

    times: tuple[float, ...] = ()
    labels: tuple[float, ...] = ()
    null: tuple[float, ...] = ()
    reliability: tuple[float, ...] = ()
    strength: float = 1.0
    data: str = ""
    spectrum: Spectrum | None = field(default=None, metadata={"plain": False}, repr=False, compare=False)
    name: ClassVar[str] = "label-correction-per-state"
    constants: ClassVar[tuple[str, ...]] = ("times", "labels", "null", "reliability", "data")

    def __post_init__(self) -> None:
        check_map(self.times, self.labels)
        check_map(self.times, self.null)
        if len(self.reliability) != len(self.times) or any(not 0.0 <= w <= 1.0 for w in self.reliability):
            raise InputError("reliability needs one share between 0 and 1 at every time of the map")
        if not -2.0 <= self.strength <= 2.0:
            raise InputError(
                f"strength is {self.strength}, expected a share of the lag between -2 and 2 (1 = all of it)"
            )

    @property
    def active(self) -> bool:
        """Whether any label could differ from its time."""
        return self.strength != 0.0 and len(self.times) > 0

    def check(self, model: Predictor, method: Sampler) -> None:
        """States need the spectrum of their own data."""
        if self.active and len(self.known_spectrum().axes) != int(np.prod(model.shape)):
            raise InputError(
                f"the spectrum has {len(self.known_spectrum().axes)} axes, states of shape {model.shape} have "
                f"{np.prod(model.shape)} values"
            )

    def known_spectrum(self) -> Spectrum:
        """The spectrum.

        Raises:
            InputError: it was made without a measurement.
        """
        if self.spectrum is None:
            raise InputError(
                f"'{self.name}' reads levels along the spectrum of the data, which only a measurement brings: --fit-from RUN"
            )
        return self.spectrum

    def wrapped(self, model: Predictor) -> Predictor:
        """The model told the level of each state."""
        return ByState(model, self)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """Mean, calibration and reliability from `level` on the model's and on genuine states."""
        cls(**settings)
        curve, null = findings.lag("level"), findings.level_null
        if null is None or findings.spread is None or findings.spectrum is None:
            raise findings.missing("what genuine states are read as", "--reference level and the null 'genuine'")
        (lags, excess, said), pooled = findings.lagging("level"), _pooled(*findings.spread)
        text = f"{said}; {pooled} of the scatter of levels is no error of reading"
        found = {"excess": excess, "reliability": pooled}
        if not lags and pooled.low <= 0.0:
            return Fit(cls(**settings), False, f"{text}: neither is clear of 0, the labels are right", found)
        times, labels = monotone(curve)
        if not lags:
            labels = times
        share = 1.0 - findings.spread[1].values[0] / np.maximum(findings.spread[0].values[0], 1e-300)
        reliability = np.clip(np.interp(times, curve.t, share), 0.0, 1.0) if pooled.low > 0 else np.zeros(len(times))
        calibration = np.maximum.accumulate(isotonic_regression(np.clip(null.values[0], 0.0, 1.0)).x)
        fit = cls(
            times,
            labels,
            tuple(np.interp(times, null.t, calibration).tolist()),
            tuple(reliability.tolist()),
            data=findings.fingerprint,
            spectrum=findings.spectrum,
            **settings,
        )
        return Fit(fit, True, f"{text}: every state is told its own", found)


def _pooled(model: Curve, genuine: Curve) -> Estimate:
    """1 - Var(genuine) / Var(model) over all times from EARLIEST on; negative where the model's states scatter less."""
    late = model.t >= min(EARLIEST, model.t.max())
    rows = 1.0 - genuine.values[:, late].sum(axis=1) / np.maximum(model.values[:, late].sum(axis=1), 1e-300)
    return estimated(rows, min(model.n, genuine.n))
