"""The interface of a reference: from trajectories to slowed timesteps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from slowflow.data.bank import Bank
from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.slack import Clock
from slowflow.registry import Registry

KEPT = 2**28
"""Bytes of rotated states that are kept, 256 MB."""
Start = Literal["noise", "late", "inverted"]
"""Where trajectories begin. noise: at fresh noise, t = 0. late: at a real interpolation, t = 0.05 or the next time of the
grid. inverted: at the noise that the model's own ODE, run backwards, finds for a real image."""


@dataclass(frozen=True)
class Trajectories:
    """States of a batch on a grid of times, of a model or genuine.

    Args:
        states: [sample, time, d] float64, at the times of `grid`.
        noise: [sample, d], the noise each one started from (for genuine states: the noise in them).
        endpoint: [sample, d], the state at the end (for genuine states: the datum in them).
        labels: [sample], class of each.
        grid: [time], the times that are measured; t = 0 is left out, where every reference agrees.
        path: the interpolant.
        ids: [sample], sample ids; what a reference draws is keyed by them.
        seed: of those draws.
        kind: model, genuine, exact, coarse, seen, ...
        datum: [sample, d], the real image a trajectory belongs to; None for trajectories from pure noise.
    """

    states: Float[np.ndarray, "sample time d"]
    noise: Float[np.ndarray, "sample d"]
    endpoint: Float[np.ndarray, "sample d"]
    labels: np.ndarray
    grid: np.ndarray
    path: Interpolant
    ids: np.ndarray
    seed: int = 0
    kind: str = "model"
    datum: Float[np.ndarray, "sample d"] | None = None
    _rotated: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def along(self, axes: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "sample time d"]:
        """The states' coordinates along these axes; kept for the next reference that asks, unless they are many."""
        if id(axes) not in self._rotated:
            n, times, d = self.states.shape
            found = (self.states.reshape(n * times, d) @ axes).reshape(n, times, d)
            if found.nbytes > KEPT:
                return found
            self._rotated[id(axes)] = (axes, found)  # the axes too: an id may be given out again
        return self._rotated[id(axes)][1]

    def head(self, count: int) -> Trajectories:
        """The first `count` samples."""
        names = ("states", "noise", "endpoint", "labels", "ids")
        datum = None if self.datum is None else self.datum[:count]
        return replace(self, datum=datum, **{name: getattr(self, name)[:count] for name in names})


@dataclass(frozen=True)
class Assigned:
    """What a reference says of every state; all arrays [sample, time].

    m: slowed timestep. residual: distance left, as a share of the state's norm. boundary: m at or beyond an end of
    [0, 1]. index: row of the bank, -1 where there is none. certified: share of proved FAISS shortlists.
    more: further arrays [sample, ...] that are saved beside them.
    """

    m: np.ndarray
    residual: np.ndarray
    boundary: np.ndarray
    index: np.ndarray
    certified: float = 1.0
    more: Mapping[str, np.ndarray] = field(default_factory=dict)


@runtime_checkable
class Reference(Protocol):
    """Assigns a slowed timestep to every state. What needs the starting noise is refused under a stochastic sampler."""

    @property
    def start(self) -> Start:
        """Which trajectories it looks at."""
        ...

    @property
    def shares_noise(self) -> bool:
        """True when the starting noise enters."""
        ...

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """The slowed timesteps of one batch."""
        ...


@runtime_checkable
class ClockReference(Protocol):
    """Reads clocks: means over trajectories have a time, single states have none."""

    @property
    def start(self) -> Start:
        """Which trajectories it looks at."""
        ...

    @property
    def shares_noise(self) -> bool:
        """True when the starting noise enters."""
        ...

    def observe(self, batch: Trajectories, bank: Bank) -> dict[str, np.ndarray]:
        """Arrays [sample, time] that are saved, by name."""
        ...

    def clocks(self, stored: Mapping[str, np.ndarray], t: np.ndarray, path: Interpolant) -> dict[str, Clock]:
        """The clocks, by name, from what was saved."""
        ...


REFERENCES: Registry[Reference | ClockReference] = Registry("reference", "slowflow.measuring.references")


def repeat(rows: np.ndarray, times: int) -> np.ndarray:
    """[sample, d] -> [sample * time, d], each row `times` times."""
    return np.repeat(rows, times, axis=0)
