"""Habits: how the authors of a model guide and train it, as plain records that travel with the model.

None of this is in a checkpoint file and none of it changes what the network computes; it decides what guidance does
with the network's answers and under which law of times the network was (and is) trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.predictor import Predictor

TIME_LAWS = ("uniform", "beta21", "logit-normal")
WEIGHTINGS = ("none", "velocity", "likelihood")


@dataclass(frozen=True)
class Guiding:
    """How guidance is applied when a scale other than 1 is asked for.

    Args:
        interval: closed interval of t in which guidance acts.
        channels: only the first so many channels are guided, the others keep the conditional value; None = all. DiT's
            and SiT's scripts guide three of four, an accident kept for reproducibility.
        decide: `each` looks at the interval at every evaluation, `start` at the start of a step for all of it (REPA).
        guide: a weaker model to push away from (autoguidance); None = the model itself without its condition.
    """

    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    decide: str = "each"
    guide: Predictor | None = None

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise InputError(f"the guidance interval is [{low}, {high}], expected 0 <= low <= high <= 1 in canonical t")
        if self.channels is not None and self.channels < 1:
            raise InputError(f"guided channels is {self.channels}, expected at least 1")
        if self.decide not in ("each", "start"):
            raise InputError(f"decide is '{self.decide}', expected 'each' or 'start'")


@dataclass(frozen=True)
class Training:
    """How the model was trained, for post-training it the same way.

    Args:
        time_law: law of t before the warp: uniform, beta21 (density 2 t) or logit-normal (of mean 0, deviation 1).
        interval: support of that law; SiT keeps noise and score networks off both ends.
        weighting: of the loss, see weighting.py.
        levels: of a table of noise levels: times are rounded down to it, as the network saw no others; 0 = continuous.
        second_loss: (all that the network returned, features of each datum) -> a loss that is added where the data bring
            features (REPA's projection), weighted already.
    """

    time_law: str = "uniform"
    interval: tuple[float, float] = (0.0, 1.0)
    weighting: str = "none"
    levels: int = 0
    second_loss: Callable[[Any, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.time_law not in TIME_LAWS:
            raise InputError(f"time_law is '{self.time_law}', expected one of {', '.join(TIME_LAWS)}")
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise InputError(f"the training interval is [{low}, {high}], expected 0 <= low < high <= 1")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting is '{self.weighting}', expected one of {', '.join(WEIGHTINGS)}")
        if self.levels < 0:
            raise InputError(f"levels is {self.levels}, expected 0 (continuous) or the number of noise levels")
