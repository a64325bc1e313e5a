"""The SiT transformer, written from its description with the official parameter names.

A patch embedding, a fixed 2-D sin-cos position table, blocks whose LayerNorms are shifted, scaled and gated by the
time and class embedding (adaLN-Zero), and a linear head. The same class opens SiT-S/B/L/XL files and the small
bundled models; width, depth, patch, classes and channels are read off the shapes of a checkpoint.

Source: Ma et al. 2024, SiT (arXiv 2401.08740); Peebles and Xie 2023, DiT (arXiv 2212.09748).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from slowflow.errors import InputError


@dataclass(frozen=True)
class SiTConfig:
    """Shape of the network.

    Args:
        input_size: height and width of a state in cells.
        patch: side of a patch in cells; divides input_size.
        channels: channels of a state.
        hidden: width; divisible by heads and by 4.
        depth: number of blocks.
        heads: attention heads (not recorded in any official file).
        classes: number of classes; the table has one more row, the null class.
        learn_sigma: the head returns 2 x channels and the second half is ignored.
    """

    input_size: int
    patch: int
    channels: int
    hidden: int
    depth: int
    heads: int
    classes: int
    learn_sigma: bool = False

    def __post_init__(self) -> None:
        for name in ("input_size", "patch", "channels", "hidden", "depth", "heads", "classes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.input_size % self.patch:
            raise InputError(f"input_size {self.input_size} is not a multiple of the patch {self.patch}")
        if self.hidden % self.heads or self.hidden % 4:
            raise InputError(f"hidden {self.hidden} must be a multiple of 4 and of the {self.heads} heads")

    @property
    def out_channels(self) -> int:
        """Channels of the head."""
        return self.channels * (2 if self.learn_sigma else 1)


def sincos_table(hidden: int, grid: int) -> Float[Tensor, "1 tokens hidden"]:
    """The fixed position table: half the width codes the column, half the row, each as sines then cosines."""
    omega = 1.0 / 10000 ** (np.arange(hidden // 4, dtype=np.float64) / (hidden / 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    parts = [f(axis[:, None] * omega) for axis in (columns, rows) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float().unsqueeze(0)


class PatchEmbed(nn.Module):
    """Patches to tokens by a strided convolution."""

    def __init__(self, channels: int, hidden: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens hidden"]:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the time label (cosines first, frequencies 10000^(-i/128)) and a two-layer MLP."""

    features = 256

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Float[Tensor, " n"]) -> Float[Tensor, "n hidden"]:
        half = self.features // 2
        # float32 whatever the network's dtype: the official features are computed so
        frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angle = t.float()[:, None] * frequency[None]
        weight = next(self.mlp.parameters())
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(weight.dtype))


class LabelEmbedder(nn.Module):
    """Class table with one extra row, the null class. Label dropout belongs to training, not to the network."""

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, hidden)

    def forward(self, labels: Int[Tensor, " n"]) -> Float[Tensor, "n hidden"]:
        return self.embedding_table(labels)


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Float[Tensor, "n tokens hidden"]) -> Float[Tensor, "n tokens hidden"]:
        n, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, hidden))


class Mlp(nn.Module):
    """Two layers, tanh-approximated GELU, four times as wide inside."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, 4 * hidden)
        self.fc2 = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def unpatchify(x: Float[Tensor, "n tokens values"], patch: int) -> Float[Tensor, "n out h w"]:
    """Tokens of a square grid to an image; the values of a token are (row, column, channel), channels fastest."""
    n, tokens, values = x.shape
    grid, channels = math.isqrt(tokens), values // patch**2
    x = x.view(n, grid, grid, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, channels, grid * patch, grid * patch)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, the same for every token of a sample."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


class Block(nn.Module):
    """Attention and MLP, each normalised, modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.norm1 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden, config.heads)
        self.norm2 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(self, x: Float[Tensor, "n tokens hidden"], c: Float[Tensor, "n hidden"]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Normalise, modulate, project each token to its patch."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.hidden, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(config.hidden, config.patch**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, 2 * config.hidden))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SiT(nn.Module):
    """`net(state, label, cond)`: state [n, C, H, W], label [n] the time it is told, cond [n] class indices."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.config = config
        grid = config.input_size // config.patch
        self.x_embedder = PatchEmbed(config.channels, config.hidden, config.patch)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.y_embedder = LabelEmbedder(config.classes, config.hidden)
        self.pos_embed = nn.Parameter(sincos_table(config.hidden, grid), requires_grad=False)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_layer = FinalLayer(config)

    def forward(
        self, state: Float[Tensor, "n c h w"], label: Float[Tensor, " n"], cond: Int[Tensor, " n"]
    ) -> Float[Tensor, "n out h w"]:
        x = self.x_embedder(state) + self.pos_embed
        c = self.t_embedder(label) + self.y_embedder(cond)
        for block in self.blocks:
            x = block(x, c)
        return unpatchify(self.final_layer(x, c), self.config.patch)


PRESETS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads of the published sizes."""
HEADS = {hidden: heads for hidden, _, heads in PRESETS.values()}
"""Attention heads of the published widths; no file records them."""


def preset(name: str, resolution: int = 256, *, learn_sigma: bool = True, patch: int = 2) -> SiTConfig:
    """The shape of a published model on ImageNet latents.

    Args:
        name: S, B, L or XL.
        resolution: 256 or 512 pixels; latents are an eighth of it.
        learn_sigma: 8 output channels, as SiT and DiT train; REPA has 4.
        patch: side of a patch in latent cells.

    Raises:
        InputError: no such size or resolution.
    """
    if name not in PRESETS or resolution not in (256, 512):
        raise InputError(f"no preset '{name}' at {resolution}, expected one of {', '.join(PRESETS)} at 256 or 512")
    hidden, depth, heads = PRESETS[name]
    return SiTConfig(resolution // 8, patch, 4, hidden, depth, heads, 1000, learn_sigma)


def initialise(net: SiT, generator: torch.Generator) -> SiT:
    """Fresh weights, drawn from `generator` alone: Xavier matrices, normal(0.02) embeddings, zero gates and head."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name == "pos_embed":
                continue
            zero = parameter.ndim < 2 or "adaLN_modulation" in name or name.startswith("final_layer")
            if zero:
                parameter.zero_()
            elif "embedder" in name and "proj" not in name:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                matrix = parameter.view(parameter.shape[0], -1)
                bound = math.sqrt(6.0 / (matrix.shape[0] + matrix.shape[1]))
                parameter.uniform_(-bound, bound, generator=generator)
    return net
