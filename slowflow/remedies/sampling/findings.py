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

    def clear(self) -> np.ndarray:
        """Where the interval of a curve of m excludes the time itself, so that the lag t - m is clear of 0; [times]."""
        low, high = self.interval()
        return (high < self.t) | (low > self.t)


def estimated(rows: Float[np.ndarray, " rows"], n: int) -> Estimate:
    """A number from its value in every row: the first is the estimate."""
    low, high = _ends(rows[1:])
    return Estimate(float(rows[0]), float(low), float(high), n)


def _ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0], axis=0)
    return np.asarray(low), np.asarray(high)


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
        excess: reading -> its mean lag over each null (`genuine`, `exact`) and its `floor`, in units of gamma.
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
    excess: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
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

    def lagging(self, reading: str) -> tuple[bool, Estimate, str]:
        """(whether the states lag or run ahead under a reading, by how much over the first null, one clause).

        They do where every null has the lag clear of 0 on the same side, and beyond the floor: the same zero that the
        verdict of a measurement is read against.

        Raises:
            InputError: the reading was not measured over any null.
        """
        self.lag(reading)
        rows = self.excess.get(reading, {})
        nulls = {name: one for name, one in rows.items() if name != "floor"}
        if not nulls:
            raise self.missing(f"the excess of '{reading}'", "the nulls 'genuine' and 'exact'")
        first = next(iter(nulls.values()))
        clear = all(one.excludes(0.0) and one.value * first.value > 0 for one in nulls.values())
        floor = abs(rows["floor"].value) if "floor" in rows else 0.0
        shown = ", ".join(f"{one} over {name}" for name, one in nulls.items())
        found = clear and all(abs(one.value) > floor for one in nulls.values())
        return found, first, f"excess of the {reading} in units of gamma {shown}, floor {floor:.3f}"

    def missing(self, what: str, how: str) -> InputError:
        """The error for something that was not measured."""
        return InputError(f"{self.source} does not tell {what}; measure again with {how}")
