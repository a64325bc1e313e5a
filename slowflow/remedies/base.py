"""The interface of a training remedy: from a (noise, data) pair to (state, time label, target).

A remedy is an object that wraps a training step, never a flag inside one. It is usable alone:

    state, t, target = slowflow.MixFlow(gamma=0.4).pair(noise, data, generator)
    loss = (net(state, t) - target).square().mean()

The times are drawn first, whatever else a remedy draws: a remedy of strength 0 is plain training under its law of t, bit
for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.flow.grids import warp
from slowflow.flow.habits import TIME_LAWS, Training
from slowflow.flow.interpolants import Interpolant, interpolant
from slowflow.flow.prediction import PREDICTIONS, regression_target
from slowflow.flow.predictor import Predictor

Times = tuple[Tensor, Tensor, Tensor]
"""(label t, input time m, time of the target), each [n] float64."""


class Pair(NamedTuple):
    """What one training step sees.

    state: [n, *data], the network's input. t: [n], the time label it is told. target: [n, *data], what it should return.
    """

    state: Tensor
    t: Tensor
    target: Tensor


@runtime_checkable
class Trained(Predictor, Protocol):
    """What a remedy needs of the model that is trained; `FlowModel` is one."""

    @property
    def net(self) -> nn.Module:
        """The network."""
        ...

    @property
    def prediction(self) -> str:
        """What it returns."""
        ...

    @property
    def shift(self) -> float:
        """Resolution shift of its times."""
        ...

    @property
    def training(self) -> Training:
        """How it was trained."""
        ...


def draw_times(
    law: str, n: int, generator: torch.Generator | None, support: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, " n"]:
    """Time labels, float64, one uniform draw each, through the inverse of the law restricted to `support`.

    Args:
        law: uniform; beta21, density 2 t (t = sqrt(U)); logit-normal, t = sigmoid(Z).
        n: how many.
        generator: CPU generator.
        support: smallest and largest time.
    """
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    low, high = torch.tensor(support, dtype=torch.float64)
    if law == "beta21":
        return torch.sqrt(low**2 + (high**2 - low**2) * u)
    if law == "logit-normal":
        first, last = torch.special.ndtr(torch.logit(low)), torch.special.ndtr(torch.logit(high))
        return torch.sigmoid(torch.special.ndtri(first + (last - first) * u)).clamp(low, high)
    return low + (high - low) * u


@dataclass(frozen=True, kw_only=True)
class TrainingRemedy(ABC):
    """Common settings. A remedy used alone has plain ones; `bound` takes them from the model that is trained.

    Args:
        time_law: law of the time label before the warp: uniform, beta21 or logit-normal; None = the model's own, which
            is uniform for a remedy used alone.
        shift: resolution shift s of the warp W(t) = t / (s - (s-1) t), applied to the label; 1 = none. Bound to a model
            it multiplies with the model's own.
        interpolant: path of the network that is trained.
        prediction: what the network returns.
        support: smallest and largest label before the warp; the model's own when it is [0, 1].
        levels: of a table of noise levels: times are rounded down to it; 0 = continuous.
        model: the network that is trained, put here by `bound`; remedies that roll it out need it.
    """

    measured: ClassVar[str | None] = None
    """What a measurement can set: `gamma` (a width), `law` (of m at each t), `clocks` (pairs a, b at each t)."""

    time_law: str | None = None
    shift: float = 1.0
    interpolant: str | Interpolant = "linear"
    prediction: str = "velocity"
    support: tuple[float, float] = (0.0, 1.0)
    levels: int = 0
    model: Trained | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.time_law is not None and self.time_law not in TIME_LAWS:
            raise InputError(f"time_law is '{self.time_law}', expected one of {', '.join(TIME_LAWS)}")
        if not 0.0 <= self.support[0] < self.support[1] <= 1.0:
            raise InputError(f"support is {self.support}, expected 0 <= low < high <= 1")
        if not 0.0 < self.shift < math.inf:
            raise InputError(f"shift is {self.shift}, expected a finite number above 0")
        if self.prediction not in PREDICTIONS:
            raise InputError(f"prediction is '{self.prediction}', expected one of {', '.join(PREDICTIONS)}")

    @classmethod
    def settings(cls) -> list[str]:
        """Names of what can be set; the model is bound, not set."""
        return [f.name for f in fields(cls) if f.name != "model"]

    @classmethod
    def needed(cls) -> list[str]:
        """Settings without a default: arrays that only a measurement can bring."""
        return [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]

    def record(self) -> dict[str, Any]:
        """Settings as plain values, for a run folder."""
        named = replace(self, interpolant=interpolant(self.interpolant).name)
        return {name: canonical(getattr(named, name)) for name in self.settings()}

    def bound(self, model: Trained) -> TrainingRemedy:
        """This remedy for training `model`: its path, prediction, warp, and the times it was trained on.

        Raises:
            InputError: the remedy cannot train a model of this kind.
        """
        return replace(
            self,
            interpolant=model.interpolant,
            prediction=model.prediction,
            shift=self.shift * model.shift,
            time_law=self.time_law or model.training.time_law,
            support=model.training.interval if self.support == (0.0, 1.0) else self.support,
            levels=model.training.levels,
            model=model,
        )

    def calls(self, n: int) -> int:
        """Network calls that `pair` makes for n rows, beyond the one that is trained."""
        return 0

    @abstractmethod
    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(label t, input time m, target time), each [n] float64."""

    def pair(
        self,
        noise: Float[Tensor, "n *data"],
        data: Float[Tensor, "n *data"],
        generator: torch.Generator | None = None,
        cond: Int[Tensor, " n"] | None = None,
    ) -> Pair:
        """Draw times and build the step's input, label and target.

        Args:
            noise: standard normal, like `data`.
            data: ground truth.
            generator: CPU generator of all that is drawn, the times first; torch's global one when None.
            cond: what the network is told beside the time; used by remedies that roll it out.

        Raises:
            InputError: noise and data differ in shape.
        """
        if noise.shape != data.shape:
            raise InputError(f"noise has shape {tuple(noise.shape)}, data {tuple(data.shape)}; they must be equal")
        t, m, target_time = (self.rounded(x).to(data.device) for x in self.times(len(data), generator))
        return self.built(noise, data, (t, m, target_time), generator, cond)

    def built(
        self, noise: Tensor, data: Tensor, times: Times, generator: torch.Generator | None, cond: Tensor | None
    ) -> Pair:
        """The pair at times that are drawn: the state at m, the target at the time of the target."""
        path = interpolant(self.interpolant)
        t, m, target_time = times
        state = path.state(noise, data, m).to(data.dtype)
        target = regression_target(path, self.prediction, noise, data, target_time).to(data.dtype)
        # half precision has not the digits for a label: 1000 (1 - t) would be off by whole steps
        return Pair(state, t.to(torch.promote_types(data.dtype, torch.float32)), target)

    def labels(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
        """Time labels: drawn from the law, then warped."""
        return warp(self.drawn(n, generator), self.shift)

    def drawn(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
        """Time labels before the warp."""
        return draw_times(self.time_law or "uniform", n, generator, self.support)

    def ends(self, *, warped: bool) -> Tensor:
        """Smallest and largest label, before or after the warp; float64 [2]."""
        ends = torch.tensor(self.support, dtype=torch.float64)
        return warp(ends, self.shift) if warped else ends

    def rounded(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The noise level at or below t on a table, t itself elsewhere; a uniform t makes a uniform level."""
        return t if not self.levels else (t * self.levels + 1e-9).floor().clamp(max=self.levels - 1) / self.levels


def share_checked(name: str, value: float, of: str = "") -> None:
    """Refuse a share outside [0, 1], NaN included."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} is {value}, expected a share {of}{' ' if of else ''}between 0 and 1")


def choice_checked(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is none of those known."""
    if value not in known:
        raise InputError(f"{name} is '{value}', expected {' or '.join(map(repr, known))}")
