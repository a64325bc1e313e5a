"""ImageSet: the one form in which ground truth travels, whatever it was read from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow import rng
from slowflow.data.mapped import MappedRows, rows_of, tiles
from slowflow.errors import DataError, InputError


@dataclass(frozen=True)
class ImageSet:
    """Images or latents with labels.

    Args:
        name: what the set is called in records.
        data: float32 [n, C, H, W], plain or still in files (mapped.py); pixels are in [-1, 1], latents in the model's own scale.
        labels: int64 [n]; zeros when the source has none.
        classes: number of classes, 0 when the source has no labels.
        pixels: True when `data` are images in [-1, 1] that can be drawn as they are.
        features: what a vision model says of each item, [n, tokens, d], for families that train on it (REPA).
    """

    name: str
    data: Float[Tensor, "n *shape"]
    labels: Int[Tensor, " labels"]
    classes: int
    pixels: bool = True
    features: Float[Tensor, "n tokens d"] | None = None

    def __post_init__(self) -> None:
        if len(self.data) == 0:
            raise DataError(f"the data set '{self.name}' is empty")
        if self.labels.ndim != 1 or len(self.data) != len(self.labels):
            raise DataError(f"'{self.name}' has {len(self.data)} items but {len(self.labels)} labels")
        self._must_be_finite()
        if self.features is not None and not bool(torch.isfinite(self.features).all()):
            raise DataError(f"the features of '{self.name}' hold NaN or infinity")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= max(self.classes, 1):
            raise DataError(
                f"labels of '{self.name}' run from {low} to {high}, expected 0 to {max(self.classes, 1) - 1}"
            )

    def _must_be_finite(self) -> None:
        if isinstance(self.data, MappedRows):
            return  # looked at when their file was opened; every part of a set would read it again
        first = 0
        for tile in tiles(self.data):
            finite = torch.isfinite(tile).flatten(1).all(dim=1)
            if not bool(finite.all()):
                raise DataError(f"item {first + int((~finite).nonzero()[0])} of '{self.name}' holds NaN or infinity")
            first += len(tile)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return tuple(self.data.shape[1:])

    def must_have_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse to go on with a model whose states have another shape."""
        if self.shape != shape:
            hint = "; slowflow encode turns images into latents" if self.pixels and shape[0] not in (1, 3) else ""
            raise InputError(f"'{self.name}' has items of shape {self.shape}, the model makes {shape}{hint}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over shape, values and labels."""
        digest = hashlib.sha256(repr(tuple(self.data.shape)).encode())
        for tile in tiles(self.data):
            digest.update(tile.contiguous().numpy())
        digest.update(self.labels.contiguous().numpy().tobytes())
        if self.features is not None:
            digest.update(self.features.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def take(self, index: np.ndarray, suffix: str) -> ImageSet:
        """The items at `index`, in that order."""
        rows = torch.as_tensor(np.asarray(index), dtype=torch.int64)
        features = None if self.features is None else self.features[rows]
        return ImageSet(
            f"{self.name}/{suffix}", rows_of(self.data, rows), self.labels[rows], self.classes, self.pixels, features
        )

    def split(self, heldout: float = 0.2, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """(train, held out), stratified by class: the same share of every class is held out.

        The split depends on the seed and the labels alone, so every part of SlowFlow that sees the same data sees
        the same split: the held-out part is never trained on, never in the bank, and is what quality is judged by.

        Args:
            heldout: share of each class that is held out, in (0, 1).
            seed: of the random choice.

        Raises:
            InputError: heldout outside (0, 1).
            DataError: a class has fewer than two items.
        """
        if not 0.0 < heldout < 1.0:
            raise InputError(f"heldout is {heldout}, expected a share between 0 and 1")
        kept, out = [], []
        for label in range(max(self.classes, 1)):
            rows = np.flatnonzero(self.labels.numpy() == label)
            if len(rows) == 0:
                continue
            if len(rows) < 2:
                raise DataError(f"class {label} of '{self.name}' has one item; at least two are needed to hold one out")
            count = min(max(round(heldout * len(rows)), 1), len(rows) - 1)
            order = rows[rng.permutation(seed, "heldout", len(rows), label)]
            out.append(order[:count])
            kept.append(order[count:])
        return self.take(np.sort(np.concatenate(kept)), "train"), self.take(np.sort(np.concatenate(out)), "heldout")
