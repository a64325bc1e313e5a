"""Samples of an evaluation on their way: parts of a few hundred sample ids, which ranks share and a stopped run keeps."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from slowflow.flow.course import Correction
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint, ranks

SIZE = 256
"""Samples a part."""


@runtime_checkable
class How(Protocol):
    """How samples are made."""

    @property
    def samples(self) -> int:
        """How many."""
        ...

    @property
    def sampler(self) -> str:
        """Registered name."""
        ...

    @property
    def guidance(self) -> float:
        """Scale; 1 = none."""
        ...

    @property
    def seed(self) -> int:
        """Of the noise."""
        ...

    @property
    def shift(self) -> float:
        """Further warp of the grid."""
        ...


@dataclass(frozen=True)
class Parts:
    """The samples of several step counts, in parts.

    Args:
        folder: of the run; parts lie in a folder of their own inside it.
        model: makes them.
        how: and how.
        steps: step counts whose samples are needed.
        remedy: what corrects sampling.
    """

    folder: Path
    model: FlowModel
    how: How
    steps: Sequence[int]
    remedy: Correction | None = None

    def _names(self, steps: int) -> list[str]:
        return [f"parts/{steps:05d}-{first:08d}.safetensors" for first in range(0, self.how.samples, SIZE)]

    def make(self, report: Callable[[int, int], None]) -> None:
        """Make this process's share, then wait for the others'.

        Args:
            report: called with (steps, samples of that step count done).
        """
        here = ranks.current()
        names = [name for steps in self.steps for name in self._names(steps)]
        share = here.share(self.folder, names)
        for steps in self.steps:
            for k, name in enumerate(self._names(steps)):
                ids = np.arange(k * SIZE, min((k + 1) * SIZE, self.how.samples))
                if name in share:
                    here.check()
                    checkpoint.save(self.folder / name, {"states": self._states(ids, steps)}, {})
                report(steps, int(ids[-1]) + 1)
        here.gathered(self.folder, names)

    def _states(self, ids: np.ndarray, steps: int) -> Tensor:
        how = self.how
        return final_states(
            self.model,
            ids,
            steps=steps,
            method=how.sampler,
            guidance=how.guidance,
            seed=how.seed,
            shift=how.shift,
            remedy=self.remedy,
        )

    def states(self, steps: int) -> Tensor:
        """All samples of one step count, once every part is there."""
        return torch.cat([checkpoint.load(self.folder / name).tensors["states"] for name in self._names(steps)])

    @property
    def bytes(self) -> int:
        """Bytes that all samples take until they are cleared."""
        return len(self.steps) * self.how.samples * 4 * math.prod(self.model.shape)


def clear(folder: Path) -> None:
    """Features of every sample are whole; parts of samples and of features need not be kept."""
    shutil.rmtree(folder / "parts", ignore_errors=True)
