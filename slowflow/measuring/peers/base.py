"""The interface of a measure that is not a slowed timestep of single states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import Predictor
from slowflow.measuring.references.base import Start, Trajectories
from slowflow.registry import Registry


@runtime_checkable
class Measure(Protocol):
    """Looks at batches of trajectories, and makes one table of a whole measurement."""

    @property
    def start(self) -> Start:
        """Which trajectories it looks at."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds it looks at, of those that are measured."""
        ...

    def observe(self, batch: Trajectories, model: Predictor) -> dict[str, np.ndarray]:
        """Arrays that are saved with the shard; those of all shards of a kind are joined along their first axis.

        Args:
            batch: trajectories of one kind.
            model: the network under test (guided when sampling is), whatever the kind of the batch.
        """
        ...

    def table(self, stored: Mapping[str, Mapping[str, np.ndarray]], path: Interpolant, seed: int) -> pd.DataFrame:
        """One row a time, estimates with `_low` and `_high` beside them.

        Args:
            stored: kind -> name -> joined array.
            path: the interpolant.
            seed: of the bootstrap.
        """
        ...


MEASURES: Registry[Measure] = Registry("measure", "slowflow.measuring.peers")
