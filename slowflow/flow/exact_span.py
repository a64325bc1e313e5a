"""The exact flow of a finite set of centres, walked in the few coordinates it ever visits.

A velocity is a combination of the state and of the centres, so a trajectory that starts at x_0 stays in their span:

    x = q_0 x_0 + sum_k q_k c_k,        <x, c_j> = q_0 <x_0, c_j> + sum_k q_k <c_k, c_j>

With <x_0, c_j> and the centres' Gram matrix computed once, a step costs k products a sample in place of 2 d, and samplers,
which combine states and velocities linearly, do to q what they would do to x: the result is the same up to rounding.
Samples of one class share centres; classes lie side by side as slots, padded where they hold fewer.
Source: the field is that of exact.py; span and Gram matrix are SlowFlow's own way to walk it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow.flow.exact import FLOOR, ExactMixture
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import combine
from slowflow.flow.samplers import Sampler, walk

MOST = 2**25
"""Values the Gram matrices of a batch may have together, 256 MB."""


def trajectory(
    field: ExactMixture,
    method: Sampler,
    start: Float[Tensor, "sample *data"],
    cond: Int[Tensor, " sample"],
    grid: Float[Tensor, " times"],
    every: int = 1,
) -> Iterator[Float[Tensor, "sample *data"]]:
    """States at every so many times of the grid, the start left out.

    Args:
        field: the exact field.
        method: combines states and velocities linearly, without noise: euler or heun.
        start: states at grid[0], float64.
        cond: class of each.
        grid: increasing times.
        every: intervals between two states that are wanted.

    Raises:
        InputError: the field has no centre of a class.
    """
    span = Span.of(field, start, cond)
    if span.values > MOST or span.width > span.dimension:
        yield from (x for k, x in walk(field, method, start, cond, grid) if k and k % every == 0)
        return
    # slots are no samples: nobody can be named, and where states are finite q is
    yield from (span.state(q) for k, q in walk(span, method, span.start, span.none, grid) if k and k % every == 0)


@dataclass(frozen=True)
class Span:
    """The field on coordinates [slot, row, 1 + centre], a slot for each class of the batch.

    Args:
        field: the exact field.
        begin: [sample, *data], where q = (1, 0, ...) is.
        slots: slot of each sample. rows: its row there.
        centres: one [k, d] a slot.
    """

    field: ExactMixture
    begin: Tensor
    slots: Tensor
    rows: Tensor
    centres: tuple[Tensor, ...]
    calls: int = 1

    @classmethod
    def of(cls, field: ExactMixture, begin: Tensor, cond: Tensor) -> Span:
        """The span of a batch."""
        labels, slots = cond.unique(return_inverse=True)
        groups = [field.of_class(int(label)) for label in labels]
        order = np.argsort(slots.numpy(), kind="stable")
        counts = np.bincount(slots.numpy(), minlength=len(labels))
        rows = np.empty(len(order), dtype=np.int64)
        rows[order] = np.concatenate([np.arange(count) for count in counts])
        return cls(field, begin, slots, torch.from_numpy(rows), tuple(groups))

    @property
    def width(self) -> int:
        """Centres of the largest class."""
        return max(len(centres) for centres in self.centres)

    @property
    def values(self) -> int:
        """Numbers in all Gram matrices."""
        return len(self.centres) * self.width**2

    @property
    def dimension(self) -> int:
        """Of a state."""
        return int(self.begin[0].numel())

    @property
    def interpolant(self) -> Interpolant:
        """The path."""
        return self.field.interpolant

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one slot."""
        return tuple(self.start.shape[1:])

    @property
    def classes(self) -> int:
        """None: a slot knows its centres."""
        return 0

    @property
    def t_max(self) -> float:
        """Where sampling ends."""
        return self.field.t_max

    @cached_property
    def start(self) -> Tensor:
        """Coordinates of `begin`."""
        q = torch.zeros(len(self.centres), int(self.rows.max()) + 1, 1 + self.width, dtype=torch.float64)
        q[self.slots, self.rows, 0] = 1.0
        return q

    @cached_property
    def none(self) -> Tensor:
        """Conditions of the slots, which nobody reads."""
        return torch.zeros(len(self.centres), dtype=torch.int64)

    @cached_property
    def gram(self) -> Tensor:
        """[slot, centre, centre]."""
        found = torch.zeros(len(self.centres), self.width, self.width, dtype=torch.float64)
        for slot, centres in enumerate(self.centres):
            found[slot, : len(centres), : len(centres)] = centres @ centres.T
        return found

    @cached_property
    def of_begin(self) -> Tensor:
        """<begin, centre>, [slot, row, centre]."""
        found, flat = torch.zeros_like(self.start[..., 1:]), self.begin.flatten(1)
        for slot, centres in enumerate(self.centres):
            mine = self.slots == slot
            found[slot, self.rows[mine], : len(centres)] = flat[mine] @ centres.T
        return found

    @cached_property
    def absent(self) -> Tensor:
        """[slot, 1, centre], minus infinity where a slot has no such centre."""
        found = torch.zeros(len(self.centres), 1, self.width, dtype=torch.float64)
        for slot, centres in enumerate(self.centres):
            found[slot, :, len(centres) :] = -torch.inf
        return found

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(E[data | state], E[noise | state]) in coordinates, as `ExactMixture.predict` has them."""
        path, spread = self.interpolant, self.field.width**2
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = (alpha**2 * spread + sigma**2).clamp_min(FLOOR)
        along = state[..., :1] * self.of_begin + torch.bmm(state[..., 1:], self.gram)
        length = self.gram.diagonal(dim1=1, dim2=2).unsqueeze(1)
        shares = torch.softmax((alpha * along - 0.5 * alpha**2 * length) / variance + self.absent, dim=2)
        centre = torch.cat([torch.zeros_like(state[..., :1]), shares], dim=2)
        rest = (state - alpha * centre) / variance
        return centre + alpha * spread * rest, sigma * rest

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """alpha' E[data | state] + sigma' E[noise | state]."""
        data, noise = self.predict(state, t, cond)
        return combine(self.interpolant, data, noise, t)

    def state(self, q: Tensor) -> Tensor:
        """The states that coordinates stand for, in the order of the samples."""
        own = q[self.slots, self.rows]
        x = own[:, :1] * self.begin.flatten(1)
        for slot, centres in enumerate(self.centres):
            mine = self.slots == slot
            x[mine] += own[mine, 1 : 1 + len(centres)] @ centres
        return x.view_as(self.begin)
