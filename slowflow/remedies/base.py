"""The interface of a training remedy: from a (noise, data) pair to (state, time label, target).

A remedy is an object that wraps a training step, never a flag inside one. It is usable alone:

    state, t, target = slowflow.MixFlow(gamma=0.4).pair(noise, data, generator)
    loss = (net(state, t) - target).square().mean()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import warp
from slowflow.flow.interpolants import Interpolant, interpolant
from slowflow.flow.model import PREDICTIONS, regression_target

TIME_LAWS = ("uniform", "beta21")


class Pair(NamedTuple):
    """What one training step sees.

    state: [n, *data], the network's input. t: [n], the time label it is told. target: [n, *data], what it should return.
    """

    state: Tensor
    t: Tensor
    target: Tensor


def draw_times(law: str, n: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
    """Time labels in [0, 1], float64: `uniform`, or `beta21` with density 2 t (t = sqrt(U))."""
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    return u.sqrt() if law == "beta21" else u


@dataclass(frozen=True, kw_only=True)
class TrainingRemedy(ABC):
    """Common settings.

    Args:
        time_law: law of the time label before the warp, `uniform` or `beta21`.
        shift: resolution shift s of the warp W(t) = t / (s - (s-1) t), applied to the label; 1 = none.
        interpolant: path of the network that is trained.
        prediction: what the network returns.
    """

    time_law: str = "uniform"
    shift: float = 1.0
    interpolant: str | Interpolant = "linear"
    prediction: str = "velocity"

    def __post_init__(self) -> None:
        if self.time_law not in TIME_LAWS:
            raise InputError(f"time_law is '{self.time_law}', expected one of {', '.join(TIME_LAWS)}")
        if not 0.0 < self.shift < math.inf:
            raise InputError(f"shift is {self.shift}, expected a finite number above 0")
        if self.prediction not in PREDICTIONS:
            raise InputError(f"prediction is '{self.prediction}', expected one of {', '.join(PREDICTIONS)}")

    @abstractmethod
    def times(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """(label t, input time m, target time), each [n] float64."""

    def pair(
        self,
        noise: Float[Tensor, "n *data"],
        data: Float[Tensor, "n *data"],
        generator: torch.Generator | None = None,
    ) -> Pair:
        """Draw times and build the step's input, label and target.

        Args:
            noise: standard normal, like `data`.
            data: ground truth.
            generator: CPU generator for the times; torch's global one when None.

        Raises:
            InputError: noise and data differ in shape.
        """
        if noise.shape != data.shape:
            raise InputError(f"noise has shape {tuple(noise.shape)}, data {tuple(data.shape)}; they must be equal")
        path = interpolant(self.interpolant)
        t, m, target_time = (x.to(data.device) for x in self.times(len(data), generator))
        state = path.state(noise, data, m).to(data.dtype)
        target = regression_target(path, self.prediction, noise, data, target_time).to(data.dtype)
        return Pair(state, t.to(data.dtype), target)

    def labels(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
        """Time labels: drawn from the law, then warped."""
        return warp(draw_times(self.time_law, n, generator), self.shift)
