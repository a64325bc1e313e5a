"""Readings: how far states lag behind the ground truth, in a form whose mean can be resampled by trajectory.

Slack is r = (t - m) / t, positive for slow. Two kinds of reading give it:

* `Slack`: every state has an m of its own (own, nearest, level, ...).
* `Clock`: only a mean over trajectories has an m. The signal clock reads alpha(m)^2 = mean A, the noise clock
  sigma(m)^2 = mean B, where A and B are unbiased estimates of the squared coefficients of data and noise in a state.

Both answer the same three questions, so that every fit and every interval is written once. NumPy arrays in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from slowflow.measuring.bootstrap import mean_curve


@runtime_checkable
class Reading(Protocol):
    """What fits and figures need of a reading."""

    @property
    def t(self) -> np.ndarray:
        """[time], above 0."""
        ...

    def __len__(self) -> int:
        """Number of trajectories."""
        ...

    def mean_slack(self, drawn: np.ndarray) -> np.ndarray:
        """Mean slack at each time in each resample: drawn [resamples, n] -> [resamples, time]."""
        ...

    def variance(self) -> np.ndarray:
        """[time], variance of the slack of one trajectory (for a clock: of its share in the mean, to first order)."""
        ...


@dataclass(frozen=True)
class Slack:
    """Slowed timesteps of one kind under one reference.

    Args:
        m: [n, time]. t: [time], above 0. residual: [n, time].
    """

    m: np.ndarray
    t: np.ndarray
    residual: np.ndarray

    def __len__(self) -> int:
        return len(self.m)

    @property
    def r(self) -> np.ndarray:
        """(t - m) / t, [n, time]."""
        return 1.0 - self.m / self.t

    def mean_slack(self, drawn: np.ndarray) -> np.ndarray:
        """[resamples, time]."""
        return mean_curve(self.r, drawn)

    def variance(self) -> np.ndarray:
        """[time]."""
        return np.asarray(self.r.var(axis=0))


@dataclass(frozen=True)
class Clock:
    """A clock of one kind.

    Args:
        square: [n, time], unbiased estimates of a squared coefficient, one a state; single ones may be negative.
        t: [time], above 0.
        time_of: coefficient -> the t at which the path has it; for the noise clock it falls with the coefficient.
    """

    square: np.ndarray
    t: np.ndarray
    time_of: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.square)

    def coefficient(self, drawn: np.ndarray) -> np.ndarray:
        """The coefficient at each time in each resample, at least 0: [resamples, time]."""
        return np.sqrt(np.maximum(mean_curve(self.square, drawn), 0.0))

    def mean_slack(self, drawn: np.ndarray) -> np.ndarray:
        """[resamples, time]."""
        return 1.0 - self.time_of(self.coefficient(drawn)) / self.t

    def variance(self) -> np.ndarray:
        """[time]: (d slack / d square)^2 x variance of the squares."""
        square = self.square.mean(axis=0)
        step = 1e-4 * np.maximum(np.abs(square), 1e-6)
        up, down = (self.time_of(np.sqrt(np.maximum(square + k * step, 0.0))) for k in (1, -1))
        slope = (up - down) / (2.0 * step * self.t)
        return np.asarray(slope**2 * self.square.var(axis=0))


def everyone(reading: Reading) -> np.ndarray:
    """The resample that draws each trajectory once: [1, n]."""
    return np.ones((1, len(reading)))
