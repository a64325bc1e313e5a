"""How a network of diffusers is called: what it is told beside its state, and in which form it takes the state.

Flux takes a state as tokens of 2 x 2 cells, channels slowest inside a token, with the coordinates of every token:

    [n, c, 2 y, 2 x]  ->  [n, y x, 4 c],        coordinates (0, row, column) of image tokens, 0 of text tokens

and, when it was distilled from guidance, the scale it is to imitate.
Source: diffusers; black-forest-labs/flux.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Call = Callable[[Any, Tensor, Tensor, Tensor, dict[str, Tensor]], Any]
"""`call(net, state, label, cond, told)`: what the network returns, a tensor or a tuple that starts with one."""


def plain(net: Any, state: Tensor, label: Tensor, cond: Tensor, told: dict[str, Tensor]) -> Any:
    """State and time; the condition is in `told`."""
    return net(state, timestep=label, **told, return_dict=False)


def labelled(net: Any, state: Tensor, label: Tensor, cond: Tensor, told: dict[str, Tensor]) -> Any:
    """The network embeds class labels itself."""
    return net(state, timestep=label, class_labels=cond, **told, return_dict=False)


@dataclass(frozen=True)
class Packed:
    """Flux.

    Args:
        guidance: scale that a network distilled from guidance imitates; None for others.
    """

    guidance: float | None = None

    def __call__(self, net: Any, state: Tensor, label: Tensor, cond: Tensor, told: dict[str, Tensor]) -> Tensor:
        """Pack, call, unpack."""
        n, _, height, width = state.shape
        words = torch.zeros(told["encoder_hidden_states"].shape[1], 3, device=state.device, dtype=state.dtype)
        scale = None if self.guidance is None else torch.full((n,), self.guidance, device=state.device)
        found = net(
            pack(state),
            timestep=label,
            guidance=scale,
            txt_ids=words,
            img_ids=coordinates(height // 2, width // 2).to(state),
            **told,
            return_dict=False,
        )
        return unpack(found[0], height // 2, width // 2)


def pack(state: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens values"]:
    """2 x 2 cells to a token, channels slowest."""
    cells = state.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Float[Tensor, "n tokens values"], rows: int, columns: int) -> Float[Tensor, "n c h w"]:
    """The inverse of `pack`."""
    cells = tokens.unflatten(1, (rows, columns)).unflatten(3, (-1, 2, 2))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def coordinates(rows: int, columns: int) -> Float[Tensor, "tokens 3"]:
    """(0, row, column) of every token."""
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
    return torch.nn.functional.pad(grid.flatten(0, 1), (1, 0)).float()
