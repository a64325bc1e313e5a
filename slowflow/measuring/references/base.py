"""The interface of a reference: from trajectories to slowed timesteps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from slowflow.data.bank import Bank
from slowflow.flow.interpolants import Interpolant
from slowflow.registry import Registry


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
    """

    states: Float[np.ndarray, "sample time d"]
    noise: Float[np.ndarray, "sample d"]
    endpoint: Float[np.ndarray, "sample d"]
    labels: np.ndarray
    grid: np.ndarray
    path: Interpolant


@dataclass(frozen=True)
class Assigned:
    """What a reference says of every state; all arrays [sample, time].

    m: slowed timestep. residual: distance left, as a share of the state's norm. boundary: m at or beyond an end of
    [0, 1]. index: row of the bank, -1 where there is none. certified: share of proved FAISS shortlists.
    """

    m: np.ndarray
    residual: np.ndarray
    boundary: np.ndarray
    index: np.ndarray
    certified: float = 1.0


class Reference(Protocol):
    """Assigns a slowed timestep to every state."""

    def assign(self, batch: Trajectories, bank: Bank | None, backend: str) -> Assigned:
        """The slowed timesteps of one batch."""
        ...


REFERENCES: Registry[Reference] = Registry("reference", "slowflow.measuring.references")


def repeat(rows: np.ndarray, times: int) -> np.ndarray:
    """[sample, d] -> [sample * time, d], each row `times` times."""
    return np.repeat(rows, times, axis=0)
