"""The bank: real data a state may be compared with, one shard a class.

It holds data, not interpolations: N rows, whatever the number of times. What is computed from all of them is computed a
few classes at a time, so that a bank of a million latents needs little memory beyond the latents themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
KEPT = 2**30
"""Bytes of float64 rows that are kept for the next time; ImageNet's latents are forty times as many."""
AT_ONCE = 8192
"""Rows that are enough for a matrix product to be worth its while."""


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


class ClassRows(Mapping[int, np.ndarray]):
    """Images by class in float64, made when they are asked for: the float32 images stay the only whole copy.

    Args:
        images: ground truth.
        labels: class of each image.
    """

    def __init__(self, images: ImageSet, labels: np.ndarray) -> None:
        self._images = images
        self._rows = {int(c): torch.from_numpy(np.flatnonzero(labels == c)) for c in np.unique(labels)}
        self._made: dict[int, np.ndarray] = {}
        self._bytes = 0

    def __getitem__(self, label: int) -> np.ndarray:
        if label not in self._made:
            rows = self._images.data[self._rows[label]].flatten(1).to(torch.float64).numpy()
            while self._made and self._bytes + rows.nbytes > KEPT:
                self._bytes -= self._made.pop(next(iter(self._made))).nbytes
            self._made[label] = rows
            self._bytes += rows.nbytes
        return self._made[label]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def counts(self) -> dict[int, int]:
        """Rows of each class, without making them."""
        return {label: len(rows) for label, rows in self._rows.items()}


@dataclass
class _Moments:
    """Mean and summed products about it, of rows that come in pieces (Chan, Golub and LeVeque 1983).

    Args:
        whole: keep all products (a matrix), not only the squares.
    """

    whole: bool
    count: int = 0
    mean: np.ndarray | float = 0.0
    products: np.ndarray | float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Take in more rows [n, d]."""
        mean = rows.mean(axis=0)
        centred = rows - mean
        products = centred.T @ centred if self.whole else np.square(centred).sum(axis=0)
        if not self.count:
            self.count, self.mean, self.products = len(rows), mean, products
            return
        total, step = self.count + len(rows), mean - self.mean
        between = np.outer(step, step) if self.whole else np.square(step)
        self.products = self.products + products + between * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total


@dataclass(frozen=True)
class Bank:
    """Real data by class.

    Args:
        shards: class -> float64 array [rows, d], C-contiguous.
        name: of the data, for records.
        fingerprint: SHA-256 of the data it was built from.
    """

    shards: Mapping[int, np.ndarray]
    name: str
    fingerprint: str

    @classmethod
    def of(cls, images: ImageSet, conditional: bool) -> Bank:
        """Build from ground truth; one shard for everything when the model is unconditional."""
        labels = images.labels.numpy() if conditional else np.zeros(len(images), dtype=np.int64)
        return cls(ClassRows(images, labels), images.name, images.fingerprint)

    def shard(self, label: int) -> np.ndarray:
        """Rows of one class.

        Raises:
            DataError: the bank holds nothing of that class.
        """
        if label not in self.shards:
            raise DataError(f"the bank '{self.name}' holds no image of class {label}; it knows {sorted(self.shards)}")
        return self.shards[label]

    @cached_property
    def counts(self) -> dict[int, int]:
        """Rows of each class."""
        made = self.shards
        return made.counts() if isinstance(made, ClassRows) else {label: len(rows) for label, rows in made.items()}

    @property
    def largest(self) -> int:
        """Rows of the largest class."""
        return max(self.counts.values())

    def __len__(self) -> int:
        return sum(self.counts.values())

    @cached_property
    def spectrum(self) -> Spectrum:
        """Principal axes of all rows together, a few classes in memory at a time.

        Raises:
            DataError: more than LARGEST dimensions.
        """
        size = self.shards[min(self.counts)].shape[1]
        if size > LARGEST:
            raise DataError(f"data of {size} dimensions are too large for principal axes (at most {LARGEST})")
        for_axes, for_variance, for_mean = _Moments(whole=True), _Moments(whole=False), _Moments(whole=False)
        for first, second in self._halves():
            for_axes.add(first)
            for_mean.add(np.concatenate([first, second]))
        order, axes = np.linalg.eigh(for_axes.products / max(for_axes.count - 1, 1))
        order = np.maximum(order, FLOOR * max(order.mean(), 1e-12))
        edges = np.geomspace(order.min(), order.max() * (1 + 1e-9), GROUPS + 1)
        group = np.clip(np.searchsorted(edges, order, side="right") - 1, 0, GROUPS - 1)
        first_of_group = np.flatnonzero(np.diff(group, prepend=-1))
        count = np.diff(first_of_group, append=size)
        for _, second in self._halves():
            for_variance.add(second @ axes)
        spread = for_variance.products / (for_variance.count - 1)
        variance = np.add.reduceat(spread, first_of_group) / count
        floored = np.maximum(variance, FLOOR * max(variance @ count / size, 1e-12))
        return Spectrum(axes, for_mean.mean @ axes, first_of_group, floored, count.astype(np.float64))

    def _halves(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every other row of each class, and the rest, some classes at a time; all rows twice where a half would hold
        fewer than two."""
        few = min(sum((n + 1 - k) // 2 for n in self.counts.values()) for k in (0, 1)) < 2
        halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for label in sorted(self.shards):
            rows = self.shards[label]
            for k, half in enumerate(halves):
                half.append(rows if few else rows[k::2])
            if sum(map(len, halves[0])) >= AT_ONCE:
                yield np.concatenate(halves[0]), np.concatenate(halves[1])
                halves = ([], [])
        if halves[0]:
            yield np.concatenate(halves[0]), np.concatenate(halves[1])

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
