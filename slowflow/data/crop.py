"""ADM's centre crop: halve with a box filter while the short side is at least twice the target, then bicubic, then crop.

SiT, DiT, REPA and RAE all prepare ImageNet this way, and another resize moves a Frechet distance.
Source: Dhariwal and Nichol 2021, ADM (arXiv 2105.05233).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from slowflow.errors import MissingExtraError


def centre_crop(image: Any, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """A PIL image as `size` x `size` RGB pixels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "demo", "reading images") from error
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    wide, high = (round(side * scale) for side in image.size)
    pixels = np.asarray(image.resize((wide, high), resample=Image.Resampling.BICUBIC))
    top, left = (high - size) // 2, (wide - size) // 2
    return pixels[top : top + size, left : left + size]
