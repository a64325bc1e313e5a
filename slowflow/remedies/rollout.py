"""Rollouts: training on states that the model made itself.

A model step is DDIM's on every path and Euler's on the linear one; it has no gradient:

    state(s) = alpha(s) data_hat + sigma(s) noise_hat,     (data_hat, noise_hat) = predict(state(t), t)

A state x that was rolled out lies off the path of its pair (noise, data). Two targets are possible there:

    path   that of the pair at t, as if x lay on it: data - noise on the linear path
    data   the one that leads from x to the datum: noise is replaced by (x - alpha(t) data) / sigma(t), which on the
           linear path gives (data - x) / (1 - t). sigma is held at its value one step before the end, where a sampler
           of that many steps asks last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.flow.grids import unwarp, warp
from slowflow.flow.interpolants import Interpolant, expand, interpolant
from slowflow.flow.prediction import regression_target
from slowflow.flow.predictor import Predictor
from slowflow.remedies.base import Pair, Times, Trained, TrainingRemedy, share_checked


@dataclass(frozen=True, kw_only=True)
class Rollout(TrainingRemedy):
    """The interface of a remedy that trains on the model's own states.

    Args:
        share: of the rows of a batch that are rolled out, in [0, 1]; the others are plain. Drawn anew each step, always
            as many, so that arms can be compared at equal network calls.
        steps: intervals of the sampler that is imitated; one model step covers 1 / steps of unwarped time.
    """

    share: float = 1.0
    steps: int = field(default=20)

    def __post_init__(self) -> None:
        TrainingRemedy.__post_init__(self)
        share_checked("share", self.share, "of the rows")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1 interval of the sampler that is imitated")

    @abstractmethod
    def own_states(
        self, noise: Tensor, data: Tensor, t: Tensor, cond: Tensor, generator: torch.Generator | None
    ) -> Pair:
        """The pair of rows that are rolled out; t [n] float64 are their plain labels."""

    def rows(self, n: int) -> int:
        """How many of n rows are rolled out."""
        return int(self.share * n + 0.5)

    def times(self, n: int, generator: torch.Generator | None) -> Times:
        """(t, t, t): those of the plain pair."""
        t = self.labels(n, generator)
        return t, t, t

    def built(
        self, noise: Tensor, data: Tensor, times: Times, generator: torch.Generator | None, cond: Tensor | None
    ) -> Pair:
        """The plain pair, with the share that is rolled out put in."""
        plain, count = super().built(noise, data, times, generator, cond), self.rows(len(data))
        if not count:
            return plain
        model = self.trained()
        if cond is None:
            if model.classes:
                raise InputError("the model knows classes: a rollout needs `cond`, what it is told of each row")
            cond = torch.zeros(len(data), dtype=torch.int64, device=data.device)
        rows = torch.randperm(len(data), generator=generator)[:count].to(data.device)
        with as_sampled(model.net):
            own = self.own_states(noise[rows], data[rows], times[0][rows], cond.to(data.device)[rows], generator)
        return Pair(*(whole.index_copy(0, rows, part.to(whole)) for whole, part in zip(plain, own, strict=True)))

    def trained(self) -> Trained:
        """The model.

        Raises:
            InputError: none was bound.
        """
        if self.model is None:
            raise InputError(
                f"{type(self).__name__} rolls the model out and has none; say remedy = remedy.bound(model) first"
            )
        return self.model

    def after(self, t: Tensor, count: float) -> Tensor:
        """The time `count` model steps after t (before it when negative), within the times of training."""
        start = unwarp(t, self.shift)
        low, high = start.clamp(max=self.support[0]), start.clamp(min=self.support[1])
        moved = torch.minimum(torch.maximum(start + count / self.steps, low), high)
        return self.rounded(warp(moved, self.shift))

    def last(self, t: Tensor) -> Tensor:
        """The last time of training, for labels t."""
        return torch.maximum(t, warp(t.new_tensor(self.support[1]), self.shift))

    def least_sigma(self, path: Interpolant) -> float:
        """sigma one model step before the end."""
        return float(path.sigma(warp(torch.tensor(1.0 - 1.0 / self.steps, dtype=torch.float64), self.shift)))

    def landing(self, noise: Tensor, data: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """The target `data` at these states, see `landing`."""
        path = interpolant(self.interpolant)
        return landing(path, self.prediction, noise, data, state, t, self.least_sigma(path))


@contextmanager
def as_sampled(net: nn.Module) -> Iterator[None]:
    """Inside, the network has no gradient and is in the mode it is sampled in."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():  # one by one: a part may be frozen in the mode it is sampled in
            module.training = training


def rolled(model: Predictor, state: Tensor, nodes: Tensor, cond: Tensor) -> Tensor:
    """The states at the last of the nodes [k + 1, n], from those at the first, in k model steps."""
    for t, s in pairwise(nodes):
        data, noise = model.predict(state, t, cond)
        state = model.interpolant.state(noise, data, s)
    return state


def landing(
    path: Interpolant, prediction: str, noise: Tensor, data: Tensor, state: Tensor, t: Tensor, floor: float
) -> Tensor:
    """What a network should return at `state`, off the path of (noise, data), to be led to the datum.

    Args:
        path: the interpolant.
        prediction: what the network returns.
        noise, data: the pair, [n, *data].
        state: [n, *data].
        t: [n], the label.
        floor: least sigma that the distance from the path is divided by.
    """
    away = state - path.state(noise, data, t)
    implied = noise + away / expand(path.sigma(t).clamp_min(floor), away)
    return regression_target(path, prediction, implied, data, t)
