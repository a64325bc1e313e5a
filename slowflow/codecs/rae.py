"""rae: features of a frozen image encoder as latents, with a decoder trained for them (AutoencoderRAE of diffusers).

    latent = (features - mean) / (std + 1e-5),        mean and std per channel and position

The encoder sees images in [0, 1] at its own size (bicubic), so any image size gives the same number of cells. diffusers
adds its 1e-5 to a std that already holds one; latents agree with the authors' to a relative 1e-5 / std.
Source: Zheng et al. 2025, RAE (arXiv 2510.11690).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.codecs.base import CODECS, Codec, needs_folder
from slowflow.io import pretrained


class RAE(Codec):
    """An AutoencoderRAE.

    Args:
        net: the autoencoder.
        sha256: of its weights.
    """

    name = "rae"
    quantiser = "truncate"

    def __init__(self, net: Any, sha256: str) -> None:
        self.net, self.sha256, self.channels = net, sha256, int(net.config.encoder_hidden_size)

    def shape(self, size: int) -> tuple[int, int, int]:
        """(width of the encoder, cells, cells), whatever the image's size."""
        cells = int(self.net.config.encoder_input_size) // int(self.net.config.encoder_patch_size)
        return (self.channels, cells, cells)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n 3 h w"], noise: Tensor | None = None) -> Float[Tensor, "n c y x"]:
        """Normalised features; there is no distribution to draw from, so `noise` is not used."""
        weight = next(self.net.parameters())
        return self.net.encode((images.to(weight) + 1.0) / 2.0).latent.to(images.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images, clipped as the authors do."""
        weight = next(self.net.parameters())
        return (self.net.decode(latents.to(weight)).sample.clamp(0.0, 1.0) * 2.0 - 1.0).to(latents.dtype)

    def facts(self) -> dict[str, Any]:
        """Also the encoder and the weights."""
        return {**super().facts(), "encoder": self.net.config.encoder_type, "weights_sha256": self.sha256}


class RAEKind:
    """Autoencoders of AutoencoderRAE's class."""

    def fits(self, config: dict[str, Any]) -> bool:
        """AutoencoderRAE."""
        return bool(config["_class_name"] == "AutoencoderRAE")

    def open(self, folder: Path | None) -> Codec:
        """Open the folder strictly, in float32."""
        if folder is None:
            raise needs_folder("rae", "the folder diffusers' conversion script wrote")
        pretrained.require("transformers", "the codec 'rae'")
        net, _ = pretrained.load_module(folder, "the codec 'rae'")
        return RAE(net, pretrained.fingerprint(folder))


CODECS.register(
    "rae",
    summary="frozen DINOv2/SigLIP2/MAE features with a decoder; a folder",
    source="Zheng et al. 2025, RAE (arXiv 2510.11690)",
)(RAEKind())
