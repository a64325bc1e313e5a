"""label-correction: the network is told where its states really are.

    u'(state, t) = u(state, m(t)),      m(t) = t + strength (measured m(t) - t)

m is the mean time of the model's states as a reading of the measurement has it, its null taken off, not decreasing in t.
Strength 1 tells the network what its states are; the step stays the schedule's. What follows depends on the cause, and the
closed forms of Gaussian data say how (`tests/remedies/test_sampling_science.py`):

- a velocity that is too slow, data of large variance: the signal grows like 1/m instead of 1/t and catches up. With
  u x 0.95 on the linear path the final deviation goes from -10.9 % to +0.9 % at c^2 = 100, from -7.7 % to +3.7 % at 25.
- noise: an exact field that is told t drives all of it out by t = 1 however much there was, told m < t it leaves
  t - m of it. Strength 1 keeps b late.
- a network whose own labels are off (it answers for t + o): its states follow it to t + o, so telling it m(t) = t + o makes the
  fault twice as large, and strength -1, t - o, undoes it.

So a lag that is read does not say which sign mends it; that is to be tried on both sides and measured again.
In the states: strength 1 raises a towards schedule where signal rules and keeps b late where noise rules; -1 the reverse.
Source: the link test of SlowFlow; learned labels: Xia et al. 2024, Timestep Tuner (arXiv 2310.09469).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.predictor import Predictor
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Curve, Findings
from slowflow.remedies.sampling.relabelling import Relabelled

READINGS = ("level", "signal clock", "noise clock")


@dataclass(frozen=True)
class ByTime(Relabelled):
    """A model told m(t).

    Args:
        model: what is told.
        times, labels: knots of m, the first at (0, 0); beyond the last the lag stays what it is there.
        strength: share of the lag that is told.
    """

    times: tuple[float, ...]
    labels: tuple[float, ...]
    strength: float

    def label(self, state: Tensor, t: Tensor) -> Tensor:
        """m(t)."""
        lag = np.interp(t.detach().cpu().numpy(), self.times, np.subtract(self.labels, self.times))
        return (t + self.strength * torch.as_tensor(lag, dtype=t.dtype, device=t.device)).clamp(0.0, self.t_max)


@SAMPLING_REMEDIES.register(
    "label-correction",
    summary="tell the network the measured time of its states, m(t), instead of t",
    source="SlowFlow's link test; Xia et al. 2024, Timestep Tuner (arXiv 2310.09469)",
)
@dataclass(frozen=True)
class LabelCorrection(SamplingRemedy):
    """One map for all states.

    Args:
        times, labels: m at increasing times; none = nothing changes.
        strength: share of the lag that is told; 0 = nothing changes, 1 = all, -1 = all of it to the other side.
        reading: whose m is fitted: level, signal clock or noise clock.
    """

    times: tuple[float, ...] = ()
    labels: tuple[float, ...] = ()
    strength: float = 1.0
    reading: str = "level"
    name: ClassVar[str] = "label-correction"
    constants: ClassVar[tuple[str, ...]] = ("times", "labels")

    def __post_init__(self) -> None:
        check_map(self.times, self.labels)
        if not -2.0 <= self.strength <= 2.0:
            raise InputError(
                f"strength is {self.strength}, expected a share of the lag between -2 and 2 (1 = all of it)"
            )
        if self.reading not in READINGS:
            raise InputError(f"reading is '{self.reading}', expected one of {', '.join(READINGS)}")

    @property
    def active(self) -> bool:
        """Whether any label differs from its time."""
        return self.strength != 0.0 and self.times != self.labels

    def wrapped(self, model: Predictor) -> Predictor:
        """The model told m(t)."""
        return ByTime(model, *from_origin(self.times, self.labels), self.strength)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """m(t) from the excess of one reading over its null."""
        reading = cls(**settings).reading
        lags, excess, text = findings.lagging(reading)
        if not lags:
            return Fit(
                cls(**settings), False, f"{text}: no lag is clear of 0, the labels are right", {"excess": excess}
            )
        times, labels = monotone(findings.lag(reading))
        return Fit(cls(times, labels, **settings), True, f"{text}: the labels are moved by it", {"excess": excess})


def monotone(curve: Curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(times, m) with m not decreasing and within [0, 1]; times that were not read are left out."""
    read = np.isfinite(curve.values[0])
    m = np.clip(isotonic_regression(curve.values[0][read]).x, 0.0, 1.0)
    return tuple(curve.t[read].tolist()), tuple(m.tolist())


def from_origin(times: tuple[float, ...], labels: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same map, through (0, 0) where it does not say otherwise: pure noise is at its label."""
    return (times, labels) if times[0] <= 0.0 else ((0.0, *times), (0.0, *labels))


def check_map(times: tuple[float, ...], labels: tuple[float, ...]) -> None:
    """Refuse what is no map of [0, 1] into itself.

    Raises:
        InputError: one sentence.
    """
    if len(times) != len(labels):
        raise InputError(f"{len(times)} times and {len(labels)} labels were given; a map needs one label a time")
    if any(not 0.0 <= value <= 1.0 for value in (*times, *labels)):
        raise InputError("times and labels of a map are times between 0 (noise) and 1 (data)")
    if any(np.diff(times) <= 0):
        raise InputError("the times of a map must increase")
    if any(np.diff(labels) < 0):
        raise InputError("the labels of a map must not decrease: a later state has no earlier label")
