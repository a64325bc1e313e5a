"""Will MixFlow help this checkpoint? A forecast of the sign of its effect, made before any post-training.

    z = c . f,   P(helps) = 1 / (1 + exp(-z))

f: see `features`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SMALL = 0.01


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known."""

    gamma: float
    level: float
    noise: float
    blur: float
    length: float
    steps: int
    dimension: int


def features(one: Outlook) -> Float[np.ndarray, " feature"]:
    """Features."""
    lag = max(one.level, SMALL)
    return np.array([math.log(one.gamma), math.log(lag), math.log1p(one.length), math.log(one.blur)])
