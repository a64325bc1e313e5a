"""Decode: latents to uint8 pictures, with the autoencoder and the quantiser said and recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.codecs.base import Codec, open_codec
from slowflow.codecs.quantisers import QUANTISERS, quantise
from slowflow.errors import InputError
from slowflow.memory import in_parts


@dataclass(frozen=True)
class Decoder:
    """From states to pictures, for models that work on latents.

    Args:
        codec: on the device it shall run on.
        quantiser: round, truncate or half-even.
        batch: latents a network call; pictures are large.
    """

    codec: Codec
    quantiser: str
    batch: int = 8

    def __post_init__(self) -> None:
        if self.quantiser not in QUANTISERS:
            raise InputError(f"quantiser is '{self.quantiser}', expected one of {', '.join(QUANTISERS)}")

    @property
    def facts(self) -> dict[str, Any]:
        """Which autoencoder and quantiser, for records."""
        return {**self.codec.facts(), "quantiser": self.quantiser}

    def __call__(self, states: Float[Tensor, "n c y x"]) -> np.ndarray:
        """uint8 [n, h, w, 3] of latents in the model's own scale."""
        device = torch.device("cpu") if self.codec.net is None else next(self.codec.net.parameters()).device
        parts = []
        for some in states.split(self.batch):
            parts += in_parts(
                self.codec, lambda i, j, s=some: self.codec.decode(s[i:j].to(device)).float().cpu(), len(some)
            )
        return quantise(torch.cat(parts), self.quantiser)


def open_decoder(
    spec: str, quantiser: str | None, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Decoder:
    """The decoder of `--codec` for states of this shape; the quantiser is its authors' own unless named.

    Raises:
        InputError: an autoencoder for latents with another number of channels.
    """
    codec = open_codec(spec)
    if codec.channels != shape[0]:
        raise InputError(f"the codec '{codec.name}' decodes {codec.channels} channels, the model's states are {shape}")
    if codec.net is not None:
        codec.net.to(device=device, dtype=dtype)
    return Decoder(codec, quantiser or codec.quantiser)
