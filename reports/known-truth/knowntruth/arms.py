"""Arms: what each network of the ensemble is trained on. Same data, noise and uniform draws for every arm of a seed.

plain           t ~ U(0, 1), state at t
gamma >= 0      t = sqrt(U),  m = t (1 - gamma U'),  state at m, label t       (gamma 0: the Beta(2,1) law alone)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PLAIN = "plain"


def names(gammas: Sequence[float]) -> list[str]:
    """Arms in the order of the ensemble: plain first."""
    return [PLAIN, *(f"{g:g}" for g in gammas)]


def times(gammas: Sequence[float], u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(label, input time), [arm, *u.shape], from two uniform draws of the same shape."""
    t = u.sqrt()
    labels = torch.stack([u, *(t for _ in gammas)])
    return labels, torch.stack([u, *(t * (1 - g * w) for g in gammas)])


def batch(gammas: Sequence[float], noise: Tensor, data: Tensor, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(state [arm * seed, n, d], label [arm * seed, n], target [arm * seed, n, d]) from [seed, n, d] and [seed, n]."""
    label, m = times(gammas, u, w)
    velocity = data - noise
    state = torch.addcmul(noise, m[..., None], velocity).flatten(0, 1)
    target = velocity.expand(len(label), *velocity.shape).reshape(state.shape)
    return state, label.flatten(0, 1), target
