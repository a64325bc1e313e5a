"""What a measurement tells a remedy: plain curves with their resamples, and the variances of the data.

Remedies do not know measurements; whoever has one hands these over. Row 0 of a curve is the estimate, every further
row one resample of the trajectories, so that a fit to each row gives the interval of the fitted constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from slowflow.data.bank import Spectrum
from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.records import Estimate

LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """A curve over time with its resamples.

    Args:
        t: [times]. values: [1 + resamples, times]; row 0 is the estimate. n: trajectories behind it.
    """

    t: Float[np.ndarray, " times"]
    values: Float[np.ndarray, "rows times"]
    n: int

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % ends at every time."""
        return _ends(self.values[1:])


def estimated(rows: Float[np.ndarray, " rows"], n: int) -> Estimate:
    """A number from its value in every row: the first is the estimate."""
    low, high = _ends(rows[1:])
    return Estimate(float(rows[0]), float(low), float(high), n)


def _ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0], axis=0)
    return low, high


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured; what was not is None or missing.

    Args:
        source: what is said in messages, such as the folder of the measurement.
        path: the interpolant.
        grid: [steps + 1] times of the sampler. sampler: its name.
        variances, counts: [g] variance of the data within a class along groups of axes, and how many axes each holds.
        pixel_variance: mean variance over the pixels of an image, one a class, or one for all.
        lags: reading (`level`, `signal clock`, `noise clock`) -> m of the model's states at every t, its null taken off.
        signal, noise: (model's, null's) curves of the squared coefficients of data and noise in the states.
        noise_norm: norm of the predicted noise on the model's states over that on a perfect model's (or genuine) states.
        spread: variance over single states of the level read from them, (model's, genuine states').
        level_null: mean level read from genuine states at each time.
        spectrum: principal axes of the data, for remedies that read single states. fingerprint: of those data.
        verdict: of the measurement.
    """

    source: str
    path: Interpolant
    grid: Float[np.ndarray, " grid"]
    sampler: str
    variances: Float[np.ndarray, " g"] | None = None
    counts: Float[np.ndarray, " g"] | None = None
    pixel_variance: tuple[float, ...] = ()
    lags: Mapping[str, Curve] = field(default_factory=dict)
    signal: tuple[Curve, Curve] | None = None
    noise: tuple[Curve, Curve] | None = None
    noise_norm: Curve | None = None
    spread: tuple[Curve, Curve] | None = None
    level_null: Curve | None = None
    spectrum: Spectrum | None = None
    fingerprint: str = ""
    verdict: str = ""

    def lag(self, reading: str) -> Curve:
        """m under one reading.

        Raises:
            InputError: it was not measured.
        """
        if reading not in self.lags:
            name = "clocks" if reading.endswith("clock") else reading
            raise InputError(f"{self.source} holds no reading '{reading}'; measure again with --reference {name}")
        return self.lags[reading]

    def missing(self, what: str, how: str) -> InputError:
        """The error for something that was not measured."""
        return InputError(f"{self.source} does not tell {what}; measure again with {how}")
