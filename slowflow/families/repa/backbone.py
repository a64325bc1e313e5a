"""REPA's network: SiT whose tokens, after `encoder_depth` blocks, are also projected to the features of a vision model.

    x_k = tokens after block k,    z = W3 silu(W2 silu(W1 x_k))  one projector a vision model,    returns (velocity, [z])

The projection is a loss of training only; the velocity does not depend on it. Names are SiT's plus
projectors.i.{0,2,4}.{weight,bias}. Source: Yu et al. 2024, REPA (arXiv 2410.06940).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.families.sit.backbone import (
    Block,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    SiTConfig,
    TimestepEmbedder,
    preset,
    sincos_table,
    unpatchify,
)


@dataclass(frozen=True)
class REPAConfig:
    """Shape of the network.

    Args:
        trunk: the SiT.
        features: width of each vision model's features; empty without a projector.
        projector: width inside a projector.
        encoder_depth: blocks before the projection; in no file, and without effect on the velocity.
    """

    trunk: SiTConfig
    features: tuple[int, ...] = (768,)
    projector: int = 2048
    encoder_depth: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.encoder_depth <= self.trunk.depth:
            raise InputError(f"encoder_depth is {self.encoder_depth}, expected between 1 and {self.trunk.depth} blocks")
        if self.projector < 1 or any(width < 1 for width in self.features):
            raise InputError(f"projector {self.projector} and features {self.features} must be at least 1 wide")


def repa_preset(name: str, resolution: int = 256) -> REPAConfig:
    """A published size with the projector of the public checkpoint (DINOv2-B)."""
    return REPAConfig(preset(name, resolution, learn_sigma=False))


class REPA(nn.Module):
    """`net(state, label, cond) -> (velocity, [z])`; the velocity points towards noise, the label is 1 at noise."""

    def __init__(self, config: REPAConfig) -> None:
        super().__init__()
        self.config, trunk = config, config.trunk
        self.x_embedder = PatchEmbed(trunk.channels, trunk.hidden, trunk.patch)
        self.t_embedder = TimestepEmbedder(trunk.hidden)
        self.y_embedder = LabelEmbedder(trunk.classes, trunk.hidden)
        table = sincos_table(trunk.hidden, trunk.input_size // trunk.patch)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.blocks = nn.ModuleList([Block(trunk) for _ in range(trunk.depth)])
        self.projectors = nn.ModuleList([_projector(trunk.hidden, config.projector, z) for z in config.features])
        self.final_layer = FinalLayer(trunk)

    def forward(
        self, state: Float[Tensor, "n c h w"], label: Float[Tensor, " n"], cond: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n out h w"], list[Tensor]]:
        x = self.x_embedder(state) + self.pos_embed
        c = self.t_embedder(label) + self.y_embedder(cond)
        projected: list[Tensor] = []
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, c)
            if depth == self.config.encoder_depth:
                projected = [projector(x) for projector in self.projectors]
        return unpatchify(self.final_layer(x, c), self.config.trunk.patch), projected


def _projector(hidden: int, inner: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(hidden, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, features)
    )
