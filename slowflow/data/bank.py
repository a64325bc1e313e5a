"""The bank: real data a state may be compared with, one shard a class.

It holds data, not interpolations: N rows, whatever the number of times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.errors import DataError


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
