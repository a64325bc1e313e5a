"""kl: a variational autoencoder with a Gaussian per latent cell (AutoencoderKL of diffusers).

    latent = (mean + std * noise - shift) * scale,        decode(latent / scale + shift)

scale and shift are in its config: 0.18215 and none for sd-vae-ft-ema/mse (SiT, DiT, REPA), 1.5305 and 0.0609 for SD3.
Images go in and come out in [-1, 1].
Source: Rombach et al. 2022 (arXiv 2112.10752); SD3: Esser et al. 2024 (arXiv 2403.03206).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.codecs.base import CODECS, Codec, needs_folder
from slowflow.errors import InputError
from slowflow.io import pretrained


class KL(Codec):
    """An AutoencoderKL with the affine map of its config.

    Args:
        net: the autoencoder.
        config: its config.
        sha256: of its weights.
        name: of the kind.
    """

    def __init__(self, net: Any, config: dict[str, Any], sha256: str, name: str = "kl") -> None:
        self.net, self.name, self.sha256 = net, name, sha256
        # what the object says, because its class fills in what the file leaves out
        self.scale = float(net.config.scaling_factor)
        self.shift = float(getattr(net.config, "shift_factor", None) or 0.0)
        self.channels = int(net.config.latent_channels)
        self.factor = 2 ** (len(net.config.block_out_channels) - 1)

    def shape(self, size: int) -> tuple[int, int, int]:
        """(latent channels, size / factor, size / factor)."""
        if size < self.factor or size % self.factor:
            raise InputError(
                f"the codec '{self.name}' takes images whose sides are multiples of {self.factor}, not {size}"
            )
        return (self.channels, size // self.factor, size // self.factor)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n 3 h w"], noise: Tensor | None = None) -> Float[Tensor, "n c y x"]:
        """(mean + std noise - shift) scale; the mean's when `noise` is None."""
        weight = next(self.net.parameters())
        found = self.net.encode(images.to(weight)).latent_dist
        raw = found.mean if noise is None else found.mean + found.std * noise.to(weight)
        return ((raw - self.shift) * self.scale).to(images.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images of latents."""
        weight = next(self.net.parameters())
        return self.net.decode(latents.to(weight) / self.scale + self.shift).sample.to(latents.dtype)

    def facts(self) -> dict[str, Any]:
        """Also the affine map and the weights."""
        return {**super().facts(), "scale": self.scale, "shift": self.shift, "weights_sha256": self.sha256}


class KLKind:
    """Autoencoders of AutoencoderKL's class.

    Args:
        name: of the kind.
        shifted: whether its latents are shifted, which tells SD3's from sd-vae's.
    """

    def __init__(self, name: str, shifted: bool) -> None:
        self.name, self.shifted = name, shifted

    def fits(self, config: dict[str, Any]) -> bool:
        """AutoencoderKL with or without a shift."""
        return config["_class_name"] == "AutoencoderKL" and bool(config.get("shift_factor")) == self.shifted

    def open(self, folder: Path | None) -> Codec:
        """Open the folder strictly, in float32."""
        if folder is None:
            raise needs_folder(self.name, "stable-diffusion-3.5-medium/vae" if self.shifted else "sd-vae-ft-mse")
        net, config = pretrained.load_module(folder, f"the codec '{self.name}'")
        return KL(net, config, pretrained.fingerprint(folder), self.name)


CODECS.register(
    "kl",
    summary="AutoencoderKL such as sd-vae-ft-ema/mse (SiT, DiT, REPA); a folder",
    source="Rombach et al. 2022 (arXiv 2112.10752)",
)(KLKind("kl", shifted=False))
CODECS.register(
    "sd3-vae",
    summary="AutoencoderKL with 16 shifted channels (SD3, SD3.5, Flux); a folder",
    source="Esser et al. 2024, SD3 (arXiv 2403.03206)",
)(KLKind("sd3-vae", shifted=True))
