"""Will MixFlow bring this checkpoint nearer to its data? A forecast of the sign, made before any post-training.

    z = c_0 + c_1 log gamma + c_2 log level + c_3 log(1 + length) + c_4 log blur,    P(helps) = 1 / (1 + exp(-z))

    level     how slow the states run: mean of (t - m) / t over genuine states, by the reference `level` (half its excess gamma)
    blur      how badly a state tells its own noise level: scatter of the same reading on genuine states, relative to t
    length    planned post-training over pretraining, in samples seen
    helps     a smaller Frechet distance than plain post-training of the same length

What MixFlow can gain is the lag, which plain training of the same length removes too (c_2 above 0, c_3 below). What it
costs is the label: the network stops trusting it and reads the level off the state, as well as that can be done
(c_4 below 0), on an interval of width gamma (c_1 below 0). Solved for z = 0 this is a largest gamma that helps.

The coefficients are a logistic regression over small networks on Gaussian mixtures with exact truth; `reports/known-truth`
has the experiment, its held-out scores and what it does not cover. It fails, and says so, where a state tells its level
better than in the worlds it was formed on (blur below 0.05): on mixtures of 1,024 dimensions it did no better than a coin
there, and on the one image model tried (mnist-sit) it promised help where there was harm. Where `level` reads no lag its
signs are weaker too.
Source: this project, reports/known-truth (2026-11-23).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from slowflow.errors import InputError
from slowflow.measuring import evidence
from slowflow.measuring.slack import Reading, Slack

NAMES = ("constant", "log gamma", "log level", "log(1 + length)", "log blur")
COEFFICIENTS = (-5.933, -1.919, 1.552, -1.750, -3.861)
"""From reports/known-truth/table.csv by `knowntruth.rule.fit`; a test fits them again."""
SMALLEST_LEVEL = 0.01
"""Smaller lags, and fast ones, count as this: what the study could still read."""
STUDIED = {"level": (SMALLEST_LEVEL, 0.6), "blur": (0.05, 0.4), "length": (0.03, 10.0)}
"""Ranges of the cells that formed the rule; above them, or below in blur and length, a forecast is extrapolated."""
CAVEAT = "Formed on small networks and Gaussian mixtures, not on images."
CLEAR = 0.8
"""Probability from which a forecast is worded as likely."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known before post-training.

    Args:
        gamma: strength asked about, above 0, at most 1.
        level: mean slack of the base model's states over genuine ones, in units of t; below 0 is fast.
        blur: scatter of the level read off one genuine state, in units of t; above 0.
        length: planned length over that of pretraining; above 0.

    Raises:
        InputError: a value out of range or not finite.
    """

    gamma: float
    level: float
    blur: float
    length: float

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma <= 1.0:
            raise InputError(f"gamma is {self.gamma}, expected a share of t above 0 and at most 1")
        if not math.isfinite(self.level):
            raise InputError(f"level is {self.level}, expected a finite mean slack")
        for name in ("blur", "length"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise InputError(f"{name} is {value}, expected a finite number above 0")

    @property
    def beyond(self) -> list[str]:
        """Values outside what was studied. No lag is not among them; `words` has its own sentence for it."""
        low = [name for name in ("blur", "length") if getattr(self, name) < STUDIED[name][0]]
        return low + [name for name, (_, high) in STUDIED.items() if getattr(self, name) > high]

    @property
    def extrapolated(self) -> bool:
        """Whether any value lies outside what was studied."""
        return bool(self.beyond)


def outlook(model: Slack, genuine: Slack, gamma: float, length: float) -> Outlook:
    """What a measurement by `level` knows before post-training.

    Args:
        model, genuine: slack of the base's states and of genuine ones, by `level`.
        gamma: asked about, above 0. length: planned length over that of pretraining.
    """
    blur = float(np.median(genuine.r.std(axis=0)))
    return Outlook(gamma=gamma, level=float(model.r.mean() - genuine.r.mean()), blur=blur, length=length)


def features(one: Outlook) -> Float[np.ndarray, "4"]:
    """What the coefficients after the constant multiply."""
    level = max(one.level, SMALLEST_LEVEL)
    return np.array([math.log(one.gamma), math.log(level), math.log1p(one.length), math.log(one.blur)])


def chance(one: Outlook) -> float:
    """P(MixFlow with this gamma ends nearer to the data than plain post-training of the same length)."""
    z = COEFFICIENTS[0] + float(np.dot(COEFFICIENTS[1:], features(one)))
    return 1.0 / (1.0 + math.exp(-z)) if z > -700 else 0.0


def largest_gamma(level: float, blur: float, length: float) -> float:
    """The gamma at which help and harm are equally likely, at most 1; every smaller one is likelier to help.

    Args:
        level, blur, length: as in `Outlook`.
    """
    at_one = COEFFICIENTS[0] + float(
        np.dot(COEFFICIENTS[1:], features(Outlook(gamma=1.0, level=level, blur=blur, length=length)))
    )
    return min(1.0, math.exp(-at_one / COEFFICIENTS[1]))


def said(level: Mapping[str, Reading], gamma: float) -> str:
    """What `suggest` says of MixFlow's effect: by the record on image models the forecast, or that there is none.

    Args:
        level: kind -> reading by `level`; without it nothing is foretold.
        gamma: asked about, at a post-training as long as the pretraining.
    """
    model, genuine = level.get("model"), level.get("genuine")
    if not isinstance(model, Slack) or not isinstance(genuine, Slack) or not gamma > 0.0:
        return ""
    return evidence.outlook(words(outlook(model, genuine, gamma, 1.0)))


def words(one: Outlook) -> str:
    """What `suggest` tells a user: the forecast, why, and how far to trust it; or that there is none."""
    p, limit = chance(one), largest_gamma(one.level, one.blur, one.length)
    known = f"lag {one.level:.2g}, blur of the noise level {one.blur:.2g}, length {one.length:.2g} of pretraining"
    if one.beyond:
        return (
            f"No forecast for MixFlow with gamma {one.gamma:.2g} ({known}): {' and '.join(one.beyond)} outside what was "
            f"studied. The formula alone gives a chance of help of {p:.0%}, but beyond its range it did no better than a "
            f"coin, and was wrong on the one image model tried. {CAVEAT}"
        )
    sign = "help" if p > 0.5 else "hurt"
    sure = "is likely to" if max(p, 1 - p) >= CLEAR else "may"
    said = [
        f"MixFlow with gamma {one.gamma:.2g} {sure} {sign} the Frechet distance against plain post-training of the same "
        f"length (chance of help {p:.0%}; {known}).",
        f"The forecast turns at gamma {limit:.2g}."
        if limit >= 0.05
        else "No gamma worth the training is forecast to help.",
    ]
    if sign == "hurt":
        said.append(
            "Single samples may still come out cleaner: fidelity gained in most settings where the distance lost."
        )
    if one.level < SMALLEST_LEVEL:
        said.append("No lag of the level is read, so there is little to remove, and here signs are foretold less well.")
    return " ".join([*said, CAVEAT])
