"""two-clock: states whose signal and noise are off schedule each by its own measured amount.

    t ~ p,   u ~ U[0, 1];   a = A(t, u), b = B(t, u): measured pairs, one u for both
    state = a data + b noise,   label t

A generated state is not on the path in general: Euler's steps on an exact flow take the noise out on schedule and leave
the signal behind. One time m cannot say that, two clocks can. Rows of pairs are points of a line that is drawn from
uniformly; `strength` scales a - alpha(t) and b - sigma(t), 0 is plain training. Off the path the target is a choice:

    path   the pair's own at t: data - noise on the linear path
    data   the one that leads from the state to the datum: (data - state) / (1 - t) on the linear path, the divisor held
           above `floor`

On the linear path MixFlow is the line from (t, 1-t) to ((1-gamma) t, 1 - (1-gamma) t); input perturbation is, in the law of
its states, the point (t, (1-t) sqrt(1 + gamma^2)). Its targets differ: the noise it adds is not the pair's.
Source: SlowFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import expand, interpolant
from slowflow.flow.prediction import regression_target
from slowflow.remedies import REMEDIES, TrainingRemedy
from slowflow.remedies.base import Pair, Times, choice_checked, share_checked
from slowflow.remedies.measured import Curves, Surface, checked
from slowflow.remedies.rollout import landing


@REMEDIES.register(
    "two-clock",
    summary="signal and noise of the input drawn from measured pairs (a, b) at each t",
    source="SlowFlow; contains MixFlow and the states of input perturbation as lines",
)
@dataclass(frozen=True)
class TwoClock(TrainingRemedy):
    """The two-clock mixture.

    Args:
        t: [T], labels at which the clocks were measured, rising within [0, 1].
        a: [R, T], coefficients of the data. b: [R, T], coefficients of the noise. Rows are equally spaced levels of u.
        strength: factor of the deviation from the path, in [0, 1].
        target: `path` or `data`.
        floor: least sigma that the distance from the path is divided by, for the target `data`.
    """

    measured: ClassVar[str | None] = "clocks"

    t: tuple[float, ...]
    a: Curves
    b: Curves
    strength: float = 1.0
    target: str = "path"
    floor: float = 0.05

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        for what, rows in (("a", self.a), ("b", self.b)):
            checked(what, self.t, self._levels(self.a), rows)
        share_checked("strength", self.strength, "of the measured deviation")
        choice_checked("target", self.target, ("path", "data"))
        if not 0.0 < self.floor <= 1.0:
            raise InputError(f"floor is {self.floor}, expected a noise level above 0 and up to 1")

    @staticmethod
    def _levels(rows: Curves) -> tuple[float, ...]:
        return tuple(torch.linspace(0.0, 1.0, max(len(rows), 1), dtype=torch.float64).tolist())

    @cached_property
    def surfaces(self) -> tuple[Surface, Surface]:
        """a - alpha(t) and b - sigma(t) as measured."""
        path, t = interpolant(self.interpolant), torch.tensor(self.t, dtype=torch.float64)
        levels = self._levels(self.a)
        return Surface.of(self.t, levels, self.a, path.alpha(t)), Surface.of(self.t, levels, self.b, path.sigma(t))

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, t, t)."""
        t = self.labels(n, generator)
        return t, t, t

    def built(
        self, noise: Tensor, data: Tensor, times: Times, generator: torch.Generator | None, cond: Tensor | None
    ) -> Pair:
        """The pair at a drawn point of the measured pairs."""
        path, t = interpolant(self.interpolant), times[0]
        u = torch.rand(len(data), dtype=torch.float64, generator=generator)
        off = (self.strength * surface.at(t.cpu(), u).to(t.device) for surface in self.surfaces)
        a, b = (expand(part, data) for part in (path.alpha(t) + next(off), path.sigma(t) + next(off)))
        state = a * data + b * noise
        if self.target == "data":
            target = landing(path, self.prediction, noise, data, state, t, self.floor)
        else:
            target = regression_target(path, self.prediction, noise, data, t)
        return Pair(state.to(data.dtype), t.to(data.dtype), target.to(data.dtype))
