"""The batch of a step: rows, noise and dropped labels keyed by (seed, purpose, step), and what the remedy makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.flow.model import FlowModel, conditions
from slowflow.remedies.base import TrainingRemedy
from slowflow.train.settings import TrainConfig


@functools.lru_cache(maxsize=2)
def _order(seed: int, n: int, epoch: int) -> np.ndarray:
    """The order of an epoch; kept, because shuffling a million images takes as long as a small step."""
    return rng.permutation(seed, "epoch", n, epoch)


def batch_rows(seed: int, step: int, batch_size: int, n: int) -> Tensor:
    """Rows of step `step`: the data in a new random order every epoch, without gaps or repeats inside one."""
    first = step * batch_size
    orders = {e: _order(seed, n, e) for e in range(first // n, (first + batch_size - 1) // n + 1)}
    return torch.tensor([int(orders[p // n][p % n]) for p in range(first, first + batch_size)])


class Batch(NamedTuple):
    """What the network sees in one step: states, time labels, targets, conditions, and features where the data have some."""

    state: Tensor
    t: Tensor
    target: Tensor
    cond: Tensor
    features: Tensor | None = None

    def at(self, rows: slice) -> Batch:
        """Some of its rows."""
        features = None if self.features is None else self.features[rows]
        return Batch(self.state[rows], self.t[rows], self.target[rows], self.cond[rows], features)


class Drawn(NamedTuple):
    """What one step takes from the data and from the noise, on the CPU."""

    clean: Tensor
    noise: Tensor
    cond: Tensor
    features: Tensor | None = None

    def pinned(self) -> Drawn:
        """In memory that a GPU copies from by itself."""
        features = None if self.features is None else self.features.pin_memory()
        return Drawn(self.clean.pin_memory(), self.noise.pin_memory(), self.cond.pin_memory(), features)


def drawn(model: FlowModel, data: ImageSet, config: TrainConfig, step: int) -> Drawn:
    """Images, noise and dropped labels of step `step`; the network is not asked."""
    rows = batch_rows(config.seed, step, config.batch_size, len(data))
    clean = data.data[rows]
    noise = torch.randn(clean.shape, generator=rng.torch_generator(config.seed, "noise", step)).to(clean)
    cond = conditions(model, data.labels[rows])
    if model.null is not None:
        dropped = (
            torch.rand(len(rows), generator=rng.torch_generator(config.seed, "dropout", step)) < config.label_dropout
        )
        cond = torch.where(dropped, model.null, cond)
    known = data.features is not None and model.training.second_loss is not None
    return Drawn(clean, noise, cond, data.features[rows].to(clean) if known and data.features is not None else None)


def step_batch(
    model: FlowModel,
    remedy: TrainingRemedy,
    data: ImageSet,
    config: TrainConfig,
    step: int,
    made: Callable[[int], Drawn] | None = None,
) -> Batch:
    """Everything step `step` draws, and the remedy's state, label and target; `made` has drawn it already."""
    clean, noise, cond, features = made(step) if made else drawn(model, data, config, step)
    clean, noise = (x.to(model.device, non_blocking=True) for x in (clean, noise))
    state, t, target = remedy.pair(noise, clean, rng.torch_generator(config.seed, "times", step), cond)
    if features is not None:
        features = features.to(model.device, non_blocking=True)
    return Batch(state, t, target, cond.to(model.device, non_blocking=True), features)
