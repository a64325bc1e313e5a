"""REPA's second loss: the projected tokens should point where a vision model's patch tokens point.

    loss = - mean over samples and tokens of <z / |z|, f / |f|>,     total = |v - v*|^2 + 0.5 loss

It needs the features f of the image behind every latent, so post-training on latents alone leaves it out.
Source: Yu et al. 2024, REPA (arXiv 2410.06940), equation 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError

COEFFICIENT = 0.5
"""Weight of the projection loss in REPA's training."""


def projection_loss(projected: Sequence[Tensor], features: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Negative mean cosine similarity, averaged over vision models.

    Args:
        projected: [n, tokens, d] from each projector.
        features: the vision models' tokens, the same shapes.

    Raises:
        InputError: numbers or shapes differ.
    """
    if not projected or [z.shape for z in projected] != [f.shape for f in features]:
        raise InputError(
            f"projections {[tuple(z.shape) for z in projected]} and features {[tuple(f.shape) for f in features]} must be equal"
        )
    pairs = zip(projected, features, strict=True)
    return -torch.stack([F.cosine_similarity(z, f.to(z), dim=-1).mean() for z, f in pairs]).mean()
