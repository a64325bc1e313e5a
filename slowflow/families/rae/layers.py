"""Layers of RAE's transformers: RMSNorm, SwiGLU, axial rotary positions, Gaussian time features, gated blocks.

    rotary: queries and keys are turned in pairs (2j, 2j+1) by position * 10000^(-j / (d/4)), the first half of a head
            by the row, the second by the column
    time:   (sin, cos)(2 pi n W), W frozen
    SwiGLU: W3 (silu(a) b), (a, b) = W12 x
Source: Zheng et al. 2025, RAE (arXiv 2510.11690); Yao et al. 2025, LightningDiT (arXiv 2501.01423).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FEATURES = 256
"""Number of frozen frequencies in W."""


class RMSNorm(nn.Module):
    """x / rms(x) times a weight, computed in float32 or better."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """Gated MLP, 2/3 of four times as wide inside."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        inner = int(2 / 3 * 4 * hidden)
        self.w12 = nn.Linear(hidden, 2 * inner)
        self.w3 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class Fixed(nn.Module):
    """A module whose own tables (not its children) stay in float32 or better when a network is put in bfloat16 or float16:
    an angle of a few turns has no correct digit left in three decimal digits."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = {name: tensor.detach() for name, tensor in self._tables()}
        super()._apply(fn, recurse)
        for name, tensor in self._tables():
            if tensor.dtype in (torch.bfloat16, torch.float16):
                tensor.data = kept[name].to(tensor.device)
        return self

    def _tables(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]


class Rotary(Fixed):
    """Axial rotary tables of a square grid; persistent buffers, so a file is bound to its resolution."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head: int, grid: int) -> None:
        super().__init__()
        frequency = 10000.0 ** -(torch.arange(0, head // 2, 2, dtype=torch.float32) / (head // 2))
        axis = torch.outer(torch.arange(grid, dtype=torch.float32), frequency).repeat_interleave(2, dim=1)
        rows = axis[:, None].expand(grid, grid, -1)
        columns = axis[None].expand(grid, grid, -1)
        angles = torch.cat([rows, columns], dim=-1).reshape(grid * grid, head)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Float[Tensor, "n heads tokens d"]) -> Float[Tensor, "n heads tokens d"]:
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        return x * self.freqs_cos.to(x.dtype) + turned * self.freqs_sin.to(x.dtype)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by position."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Float[Tensor, "n tokens hidden"], rotary: Rotary) -> Float[Tensor, "n tokens hidden"]:
        n, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(rotary(q), rotary(k), v)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, hidden))


class GaussianTime(Fixed):
    """Random Fourier features of the time label with frozen frequencies W, and a two-layer MLP."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(FEATURES), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, n: Float[Tensor, " n"]) -> Float[Tensor, "n hidden"]:
        angle = 2.0 * math.pi * n.to(self.W.dtype)[:, None] * self.W[None]
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1).to(next(self.mlp.parameters()).dtype))


class GatedBlock(nn.Module):
    """Attention and SwiGLU, each normalised, modulated and gated by a condition per sample or per token."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(hidden)
        self.attn = RotaryAttention(hidden, heads)
        self.norm2 = RMSNorm(hidden)
        self.mlp = SwiGLU(hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(
        self, x: Float[Tensor, "n tokens hidden"], c: Float[Tensor, "n cells hidden"], rotary: Rotary
    ) -> Float[Tensor, "n tokens hidden"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, rotary)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class GatedHead(nn.Module):
    """Normalise, modulate, project each token to its patch."""

    def __init__(self, hidden: int, values: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(hidden)
        self.linear = nn.Linear(hidden, values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, c: Float[Tensor, "n cells hidden"]) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)
