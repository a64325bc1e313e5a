"""What a measurement says of a base network: lag of the level and of two clocks, and how much it leans on the label.

Readings compare own states with genuine ones at the same t, as SlowFlow's `level` and `clocks` do, with the world's axes
and density where SlowFlow fits them to a bank. Per time, then averaged over KEPT:

    level    (mean m-hat of genuine states - mean m-hat of own states) / t;  m-hat maximises log p(x | m)
    signal   1 - a_own / a_genuine, noise   b_own / b_genuine - 1;  a^2, b^2 from E z^2 = b^2 + a^2 lambda on two bands
    mismatch(gamma)    E |u(x_m, t) - target|^2 - E |u(x_m, m) - target|^2: what MixFlow's law costs the untouched network
    disagreement(gamma)    E |u(x_m, t) - u(x_m, m)|^2: how far its answer moves with the label, free of the target's noise

The last two are sums over axes and need no truth: data, noise and the network are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from knowntruth.solve import KEPT
from knowntruth.worlds import World, log_density

COARSE = 25
"""Intervals of the first grid of m."""
Net = Callable[[Tensor, Tensor], Tensor]
"""(state [n, d], label [n]) -> velocity."""


def level(one: World, states: Tensor) -> Tensor:
    """m-hat of each state, [n]: the best of a coarse grid, then of a fine one around it, then a parabola."""
    inside, rest = one.split(states)
    energy = rest.square().sum(-1)

    def likely(m: Tensor) -> Tensor:
        return log_density(one, inside[:, None], energy[:, None], m)

    coarse = torch.linspace(0.0, 1.0, COARSE + 1).expand(len(states), -1)
    best = coarse.gather(1, likely(coarse).argmax(1, keepdim=True))
    step = 1.0 / (4 * COARSE)
    fine = (best + step * torch.arange(-5, 6)).clamp(0.0, 1.0)
    found = likely(fine)
    top = found.argmax(1, keepdim=True).clamp(1, fine.shape[1] - 2)
    low, mid, high = (found.gather(1, top + k)[:, 0] for k in (-1, 0, 1))
    bend = (low - 2 * mid + high).clamp_max(-1e-9)
    return (fine.gather(1, top)[:, 0] + step * (0.5 * (low - high) / bend).clamp(-1, 1)).clamp(0, 1)


def clocks(one: World, states: Tensor) -> tuple[float, float]:
    """(a, b) from the energy of signal and idle axes."""
    inside, rest = one.split(states)
    mean, covariance = one.moments()
    strong = float((covariance.trace() + mean.square().sum()) / len(mean))
    weak = one.idle**2
    seen, idle = float(inside.square().mean()), float(rest.square().sum(1).mean()) / one.rest
    a = (seen - idle) / (strong - weak)
    return max(a, 0.0) ** 0.5, max(idle - a * weak, 0.0) ** 0.5


def readings(one: World, states: Tensor) -> tuple[float, float, float]:
    """(mean m-hat, a, b) of states."""
    return float(level(one, states).mean()), *clocks(one, states)


def lags(one: World, own: dict[float, Tensor], zero: dict[float, tuple[float, float, float]]) -> dict[str, float]:
    """Lag of level, signal and noise, averaged over the times in `own`, above 0 = slow; zero: of genuine states."""
    found: dict[str, list[float]] = {"level": [], "signal": [], "noise": []}
    for t, states in own.items():
        (m, a, b), (m0, a0, b0) = readings(one, states), zero[t]
        found["level"].append((m0 - m) / t)
        found["signal"].append(1 - a / max(a0, 1e-6))
        found["noise"].append(b / max(b0, 1e-6) - 1)
    return {name: sum(x) / len(x) for name, x in found.items()}


def genuine_states(data: Tensor, noise: Tensor) -> dict[float, Tensor]:
    """Real states at the kept times."""
    return {t: noise + t * (data - noise) for t in KEPT}


def leaning(net: Net, data: Tensor, noise: Tensor, u: Tensor, w: Tensor, gammas: Sequence[float]) -> dict[str, float]:
    """mismatch and disagreement of each gamma, and the plain loss, as sums over axes per state."""
    velocity, t = data - noise, u.sqrt()

    def loss(answer: Tensor) -> float:
        return float((answer - velocity).square().sum(-1).mean())

    found = {"loss": loss(net(noise + u[:, None] * velocity, u))}
    for gamma in gammas:
        if gamma == 0:
            continue
        m = t * (1 - gamma * w)
        state = noise + m[:, None] * velocity
        told, right = net(state, t), net(state, m)
        found[f"mismatch {gamma:g}"] = loss(told) - loss(right)
        found[f"disagreement {gamma:g}"] = float((told - right).square().sum(-1).mean())
    return found
