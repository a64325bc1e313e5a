"""The shape of a stage-2 network, read off its tensors; heads come from the width of the rotary tables."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.rae.backbone import RAEConfig
from slowflow.families.sit.shapes import AXES, depth_of, must_have

PLAIN = {**AXES, "feat_rope.freqs_cos": 2}
HEADED = {**AXES, "s_embedder.proj.weight": 4, "enc_feat_rope.freqs_cos": 2, "dec_feat_rope.freqs_cos": 2}
SHALLOW = 2
"""Blocks of the head, where equal widths do not tell them from the trunk's."""


def config_of(tensors: dict[str, Tensor], path: Path) -> RAEConfig:
    """The configuration that fits the tensors.

    Raises:
        CheckpointError: a tensor that every such network has is missing, or the shapes contradict each other.
    """
    headed = "s_embedder.proj.weight" in tensors
    must_have(tensors, "RAE stage-2", path, HEADED if headed else PLAIN)
    ropes = ("enc_feat_rope", "dec_feat_rope") if headed else ("feat_rope",)
    embedders = ("s_embedder", "x_embedder") if headed else ("x_embedder",)
    hidden = tuple(int(tensors[f"{name}.proj.weight"].shape[0]) for name in embedders)
    heads = tuple(
        width // max(int(tensors[f"{name}.freqs_cos"].shape[1]), 1) for width, name in zip(hidden, ropes, strict=True)
    )
    _, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    values = tensors["final_layer.linear.weight"].shape[0]
    try:
        return RAEConfig(
            input_size=math.isqrt(tensors["pos_embed"].shape[1]) * patch,
            patch=patch,
            channels=channels,
            hidden=hidden,
            depth=_depths(tensors, hidden),
            heads=heads,
            classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
            learn_sigma=not headed and values == 2 * channels * patch**2,
        )
    except InputError as error:
        raise CheckpointError(f"{path} is not an RAE stage-2 checkpoint: {error}") from error


def _depths(tensors: dict[str, Tensor], hidden: tuple[int, ...]) -> tuple[int, ...]:
    depth = depth_of(tensors)
    if len(hidden) == 1:
        return (depth,)
    if hidden[0] == hidden[1]:
        return depth - SHALLOW, SHALLOW
    widths = [tensors.get(f"blocks.{i}.attn.proj.bias") for i in range(depth)]
    narrow = sum(bias is not None and bias.shape[0] == hidden[0] for bias in widths)
    return narrow, depth - narrow
