"""Where a network stands between v* and MixFlow's optimum: distances, and the share of the level it reads off the state.

    exact      E |u(x, t) - v*(x, t)|^2          sum over axes; `..._signal` on the signal axes alone
    optimum    E |u(x, t) - u_gamma(x, t)|^2
    law        E |u(x_m, t) - u_gamma(x_m, t)|^2 on the states of MixFlow's own law
    read       <u(x, t) - v*(x, t), v*(x, m) - v*(x, t)> / |v*(x, m) - v*(x, t)|^2 for x a genuine state at m = 0.7 t:
               0 trusts the label, 1 reads the level off the state

`genuine` are real states at t under label t, `own` the network's own at Euler 20.
"""

from __future__ import annotations

import torch
from torch import Tensor

from knowntruth.measurement import Net
from knowntruth.truth import Optimum
from knowntruth.worlds import World, world
from slowflow import rng

SLOWED = 0.7


def squares(one: World, gap: Tensor) -> tuple[float, float]:
    """Mean squared length: (whole, signal axes)."""
    return float(gap.square().sum(-1).mean()), float((gap @ one.basis).square().sum(-1).mean())


def distances(one: World, net: Net, gamma: float, states: Tensor, t: Tensor) -> dict[str, float]:
    """Distance to v* and to the optimum on given states."""
    said = net(states, t)
    found = {}
    for name, field in (("exact", Optimum(one)), ("optimum", Optimum(one, gamma))):
        found[name], found[f"{name}_signal"] = squares(one, said - field(states, t))
    return found


def read(one: World, net: Net, data: Tensor, noise: Tensor, t: Tensor) -> dict[str, float]:
    """Share of the level read off the state, whole and on the signal axes."""
    m = SLOWED * t
    state = noise + m[:, None] * (data - noise)
    exact = Optimum(one)
    trusting = exact(state, t)
    moved, way = net(state, t) - trusting, exact(state, m) - trusting
    inner, way_inner = moved @ one.basis, way @ one.basis
    return {
        "read": float((moved * way).sum() / way.square().sum()),
        "read_signal": float((inner * way_inner).sum() / way_inner.square().sum()),
    }


def probe(
    one: World, net: Net, gamma: float, data: Tensor, noise: Tensor, u: Tensor, w: Tensor, own: dict[float, Tensor]
) -> dict[str, float]:
    """Everything above for one network; data, noise [n, d], u and w [n]; own: time -> states."""
    found = {f"genuine_{k}": v for k, v in distances(one, net, gamma, noise + u[:, None] * (data - noise), u).items()}
    states = torch.cat(list(own.values()))
    times = torch.cat([torch.full((len(x),), t) for t, x in own.items()])
    found |= {f"own_{k}": v for k, v in distances(one, net, gamma, states, times).items()}
    t = u.sqrt()
    slowed = noise + (t * (1 - gamma * w))[:, None] * (data - noise)
    gap = net(slowed, t) - Optimum(one, gamma)(slowed, t)
    found["law_optimum"], found["law_optimum_signal"] = squares(one, gap)
    return found | read(one, net, data, noise, 0.1 + 0.85 * u)


def ideal_read(d: int, idle: float, gammas: tuple[float, ...], seeds: tuple[int, ...], n: int) -> dict[float, float]:
    """What `read` is for the exact optimum of each gamma, mean over seeds: the most a network can learn."""
    found: dict[float, list[float]] = {g: [] for g in gammas}
    for seed in seeds:
        one, g = world(d, idle, seed), rng.torch_generator(seed, "probing")
        data, noise = one.draw(n, g)[0], torch.randn(n, d, generator=g)
        t = 0.1 + 0.85 * torch.rand(n, generator=g)
        for gamma in gammas:
            found[gamma].append(read(one, Optimum(one, gamma), data, noise, t)["read"])
    return {g: sum(x) / len(x) for g, x in found.items()}
