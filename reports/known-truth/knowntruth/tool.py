"""The same two quantities as SlowFlow itself reads them: its `level`, with axes and variances fitted to a bank of draws.

The study's own readings know the exact density; a user's measurement does not. Here the library's reference is given 2,000
draws of data, own states and genuine ones, and says `tool_level`, `tool_signal`, `tool_noise` (mean slack of own states minus
that of genuine ones, by `level` and the two `clocks`) and `tool_blur` (scatter of genuine slack by `level`, median over times).
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
from slowflow.measuring.slack import everyone

BANK = 2000


CLOCKS = ("signal clock", "noise clock")


def batch(states: dict[float, Tensor]) -> Trajectories:
    """States at the kept times as the library wants them; neither `level` nor `clocks` looks at noise or endpoints."""
    rows = np.stack([states[t].double().numpy() for t in KEPT], axis=1)
    n, _, d = rows.shape
    none = np.zeros((n, d))
    grid = np.array(KEPT)
    return Trajectories(rows, none, none, np.zeros(n, dtype=np.int64), grid, interpolant("linear"), np.arange(n))


def slack(states: dict[float, Tensor], bank: Bank) -> np.ndarray:
    """(t - m) / t of each state, [n, time], by the library's `level`."""
    level = REFERENCES.get("level")
    if not isinstance(level, Reference):
        raise TypeError("`level` no longer assigns an m to each state")
    return 1.0 - level.assign(batch(states), bank, "torch").m / np.array(KEPT)


def clocks(states: dict[float, Tensor], bank: Bank) -> dict[str, float]:
    """Mean slack of the library's two clocks."""
    found, one = REFERENCES.get("clocks"), batch(states)
    if isinstance(found, Reference):
        raise TypeError("`clocks` now assigns an m to each state")
    read = found.clocks(found.observe(one, bank), one.grid, one.path)
    return {name: float(read[name].mean_slack(everyone(read[name])).mean()) for name in CLOCKS}


def readings(setting: Setting, plan: Plan, folder: Path) -> Iterator[dict[str, Any]]:
    """tool_level and tool_blur of each base, seed and solver."""
    weights = load_file(folder / "base.safetensors")
    noise = starts(setting, plan, 1)
    for k, (seed, one) in enumerate(zip(plan.seeds, worlds_of(setting, plan), strict=True)):
        g = rng.torch_generator(seed, "bank")
        bank = Bank({0: one.draw(BANK, g)[0].double().numpy()}, "known truth", str(seed))
        data, other = one.draw(plan.samples, g)[0], torch.randn(plan.samples, setting.d, generator=g)
        genuine = genuine_states(data, other)
        zero, still = slack(genuine, bank), clocks(genuine, bank)
        for base in setting.pretrain or plan.pretrain:
            own = {n.split(".", 1)[1]: v[k : k + 1] for n, v in weights.items() if n.startswith(f"{base}.")}
            for solver in SOLVERS:
                states = sampled(setting.shape, own, noise[k : k + 1], solver)[1]
                kept = {t: x[0] for t, x in states.items()}
                lag = {"level": slack(kept, bank).mean() - zero.mean()}
                lag |= {name.split()[0]: x - still[name] for name, x in clocks(kept, bank).items()}
                blur = float(np.median(zero.std(axis=0)))
                said = {f"tool_{name}": float(x) for name, x in lag.items()} | {"tool_blur": blur}
                yield {"base": base, "seed": seed, "solver": solver, **said}


def collect(settings: list[Setting], plan: Plan, out: Path) -> None:
    """tool.json of every setting whose bases exist."""
    for setting in settings:
        folder = out / setting.name
        if (folder / "base.safetensors").exists():
            done(folder / "tool.json", lambda s=setting, f=folder: list(readings(s, plan, f)))
