"""DiTTransformer2DModel of diffusers, put right for training and, if asked, made Meta's network to the last digit.

Each block owns a copy of the time and class embedder (XL/2: 750 M parameters where there are 675 M), and in training
every copy draws a label dropout of its own, which destroys guidance. Equal copies become one module here, and dropout
is left to the training loop. Its time features divide by 127 where Meta's divide by 128 and one norm has epsilon 1e-5
for 1e-6: with `meta_numerics` the network is the one its converted weights were trained in.
Source: Peebles and Xie 2023, DiT (arXiv 2212.09748).
"""

from __future__ import annotations

from typing import Any

import torch

NETWORK = "DiTTransformer2DModel"


def is_dit(net: Any) -> bool:
    """True for diffusers' DiT."""
    return type(net).__name__ == NETWORK


def repair(net: Any, meta_numerics: bool = False) -> None:
    """One embedder for all blocks where their copies are equal, no dropout of its own, Meta's constants if asked."""
    blocks = list(net.transformer_blocks)
    first = blocks[0].norm1.emb
    for block in blocks:
        own = block.norm1.emb
        if all(torch.equal(a, b) for a, b in zip(own.parameters(), first.parameters(), strict=True)):
            block.norm1.emb = first
        block.norm1.emb.class_embedder.dropout_prob = 0.0
        if meta_numerics:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
            block.norm3.eps = 1e-6
