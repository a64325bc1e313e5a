"""The same two quantities as SlowFlow itself reads them: its `level`, with axes and variances fitted to a bank of draws.

The study's own readings know the exact density; a user's measurement does not. Here the library's reference is given 2,000
draws of data, own states and genuine ones, and says `tool_level` (mean slack of own states minus that of genuine
ones) and `tool_blur` (scatter of the slack of genuine states, median over times).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from knowntruth.measurement import genuine_states
from knowntruth.solve import KEPT, SOLVERS
from knowntruth.study import Plan, Setting, done, sampled, starts, worlds_of
from slowflow import rng
from slowflow.data.bank import Bank
from slowflow.flow.interpolants import interpolant
from slowflow.measuring.references import REFERENCES, Reference, Trajectories

BANK = 2000


def slack(states: dict[float, Tensor], bank: Bank) -> np.ndarray:
    """(t - m) / t of each state, [n, time], by the library's `level`."""
    level, grid = REFERENCES.get("level"), np.array(KEPT)
    if not isinstance(level, Reference):
        raise TypeError("`level` no longer assigns an m to each state")
    rows = np.stack([states[t].double().numpy() for t in KEPT], axis=1)
    n, _, d = rows.shape
    none = np.zeros((n, d))  # `level` looks neither at noise nor at endpoints
    batch = Trajectories(rows, none, none, np.zeros(n, dtype=np.int64), grid, interpolant("linear"), np.arange(n))
    return 1.0 - level.assign(batch, bank, "torch").m / grid


def readings(setting: Setting, plan: Plan, folder: Path) -> Iterator[dict[str, Any]]:
    """tool_level and tool_blur of each base, seed and solver."""
    weights = load_file(folder / "base.safetensors")
    noise = starts(setting, plan, 1)
    for k, (seed, one) in enumerate(zip(plan.seeds, worlds_of(setting, plan), strict=True)):
        g = rng.torch_generator(seed, "bank")
        bank = Bank({0: one.draw(BANK, g)[0].double().numpy()}, "known truth", str(seed))
        data, other = one.draw(plan.samples, g)[0], torch.randn(plan.samples, setting.d, generator=g)
        zero = slack(genuine_states(data, other), bank)
        for base in setting.pretrain or plan.pretrain:
            own = {n.split(".", 1)[1]: v[k : k + 1] for n, v in weights.items() if n.startswith(f"{base}.")}
            for solver in SOLVERS:
                states = sampled(setting.shape, own, noise[k : k + 1], solver)[1]
                lag = slack({t: x[0] for t, x in states.items()}, bank).mean() - zero.mean()
                blur = float(np.median(zero.std(axis=0)))
                yield {"base": base, "seed": seed, "solver": solver, "tool_level": float(lag), "tool_blur": blur}


def collect(settings: list[Setting], plan: Plan, out: Path) -> None:
    """tool.json of every setting whose bases exist."""
    for setting in settings:
        folder = out / setting.name
        if (folder / "base.safetensors").exists():
            done(folder / "tool.json", lambda s=setting, f=folder: list(readings(s, plan, f)))
