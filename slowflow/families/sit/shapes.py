"""The shape of a SiT, DiT or REPA trunk, read off the shapes of its tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.sit.backbone import HEADS, SiTConfig

AXES = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 3,
    "y_embedder.embedding_table.weight": 2,
    "final_layer.linear.weight": 2,
}
"""Tensors that every SiT has, and their numbers of axes."""
REQUIRED = tuple(AXES)


def must_have(tensors: dict[str, Tensor], kind: str, path: Path | str, axes: dict[str, int] | None = None) -> None:
    """Refuse a file without the tensors that every network of a kind has.

    Raises:
        CheckpointError: one is missing or has another number of axes, or queries and keys are normalised (qk-norm).
    """
    axes = AXES if axes is None else axes
    missing = [name for name in axes if name not in tensors]
    if missing:
        shown = ", ".join(sorted(tensors)[:3])
        raise CheckpointError(f"{path} is not a {kind} checkpoint: '{missing[0]}' is missing (it holds {shown}, ...)")
    normed = next((name for name in tensors if ".attn.q_norm." in name), None)
    if normed is not None:
        raise CheckpointError(f"{path} normalises queries and keys ('{normed}'); such a {kind} is not supported")
    for name, count in axes.items():
        if tensors[name].ndim != count:
            raise CheckpointError(f"{path}: '{name}' has {tensors[name].ndim} axes, a {kind} has {count} there")


def depth_of(tensors: dict[str, Tensor], prefix: str = "blocks.") -> int:
    """1 + the largest block index.

    Raises:
        CheckpointError: a file with few blocks that numbers them as if there were very many.
    """
    indices = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    numbers = {int(index) for index in indices if index.isascii() and index.isdigit() and len(index) < 6}
    depth = 1 + max(numbers, default=-1)
    if depth > 4 * len(numbers):  # a network of that depth would be built before its blocks are missed
        raise CheckpointError(f"the file numbers its blocks up to {depth - 1} but holds {len(numbers)} of them")
    return depth


def config_from_shapes(tensors: dict[str, Tensor], heads: int | None, path: Path | str, kind: str = "SiT") -> SiTConfig:
    """Read width, depth, patch, classes and channels off a state dict.

    Raises:
        CheckpointError: a tensor that every SiT has is missing, or the number of heads cannot be known.
    """
    must_have(tensors, kind, path)
    hidden, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    out_channels = tensors["final_layer.linear.weight"].shape[0] // patch**2
    heads = heads or HEADS.get(hidden)
    if heads is None:
        raise CheckpointError(
            f"{path} is {hidden} wide; the number of attention heads is not in the file, give --heads"
        )
    shape: dict[str, Any] = dict(
        input_size=math.isqrt(tensors["pos_embed"].shape[1]) * patch,
        patch=patch,
        channels=channels,
        hidden=hidden,
        depth=depth_of(tensors),
        heads=heads,
        classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
        learn_sigma=out_channels == 2 * channels,
    )
    try:
        return SiTConfig(**shape)
    except InputError as error:
        raise CheckpointError(f"{path} is not a {kind} checkpoint: {error}") from error
