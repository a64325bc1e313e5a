"""Measured laws as settings: curves over t at several levels, read off at any (t, u).

    value(t, u) = nominal(t) + strength * d(t, u)

d is the measured value minus the nominal one, interpolated linearly in the level u and in t; it is 0 at t = 0,
where a state is noise whatever the model does, and keeps its last value beyond the last measured time.
strength = 0 is the nominal value bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from slowflow.errors import InputError

Curves = tuple[tuple[float, ...], ...]
"""Rows of values, one a level, each at all the measured times."""


@dataclass(frozen=True)
class Surface:
    """Deviations from the nominal value.

    Args:
        times: [T], strictly increasing, in (0, 1]; levels: [R], strictly increasing, in [0, 1].
        deviations: [R, T].
    """

    times: Tensor
    levels: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, times: Sequence[float], levels: Sequence[float], values: Curves, nominal: Tensor) -> Surface:
        """From measured values and the nominal ones [T]; a time 0 without deviation is put in front."""
        t, u = (torch.tensor(part, dtype=torch.float64) for part in (times, levels))
        deviations = torch.tensor(values, dtype=torch.float64) - nominal
        if float(t[0]) > 0.0:
            t, deviations = torch.cat([t.new_zeros(1), t]), torch.nn.functional.pad(deviations, (1, 0))
        return cls(t, u, deviations)

    def at(self, t: Tensor, u: Tensor) -> Tensor:
        """The deviation at times t and levels u, each [n] float64 on the CPU."""
        j, right = _place(self.times, t)
        i, up = _place(self.levels, u)
        low, high = (
            (1 - right) * self.deviations[row, j] + right * self.deviations[row, j + 1] for row in _two(i, self)
        )
        return (1 - up) * low + up * high


def _two(i: Tensor, surface: Surface) -> tuple[Tensor, Tensor]:
    return i, (i + 1).clamp(max=len(surface.levels) - 1)


def _place(knots: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(interval, share of it) of x among the knots; beyond an end its last interval, share 0 or 1."""
    if len(knots) == 1:
        return torch.zeros(x.shape, dtype=torch.int64), torch.zeros_like(x)
    i = (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    return i, ((x - knots[i]) / (knots[i + 1] - knots[i])).clamp(0.0, 1.0)


def checked(what: str, times: Sequence[float], levels: Sequence[float], values: Curves) -> None:
    """Refuse arrays that are no curves over t.

    Raises:
        InputError: times or levels that do not rise within [0, 1], rows of another length, or values that are not finite.
    """
    for name, knots in (("t", times), ("u", levels)):
        rises = all(low < high for low, high in pairwise(knots))
        if not knots or not rises or not 0.0 <= knots[0] <= knots[-1] <= 1.0:
            raise InputError(f"{name} holds {len(knots)} values, expected at least one, rising within [0, 1]")
    if len(times) == 1 and times[0] == 0.0:
        raise InputError("t holds 0 alone, where every state is noise; expected measured times above 0")
    if len(values) != len(levels) or any(len(row) != len(times) for row in values):
        sizes = sorted({len(row) for row in values})
        raise InputError(
            f"{what} has {len(values)} rows of {sizes} values, expected {len(levels)} rows of {len(times)}, one a level"
        )
    if not bool(torch.isfinite(torch.tensor(values, dtype=torch.float64)).all()):
        raise InputError(f"{what} holds NaN or infinite values")
