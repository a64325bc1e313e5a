"""What a measurement gives to training: a gamma, the law of m at each t, or the pairs of the two clocks.

The law of m (`law`) is the model's own fan with the null taken off, in mean and in variance:

    m = t + (mean m of the model - mean m of genuine states) + sqrt(1 - var genuine / var model) (m - mean m)

which is exact where the error of the reading is additive and both are normal, and right in the first two moments
otherwise; where the model scatters no more than genuine states do, one m is left at each t. Quantiles of it rise with t
(isotonic regression, which keeps their order).

The pairs (`clocks`) are the line from (alpha(t), sigma(t)) to twice the measured deviation: uniform along it, the mean is
what was measured. Single states say too little about a and b for more.

    a = alpha(t) + v (a_t - alpha(t)),   v ~ U[0, 2],   a_t^2 = alpha(t)^2 + mean A of the model - mean A of genuine states

A being the unbiased estimates of a squared coefficient that every state gives; b likewise with sigma. Coefficients are
held at 0, so a deviation of more than half of one (a blind clock, near the noise) comes out smaller than it was read.

`raw` leaves the null in: with it, genuine states alone would seem to lag. Source: SlowFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from slowflow.errors import InputError
from slowflow.measuring.gamma import subject_of
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.slack import Clock, Reading, Slack
from slowflow.measuring.straight import straightened
from slowflow.remedies import REMEDIES, TrainingRemedy, make

LEVELS = (0.01, *(round(0.05 * k, 2) for k in range(1, 20)), 0.99)
"""Levels of the quantiles; beyond the outer ones the law is held, since extremes grow with the number of samples."""


def remedy(name: str, measured: Measurement | None = None, *, raw: bool = False, **settings: Any) -> TrainingRemedy:
    """The training remedy called `name`; what it can take from a measurement and is not set comes from there.

    Args:
        name: as `slowflow ls remedies` has it.
        measured: a finished measurement of the model that is to be trained.
        raw: take a measured law with its null left in.
        settings: by the names of the remedy's arguments.

    Raises:
        InputError: unknown remedy or setting, a value out of range, or something that was not measured.
    """
    what = REMEDIES.get(name).measured
    if what is not None and measured is not None:
        settings = {**handed(measured, what, raw=raw), **settings}
    return make(name, settings)


def handed(measured: Measurement, what: str, *, raw: bool = False) -> dict[str, Any]:
    """Settings of a remedy that this measurement brings.

    Args:
        measured: a finished measurement of the model that is to be trained.
        what: `gamma`, `law` or `clocks`: `TrainingRemedy.measured` of the remedy.
        raw: leave the null in.

    Raises:
        InputError: something that was not measured.
    """
    if what == "law":
        return law(measured, raw=raw)
    return clocks(measured, raw=raw) if what == "clocks" else {"gamma": float(measured.suggest().gamma)}


def law(measured: Measurement, *, raw: bool = False) -> dict[str, Any]:
    """`t` [T], `u` [R] and `m` [R, T] for the remedy `empirical`, from the main reference.

    Raises:
        InputError: no reference reads single states, or genuine states were not measured.
    """
    name = measured.main_reference
    raw_kinds: dict[str, Reading] = dict(measured.slack(name))
    kinds = raw_kinds if raw else straightened(raw_kinds)
    states = kinds[subject_of(kinds)]
    assert isinstance(states, Slack)
    m = states.m
    if not raw:
        null = _genuine(measured, kinds)
        assert isinstance(null, Slack)
        m = without_null(m, null.m, states.t)
    return {"t": tuple(states.t.tolist()), "u": LEVELS, "m": _rows(quantiles(m))}


def without_null(m: np.ndarray, null: np.ndarray, t: np.ndarray) -> np.ndarray:
    """m [n, time] of a model with mean and variance of genuine states [k, time] taken off, as at the top."""
    mean, spread = m.mean(axis=0), np.maximum(m.var(axis=0), 1e-300)
    kept = np.sqrt(np.maximum(1.0 - null.var(axis=0) / spread, 0.0))
    return np.asarray(t + mean - null.mean(axis=0) + kept * (m - mean))


def quantiles(m: np.ndarray) -> np.ndarray:
    """[levels, time]: quantiles of m [n, time] within [0, 1], which rise with the level and with t."""
    found = np.clip(np.quantile(m, LEVELS, axis=0), 0.0, 1.0)
    rising = np.stack([isotonic_regression(row).x for row in found])
    # two rows that agree may part by a rounding of the regression
    return np.maximum.accumulate(rising, axis=0)


def clocks(measured: Measurement, *, raw: bool = False) -> dict[str, Any]:
    """`t` [T], `a` and `b` [2, T] for the remedy `two-clock`.

    Raises:
        InputError: the clocks or genuine states were not measured.
    """
    if "clocks" not in measured.references:
        raise InputError(f"{measured.path} holds no clocks; measure again with --reference clocks")
    readings, path = measured.readings(), measured.path_of_states
    found: dict[str, Any] = {}
    for key, name, of in (("a", "signal clock", path.alpha), ("b", "noise clock", path.sigma)):
        kinds = readings[name]
        states = kinds[subject_of(kinds)]
        nominal = of(torch.from_numpy(states.t)).numpy()
        null = None if raw else _square(_genuine(measured, kinds))
        found |= {"t": tuple(states.t.tolist()), key: _rows(line(nominal, _square(states), null))}
    return found


def line(nominal: np.ndarray, model: np.ndarray, null: np.ndarray | None) -> np.ndarray:
    """[2, time]: the coefficient on the path and at twice the measured deviation from it.

    Args:
        nominal: [time], of the path.
        model: [time], mean of the unbiased squares; null: of genuine states, None leaves it in.
    """
    square = model if null is None else nominal**2 + model - null
    return np.maximum(np.stack([nominal, 2.0 * np.sqrt(np.maximum(square, 0.0)) - nominal]), 0.0)


def _genuine(measured: Measurement, kinds: dict[str, Reading]) -> Reading:
    if "genuine" not in kinds:
        raise InputError(
            f"{measured.path} was measured without genuine states, so there is no null to take off; measure with "
            "--null genuine, or take the raw law"
        )
    return kinds["genuine"]


def _square(reading: Reading) -> np.ndarray:
    assert isinstance(reading, Clock)
    return np.asarray(reading.square.mean(axis=0))


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
