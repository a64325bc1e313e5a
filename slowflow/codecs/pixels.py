"""pixels: the image itself. Models that work on pixels need no autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from slowflow.codecs.base import CODECS, Codec


class Pixels(Codec):
    """The identity on images in [-1, 1]."""

    name = "pixels"
    channels = 3

    def shape(self, size: int) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, size, size)

    def encode(self, images: Float[Tensor, "n 3 h w"], noise: Tensor | None = None) -> Float[Tensor, "n c y x"]:
        """The images."""
        return images

    def decode(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """The images."""
        return latents


class PixelsKind:
    """Needs no folder."""

    def fits(self, config: dict[str, Any]) -> bool:
        """No folder holds it."""
        return False

    def open(self, folder: Path | None) -> Codec:
        """The identity."""
        return Pixels()


CODECS.register("pixels", summary="no autoencoder: images in [-1, 1]", source="-")(PixelsKind())
