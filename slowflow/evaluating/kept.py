"""Features of one set of images on their way: kept a part at a time, so that a stopped evaluation goes on with them.

    parts/features-real-00001024.safetensors    named by the set and by the first image; gone when the evaluation is done

The slow half of judging 50,000 pictures is the feature network: Inception takes hours of a CPU. Parts begin at fixed
images and batches are what they would have been, so a run that was stopped ends in the same bytes. A set of one part
is not kept twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow.errors import CheckpointError
from slowflow.evaluating.evaluation import feature_file
from slowflow.evaluating.features import Features
from slowflow.io import checkpoint

PART = 1024
"""Images a part: seconds of a GPU, minutes of a CPU with Inception."""

Arrays = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]


def kept_features(
    folder: Path,
    key: str,
    features: Features,
    batches: Iterable[Tensor],
    n: int,
    seen: Callable[[int], None] = lambda count: None,
) -> Arrays:
    """Outputs of all images, one batch after the other; parts that are there already are read and not made again.

    Args:
        folder: of the run.
        key: names the set within the run.
        features: what is taken of the images.
        batches: the images, some at a time; they are never held together.
        n: how many there are.
        seen: called with how many images have been looked at.

    Returns:
        What `Features.outputs` returns, of the whole set; nothing of no image.
    """
    parts: list[Arrays] = []
    made: list[Arrays] = []
    first = done = 0
    for images in batches:
        path = folder / "parts" / f"features-{key}-{first:08d}.safetensors"
        if done == first:
            kept = _read(path, min(PART, n - first))
        if kept is None:
            made.append(features.outputs(images))
        done += len(images)
        seen(done)
        if done - first >= PART or done >= n:
            whole = _joined(made) if kept is None else kept
            if kept is None and n > PART:
                checkpoint.save(path, {name: torch.from_numpy(values) for name, values in whole.items()}, {})
            parts.append(whole)
            made, first = [], done
    return _joined(parts)


@dataclass(frozen=True)
class Look:
    """Takes the features of one set after another.

    Args:
        folder: of the run.
        features: what is taken.
        progress: told how many images of `total` have been looked at.
        total: images of all sets.
    """

    folder: Path
    features: Features
    progress: Progress
    total: int

    def store(
        self,
        key: int | str,
        images: Iterable[Tensor],
        labels: np.ndarray,
        before: int,
        metadata: dict[str, Any],
        beside: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the features of one set; `before` images of other sets have been looked at."""
        file = feature_file(key)
        found = kept_features(
            self.folder,
            Path(file).stem,
            self.features,
            images,
            len(labels),
            lambda count: self.progress(before + count, self.total, f"features, {self.features.name}"),
        )
        tensors = {name: torch.from_numpy(values) for name, values in found.items()}
        tensors |= {"labels": torch.from_numpy(labels.astype(np.int64)), **(beside or {})}
        checkpoint.save(self.folder / file, tensors, metadata)


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _read(path: Path, n: int) -> Arrays | None:
    """A part of n images; None where there is none or it is damaged, so that it is made again."""
    if not path.is_file():
        return None
    try:
        found = {name: values.numpy() for name, values in checkpoint.load(path).tensors.items()}
    except CheckpointError:
        return None
    return found if all(len(values) == n for values in found.values()) else None
