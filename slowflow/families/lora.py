"""LoRA: train a low-rank update of the attention weights and leave the weights alone.

    W x + B (A x),      A [rank, in] random, B [out, rank] zero, so that training starts at the model itself

peft puts the two factors beside every attention projection; everything else is frozen.

Memory of SD3.5-medium (2.243 G parameters, 9.0 GB in float32) at 1024 px and 333 text tokens, counted on the meta device:
post-training holds the weights three times (start, network, average), 26.9 GB; rank 64 adds 47.8 M parameters, 0.8 GB with
average, gradient and two Adam moments; an image needs 11.0 GB of activations, or 0.7 GB and one block's 0.5 GB at a time
with checkpointing. 8 images: 26.9 + 0.8 + 9.6 = 37 GB of 80. Training all weights adds 26.9 GB and needs checkpointing.
Source: Hu et al. 2021, LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.io import pretrained

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention projections of diffusers' transformers; those of the text stream begin with add_."""
BASE, LEFT, RIGHT = ".base_layer.", ".lora_B.default.", ".lora_A.default."


def add_lora(net: nn.Module, rank: int, seed: int = 0) -> None:
    """Freeze `net` and add trainable factors of this rank, a function of the seed alone.

    Raises:
        MissingExtraError: peft is not installed.
        InputError: the network has no attention projection to put them beside.
    """
    peft: Any = pretrained.require("peft", "post-training with LoRA")
    net.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, net)
        except ValueError as error:
            raise InputError(f"a {type(net).__name__} has no attention projection for LoRA: {error}") from error


def merge(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its factors multiplied into the weights, under the network's own names.

    Scale alpha / rank is 1 here. Products are taken in float32 or better.
    """
    merged: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if LEFT in name or RIGHT in name:
            continue
        left = tensors.get(name.replace(BASE, LEFT)) if BASE in name else None
        right = tensors.get(name.replace(BASE, RIGHT)) if BASE in name else None
        if left is not None and right is not None and name.endswith("weight"):
            wide = torch.promote_types(value.dtype, torch.float32)
            value = (value.to(wide) + left.to(wide) @ right.to(wide)).to(value.dtype)
        merged[name.replace(BASE, ".")] = value
    return merged
