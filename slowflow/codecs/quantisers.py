"""Quantisers: images in [-1, 1] to uint8. Peers differ by up to one level, which moves a Frechet distance.

round      floor(127.5 x + 128)        SiT, DiT, SlowFlow's own
truncate   floor(255 (x + 1) / 2)      REPA, RAE: darker by half a level on average
half-even  rint(255 (x + 1) / 2)       diffusers
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError

QUANTISERS = ("round", "truncate", "half-even")


def quantise(images: Float[Tensor, "n c h w"], how: str = "round") -> np.ndarray:
    """uint8 [n, h, w, c]; values outside [-1, 1] are clipped.

    Args:
        images: in [-1, 1].
        how: round, truncate or half-even.

    Raises:
        InputError: unknown quantiser.
    """
    if how not in QUANTISERS:
        raise InputError(f"quantiser is '{how}', expected one of {', '.join(QUANTISERS)}")
    x = images.clamp(-1.0, 1.0)
    if how == "round":
        # not 127.5 x + 128: at x = 1 that is 255.5 in exact arithmetic but may round up in low precision
        levels = torch.floor((x + 1.0) * 127.5 + 0.5)
    else:
        scaled = (x + 1.0) / 2.0 * 255.0
        levels = torch.floor(scaled) if how == "truncate" else torch.round(scaled)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
