"""The bank: real data a state may be compared with, one shard a class.

It holds data, not interpolations: N rows, whatever the number of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.errors import DataError

GROUPS = 48
FLOOR = 1e-3
"""Least variance of an axis, as a share of the mean one: an axis that is constant in the data is not divided by zero."""
LARGEST = 8192
"""Dimension up to which principal axes are computed."""


@dataclass(frozen=True)
class Spectrum:
    """Principal axes of the data, ordered and grouped by variance.

    Axes and groups come from one half of the rows, variances from the other. Along axes that were fitted to it, data look
    stretched (weak axes too weak, strong ones too strong); along axes that were fitted to other data they do not, and
    nothing here needs the axes to be the best ones.

    Args:
        axes: [d, d], columns. mean: [d], of the data along each axis. first_of_group: [g], first axis of each group.
        group_variance: [g], mean variance in a group. group_size: [g], axes in it.
    """

    axes: np.ndarray
    mean: np.ndarray
    first_of_group: np.ndarray
    group_variance: np.ndarray
    group_size: np.ndarray


@dataclass(frozen=True)
class WithinClass:
    """What is left of the data along the principal axes when the mean of each class is taken out.

    Args:
        means: class -> [d], mean of the class along each axis. variance: [d], pooled variance about them, the mean of its
            group at every axis; not floored.
    """

    means: dict[int, np.ndarray]
    variance: np.ndarray


@dataclass(frozen=True)
class Bank:
    """Real data by class.

    Args:
        shards: class -> float64 array [rows, d], C-contiguous.
        name: of the data, for records.
        fingerprint: SHA-256 of the data it was built from.
    """

    shards: dict[int, np.ndarray]
    name: str
    fingerprint: str

    @classmethod
    def of(cls, images: ImageSet, conditional: bool) -> Bank:
        """Build from ground truth; one shard for everything when the model is unconditional."""
        flat = images.data.flatten(1).to(torch.float64).numpy()
        labels = images.labels.numpy() if conditional else np.zeros(len(images), dtype=np.int64)
        shards = {int(c): np.ascontiguousarray(flat[labels == c]) for c in np.unique(labels)}
        return cls(shards, images.name, images.fingerprint)

    def shard(self, label: int) -> np.ndarray:
        """Rows of one class.

        Raises:
            DataError: the bank holds nothing of that class.
        """
        if label not in self.shards:
            raise DataError(f"the bank '{self.name}' holds no image of class {label}; it knows {sorted(self.shards)}")
        return self.shards[label]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.shards.values())

    @cached_property
    def spectrum(self) -> Spectrum:
        """Principal axes of all rows together.

        Raises:
            DataError: more than LARGEST dimensions.
        """
        for_axes, for_variance = self._halves()
        size = for_axes.shape[1]
        if size > LARGEST:
            raise DataError(f"data of {size} dimensions are too large for principal axes (at most {LARGEST})")
        centred = for_axes - for_axes.mean(axis=0)
        order, axes = np.linalg.eigh(centred.T @ centred / max(len(centred) - 1, 1))
        order = np.maximum(order, FLOOR * max(order.mean(), 1e-12))
        edges = np.geomspace(order.min(), order.max() * (1 + 1e-9), GROUPS + 1)
        group = np.clip(np.searchsorted(edges, order, side="right") - 1, 0, GROUPS - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        count = np.diff(first, append=size)
        variance = np.add.reduceat((for_variance @ axes).var(axis=0, ddof=1), first) / count
        mean = np.concatenate([for_axes, for_variance]).mean(axis=0) @ axes
        floored = np.maximum(variance, FLOOR * max(variance @ count / size, 1e-12))
        return Spectrum(axes, mean, first, floored, count.astype(np.float64))

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Every other row of each class, and the rest; all rows twice where a half would hold fewer than two."""
        rows = [self.shards[label] for label in sorted(self.shards)]
        halves = tuple(np.concatenate([one[k::2] for one in rows]) for k in (0, 1))
        if min(map(len, halves)) < 2:
            return np.concatenate(rows), np.concatenate(rows)
        return halves[0], halves[1]

    @cached_property
    def within(self) -> WithinClass:
        """Means of the classes and the pooled variance about them, along the principal axes."""
        spectrum = self.spectrum
        means, total, freedom = {}, np.zeros(len(spectrum.axes)), 0
        for label, rows in self.shards.items():
            along = rows @ spectrum.axes
            means[label] = along.mean(axis=0)
            # the half that did not fit the axes; a class of one image has no spread to tell
            other = along[1::2] if len(along) >= 4 else along
            total += np.square(other - other.mean(axis=0)).sum(axis=0)
            freedom += len(other) - 1
        pooled = np.add.reduceat(total / max(freedom, 1), spectrum.first_of_group) / spectrum.group_size
        return WithinClass(means, np.repeat(pooled, spectrum.group_size.astype(int)))
