"""Many velocity MLPs at once: weights stacked along a first axis, one batched product a layer.

    h = silu(x W_in + T_0(t)),   h <- h + silu(h W_l + T_l(t)),   v = h W_out + g(h, t) x

g is a scalar the network computes: without it a width below d could not pass the state through. A `reader` is also
given |x|^2 / d, which is a noise level in plain sight; an ordinary network has to learn to compute it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

FREQUENCIES = 8
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Size of one network."""

    d: int
    width: int
    layers: int = 2
    reader: bool = False

    @property
    def features(self) -> int:
        """Of time, and for a reader of the norm."""
        return 2 * FREQUENCIES + 2 + 2 * self.reader

    @property
    def parameters(self) -> int:
        """Of one network."""
        return sum(math.prod(s) for s in shapes(self).values())


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one network's weights."""
    d, w, n = shape.d, shape.width, shape.layers
    hidden = {f"hidden{k}": (w, w) for k in range(n)}
    return {"enter": (d, w), **hidden, "leave": (w, d), "gate": (w, 1), "time": (shape.features, w * (n + 1) + 1)}


def start(shape: Shape, generators: list[torch.Generator]) -> Weights:
    """Fresh weights, one network a generator; the last layer and the gate begin at zero."""
    found: Weights = {}
    for name, size in shapes(shape).items():
        scale = 0.0 if name in ("leave", "gate") else size[0] ** -0.5
        found[name] = torch.stack([scale * torch.randn(*size, generator=g) for g in generators])
    return found


def time_features(t: Tensor) -> Tensor:
    """[..., 2 F + 2]: one, t, and waves of t."""
    angle = t[..., None] * torch.arange(1, FREQUENCIES + 1) * math.pi
    return torch.cat([torch.ones_like(t)[..., None], t[..., None], angle.sin(), angle.cos()], dim=-1)


def forward(shape: Shape, weights: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    """x [e, n, d], t [e, n] -> velocity [e, n, d], e networks."""
    told = time_features(t)
    if shape.reader:
        norm = x.square().mean(-1, keepdim=True)
        told = torch.cat([told, norm, norm.clamp_min(1e-6).log()], dim=-1)
    w = shape.width
    shift = told @ weights["time"]
    h = silu(torch.baddbmm(shift[..., :w], x, weights["enter"]))
    for k in range(shape.layers):
        h = h + silu(torch.baddbmm(shift[..., (k + 1) * w : (k + 2) * w], h, weights[f"hidden{k}"]))
    gate = torch.baddbmm(shift[..., -1:], h, weights["gate"])
    return torch.addcmul(torch.bmm(h, weights["leave"]), gate, x)


class Trainer:
    """Adam at a constant rate with an average of the weights, for every network at once.

    The loss is summed over networks, so that each sees its own gradient and Adam, which works weight by weight, treats
    each as if it were alone.
    """

    def __init__(self, shape: Shape, weights: Weights, rate: float, decay: float) -> None:
        self.shape, self.decay = shape, decay
        self.weights = {k: v.clone().requires_grad_() for k, v in weights.items()}
        self.average = {k: v.clone() for k, v in weights.items()}
        self.adam = torch.optim.Adam(list(self.weights.values()), lr=rate, fused=True)

    def step(self, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
        """One step on inputs [e, n, d], labels [e, n], targets that broadcast; returns the loss of each network."""
        losses = (forward(self.shape, self.weights, x, t) - target).square().mean(dim=(-2, -1))
        self.adam.zero_grad()
        losses.sum().backward()
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - self.decay)
        return losses.detach()
