"""Worlds in which the truth is known: data like the user's own, with the exact field that belongs to them.

    gaussian   one Gaussian a class with the user's class means and spectrum; every linear effect has a closed form
    mixture    several a class: the coarse lumps of the user's data too
    finite     the user's held-out images themselves

A world has the user's dimension, classes, path and t_max, and as many images in the bank and held out, class by class.
In the first two these are drawn from the field; in the third the bank is the user's own. The network is never asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow import rng
from slowflow.data.bank import Bank
from slowflow.data.fields import gaussian_like, mixture_like
from slowflow.data.images import ImageSet
from slowflow.flow.exact import ExactMixture
from slowflow.flow.exact_span import trajectory
from slowflow.flow.grids import uniform_grid
from slowflow.flow.model import FlowModel, Predictor, conditions
from slowflow.flow.samplers import walk
from slowflow.flow.samplers.heun import Heun
from slowflow.flow.spectral import SpectralMixture, draw
from slowflow.measuring.trajectories import FINE, Source
from slowflow.records import Probe

WORLDS = ("gaussian", "mixture", "finite")


@dataclass(frozen=True)
class World:
    """Ground truth with its exact field.

    Args:
        name: one of WORLDS. field: a perfect model. source: makes genuine states and knows sample ids and settings.
        bank: what references compare with.
    """

    name: str
    field: Predictor
    source: Source
    bank: Bank

    @property
    def times(self) -> int:
        """Number of times at which states are measured."""
        return self.source.probe.grids[0]

    @property
    def t(self) -> np.ndarray:
        """Those times, equally spaced up to t_max."""
        return uniform_grid(self.times, end=self.source.model.t_max)[1:].numpy()


def worlds(model: FlowModel, data: ImageSet, heldout: float, probe: Probe) -> Iterator[World]:
    """The worlds, one after the other.

    Args:
        model: gives shape, path, classes and t_max.
        data: the user's images. heldout: share of each class that is held out.
        probe: samples, seed, references; the first step count is the number of measured times.

    Raises:
        DataError: too many dimensions for principal axes, constant data, a class without data.
    """
    seen, held = data.split(heldout)
    path, t_max = model.interpolant, model.t_max
    fields = {
        "gaussian": lambda: gaussian_like(data, model.classes, path, t_max),
        "mixture": lambda: mixture_like(data, model.classes, path, t_max, seed=probe.seed),
    }
    for name, fitted in fields.items():
        field = fitted()
        rows, others = (_redrawn(field, model, part, probe.seed, name) for part in (seen, held))
        yield World(name, field, Source(model, others, rows, probe), Bank.of(rows, conditional=model.classes > 0))
    source = Source(model, held, seen, probe)
    yield World("finite", source.perfect(), source, Bank.of(seen, conditional=model.classes > 0))


def _redrawn(field: SpectralMixture, model: FlowModel, part: ImageSet, seed: int, world: str) -> ImageSet:
    """Items of the field, one for each item of a part of the data and of its class."""
    labels = conditions(model, part.labels)
    data = draw(field, labels, rng.generator(seed, f"{world}/{part.name}")).to(torch.float32)
    return ImageSet(f"{part.name} as {world}", data, labels, model.classes, pixels=False)


def solved(
    field: Predictor, noise: Float[Tensor, "sample *data"], labels: Int[Tensor, " sample"], times: int
) -> Float[Tensor, "sample time *data"]:
    """States of a field at `times` equally spaced times up to t_max: Heun on at least FINE intervals.

    The last step is Euler's, since the field of single images is infinite at t = 1.
    """
    every = -(-FINE // times)
    grid = uniform_grid(every * times, end=field.t_max)
    if isinstance(field, ExactMixture):
        return torch.stack(list(trajectory(field, Heun(last_euler=True), noise, labels, grid, every)), dim=1)
    steps = walk(field, Heun(last_euler=True), noise, labels, grid)
    return torch.stack([state for k, state in steps if k and k % every == 0], dim=1)
