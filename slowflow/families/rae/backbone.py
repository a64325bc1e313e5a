"""RAE's stage-2 networks: the plain LightningDiT, and DDT, a deep narrow trunk that conditions a wide shallow head.

    trunk: s = blocks(embed_s(x) + positions, c),   c = silu(time + class)
    head:  blocks(embed_x(x), project(silu(time + s))), modulated token by token

Both see the whole state; only the head's width limits what can be denoised, which is why it is as wide as the latent.
The plain variant is one trunk with c = time + class. Names are the official ones. The velocity points towards noise.
Source: Zheng et al. 2025, RAE (arXiv 2510.11690); Wang et al. 2025, DDT (arXiv 2504.05741).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.families.rae.layers import GatedBlock, GatedHead, GaussianTime, Rotary
from slowflow.families.sit.backbone import LabelEmbedder, PatchEmbed, sincos_table, unpatchify


@dataclass(frozen=True)
class RAEConfig:
    """Shape of a stage-2 network.

    Args:
        input_size: height and width of a latent.
        patch: side of a patch.
        channels: channels of a latent.
        hidden: widths of trunk and head; one number for the plain LightningDiT.
        depth: blocks of each.
        heads: attention heads of each.
        classes: number of classes; the table has one more row, the null class.
        learn_sigma: plain variant only: 2 x channels come out and the second half is ignored.
    """

    input_size: int
    patch: int
    channels: int
    hidden: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    classes: int
    learn_sigma: bool = False

    def __post_init__(self) -> None:
        for name in ("input_size", "patch", "channels", "classes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not len(self.hidden) == len(self.depth) == len(self.heads) or len(self.hidden) not in (1, 2):
            raise InputError(f"hidden {self.hidden}, depth {self.depth} and heads {self.heads} need one or two entries")
        if self.input_size % self.patch:
            raise InputError(f"input_size {self.input_size} is not a multiple of the patch {self.patch}")
        for hidden, depth, heads in zip(self.hidden, self.depth, self.heads, strict=True):
            if min(hidden, depth, heads) < 1 or hidden % heads or (hidden // heads) % 4:
                raise InputError(f"{heads} heads of {hidden} values in {depth} blocks: a head must be a multiple of 4")
        if self.learn_sigma and len(self.hidden) == 2:
            raise InputError("DDT has no learn_sigma")

    @property
    def out_channels(self) -> int:
        """Channels of the head."""
        return self.channels * (2 if self.learn_sigma else 1)

    @property
    def cells(self) -> int:
        """Tokens along one side."""
        return self.input_size // self.patch


PRESETS = {"S": ((384, 2048), (12, 2), (6, 16)), "XL": ((1152, 2048), (28, 2), (16, 16))}
"""Widths, depths and heads of DiT-DH-S (the guide) and DiT-DH-XL."""


def rae_preset(name: str, resolution: int = 256) -> RAEConfig:
    """A published DiT-DH on latents of DINOv2-B: 768 channels, 16 x 16 at 256 pixels and 32 x 32 at 512."""
    if name not in PRESETS or resolution not in (256, 512):
        raise InputError(f"no preset '{name}' at {resolution}, expected one of {', '.join(PRESETS)} at 256 or 512")
    hidden, depth, heads = PRESETS[name]
    return RAEConfig(resolution // 16, 1, 768, hidden, depth, heads, 1000)


class DDT(nn.Module):
    """`net(state, label, cond)`: trunk and head; label 1 at noise."""

    def __init__(self, config: RAEConfig) -> None:
        super().__init__()
        self.config = config
        (narrow, wide), (deep, shallow), (heads, more) = config.hidden, config.depth, config.heads
        self.s_embedder = PatchEmbed(config.channels, narrow, config.patch)
        self.x_embedder = PatchEmbed(config.channels, wide, config.patch)
        # equal widths need no projection; the official class has none then
        self.s_projector = nn.Linear(narrow, wide) if narrow != wide else nn.Identity()
        self.t_embedder = GaussianTime(narrow)
        self.y_embedder = LabelEmbedder(config.classes, narrow)
        self.pos_embed = nn.Parameter(sincos_table(narrow, config.cells), requires_grad=False)
        self.enc_feat_rope = Rotary(narrow // heads, config.cells)
        self.dec_feat_rope = Rotary(wide // more, config.cells)
        trunk = [GatedBlock(narrow, heads) for _ in range(deep)]
        head = [GatedBlock(wide, more) for _ in range(shallow)]
        self.blocks = nn.ModuleList([*trunk, *head])
        self.final_layer = GatedHead(wide, config.patch**2 * config.channels)

    def forward(
        self, state: Float[Tensor, "n c h w"], label: Float[Tensor, " n"], cond: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        deep = self.config.depth[0]
        time = self.t_embedder(label).unsqueeze(1)
        c = F.silu(time + self.y_embedder(cond).unsqueeze(1))
        s = self.s_embedder(state) + self.pos_embed
        for block in self.blocks[:deep]:
            s = block(s, c, self.enc_feat_rope)
        s = self.s_projector(F.silu(time + s))
        x = self.x_embedder(state)
        for block in self.blocks[deep:]:
            x = block(x, s, self.dec_feat_rope)
        return unpatchify(self.final_layer(x, s), self.config.patch)


class LightningDiT(nn.Module):
    """`net(state, label, cond)`: one trunk; label 1 at noise."""

    def __init__(self, config: RAEConfig) -> None:
        super().__init__()
        self.config = config
        (hidden,), (depth,), (heads,) = config.hidden, config.depth, config.heads
        self.x_embedder = PatchEmbed(config.channels, hidden, config.patch)
        self.t_embedder = GaussianTime(hidden)
        self.y_embedder = LabelEmbedder(config.classes, hidden)
        self.pos_embed = nn.Parameter(sincos_table(hidden, config.cells), requires_grad=False)
        self.feat_rope = Rotary(hidden // heads, config.cells)
        self.blocks = nn.ModuleList([GatedBlock(hidden, heads) for _ in range(depth)])
        self.final_layer = GatedHead(hidden, config.patch**2 * config.out_channels)

    def forward(
        self, state: Float[Tensor, "n c h w"], label: Float[Tensor, " n"], cond: Int[Tensor, " n"]
    ) -> Float[Tensor, "n out h w"]:
        x = self.x_embedder(state) + self.pos_embed
        c = (self.t_embedder(label) + self.y_embedder(cond)).unsqueeze(1)
        for block in self.blocks:
            x = block(x, c, self.feat_rope)
        return unpatchify(self.final_layer(x, c), self.config.patch)
