"""Which gamma is recommended: the band, the excess, or what studies of real post-trainings support (`auto`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slowflow.errors import InputError
from slowflow.measuring import evidence
from slowflow.records import GammaFit, excess_key

METHODS = ("auto", "band", "excess")
"""Estimators that a measurement alone can recommend."""


def recommend(fit: GammaFit, method: str) -> GammaFit:
    """The fit with the gamma of one of METHODS recommended, and why.

    Raises:
        InputError: another method, or no null was measured, so that there is no excess.
    """
    if method not in METHODS:
        raise InputError(f"method is '{method}', expected one of {', '.join(METHODS)}, or pilot, which trains")
    if method == "auto":
        return _automatic(fit)
    if method == "band":
        return replace(fit, chosen="the band was asked for: the width of the raw fan, no null taken off")
    zero = excess_key(fit.estimates)
    if zero is None:
        raise InputError("this measurement has no null, so no excess; measure again with --null genuine")
    value = fit.estimates[zero]
    chosen = f"the excess was asked for: {zero} {value}, what is left of the lag above its null, held to [0, 1]"
    return replace(fit, gamma=float(np.clip(value.value, 0.0, 1.0)), method="excess", chosen=chosen)


def _automatic(fit: GammaFit) -> GammaFit:
    """What the studies support: an estimator of this measurement, or a fixed gamma; else the band, and they say why."""
    found = evidence.stored()
    taken, why = str(found["method"]), evidence.words(found)
    if taken.startswith("fixed "):
        return replace(fit, gamma=float(taken.removeprefix("fixed ")), method=taken, chosen=why)
    if taken == "excess" and excess_key(fit.estimates):
        return replace(recommend(fit, "excess"), chosen=why)
    return replace(fit, chosen=why)
