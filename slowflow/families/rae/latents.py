"""Normalisation of RAE's latents: mean and variance of every position and channel.

    z = (h - mean) / sqrt(var + 1e-5),      h = z sqrt(var + 1e-5) + mean

Statistics are files {mean, var} of the latent's shape, published beside each decoder; the networks see z.
Source: Zheng et al. 2025, RAE (arXiv 2510.11690).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import CheckpointError
from slowflow.io import checkpoint

EPS = 1e-5


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and variance of a latent, [C, H, W] each."""

    mean: Float[Tensor, "c h w"]
    var: Float[Tensor, "c h w"]

    @classmethod
    def load(cls, path: str | Path) -> LatentStatistics:
        """Read a file of statistics.

        Raises:
            CheckpointError: not such a file, shapes that differ, or a negative variance.
        """
        tensors = checkpoint.load(path).tensors
        if not {"mean", "var"} <= tensors.keys():
            raise CheckpointError(f"{path} holds {', '.join(sorted(tensors)[:5])}; expected 'mean' and 'var'")
        mean, var = tensors["mean"].float(), tensors["var"].float()
        if mean.ndim != 3 or mean.shape != var.shape:
            raise CheckpointError(
                f"{path}: mean is {tuple(mean.shape)}, var {tuple(var.shape)}; expected one shape [C, H, W]"
            )
        if bool((var < 0).any()):
            raise CheckpointError(f"{path}: a variance is negative")
        return cls(mean, var)

    def normalise(self, h: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Encoder output to what the network sees."""
        return (h - self.mean.to(h)) / torch.sqrt(self.var.to(h) + EPS)

    def denormalise(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """What the network makes to decoder input."""
        return z * torch.sqrt(self.var.to(z) + EPS) + self.mean.to(z)
