"""Randomness keyed by what it is for.

No global stream: every draw is a function of (seed, purpose, index), made on the CPU. A run that is cut and
resumed, split over workers or batched differently sees the same numbers, and nothing has to be saved to get them.

Per-sample noise uses NumPy's Philox, whose output for a sample does not depend on how many samples are asked for;
draws inside a training step use a `torch.Generator`, because that is what a training loop hands around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _digest(seed: int, purpose: str, index: tuple[int, ...]) -> bytes:
    text = f"slowflow|{int(seed)}|{purpose}|" + ",".join(str(int(i)) for i in index)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for one purpose and index, independent of every other one.

    Args:
        seed: the run's seed, any integer.
        purpose: what the numbers are for, such as `"noise"`; part of the key.
        index: sample id, step or shard, as many integers as needed.
    """
    key = np.frombuffer(_digest(seed, purpose, index), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """The same key as a CPU `torch.Generator`, for code that draws with torch."""
    import torch

    value = int.from_bytes(_digest(seed, purpose, index)[:8], "little") & (2**63 - 1)
    return torch.Generator(device="cpu").manual_seed(value)


def normal(seed: int, purpose: str, ids: Iterable[int], shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise, one independent draw a sample id.

    Args:
        seed: the run's seed.
        purpose: part of the key; `"noise"` is a trajectory's start.
        ids: sample ids; the draw of an id does not depend on the others.
        shape: shape of one sample.

    Returns:
        float64 array [len(ids), *shape].
    """
    return np.stack([generator(seed, purpose, i).standard_normal(tuple(shape)) for i in ids])


def permutation(seed: int, purpose: str, n: int, *index: int) -> np.ndarray:
    """A random order of 0..n-1, int64."""
    return generator(seed, purpose, *index).permutation(n)


def fingerprint() -> str:
    """Sixteen hex digits that change when this library or NumPy draws other noise under the same key; of float32, beyond libm."""
    return hashlib.sha256(normal(0, "noise", [0, 1], (8,)).astype(np.float32).tobytes()).hexdigest()[:16]
