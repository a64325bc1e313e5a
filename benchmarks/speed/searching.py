"""The bank search over a materialised flat index, and the closed form over a loop of candidates, with equal answers.

    naive_over_nearest_time    for every trajectory the N x T interpolations of the bank in a flat index, searched
    naive_over_nearest_memory  memory beyond the inputs of the one over that of the other, each in its own interpreter
    loop_over_own              a loop over 50 materialised candidates over the closed form, d = 4,096

2,000 states are 40 trajectories of 50 times; bank 5,000 images, 50 candidate times, d = 784. The naive index depends on
the trajectory's noise, so it is built once a trajectory; three trajectories are timed for the naive way and scaled to 40,
which is exact: all 40 do the same.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from slowflow.flow.interpolants import Linear
from slowflow.measuring import search
from slowflow.measuring.closest import closest_time
from speed import machine as rates
from speed.machine import Machine
from speed.timing import AT_LEAST, Ratio, quotients, seconds

TRAJECTORIES, TIMES, ROWS, SIZE = 40, 50, 5000, 784
NAIVE = 3
GRID = np.linspace(0.0, 1.0, TIMES)


def problem(trajectories: int = TRAJECTORIES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(states [trajectories, times, d], noise [trajectories, d], bank [rows, d]): genuine states, a little off."""
    draw = np.random.default_rng(0)
    rows, noise = draw.normal(size=(ROWS, SIZE)), draw.normal(size=(trajectories, SIZE))
    t = np.linspace(0.02, 1.0, TIMES)[:, None]
    states = t * rows[draw.integers(0, ROWS, trajectories)][:, None] + (1 - t) * noise[:, None]
    return states + 0.05 * draw.normal(size=states.shape), noise, rows


def naive(states: np.ndarray, noise: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Nearest row of each state: interpolations materialised, one flat FAISS index a trajectory."""
    import faiss  # torch is imported above: the order their runtimes need

    rows, grid, found = rows.astype(np.float32), GRID.astype(np.float32), []
    for x, x0 in zip(states.astype(np.float32), noise.astype(np.float32), strict=True):
        index = faiss.IndexFlatL2(SIZE)
        index.add((grid[:, None, None] * rows + (1 - grid[:, None, None]) * x0).reshape(-1, SIZE))
        found.append(index.search(np.ascontiguousarray(x), 1)[1][:, 0] % len(rows))
    return np.concatenate(found)


def ours(states: np.ndarray, noise: np.ndarray, rows: np.ndarray, engine: str = "auto") -> np.ndarray:
    """Nearest row of each state: the bank search."""
    flat, own = states.reshape(-1, SIZE), np.repeat(noise, states.shape[1], axis=0)
    return search.nearest(flat, own, rows, Linear(), engine).index


SEARCH = """
import sys
sys.path.insert(0, sys.argv[1])
from speed.searching import naive, ours, problem
work, inputs = {"naive": naive, "ours": ours}[sys.argv[2]], problem(int(sys.argv[3]))
small = inputs[0][:1], inputs[1][:1], inputs[2][:64]
naive(*small), ours(*small, "faiss")  # libraries are loaded on first use and belong to neither
before = peak()
work(*inputs)
print(peak() - before)
"""


def _peak(which: str, trajectories: int) -> float:
    """Kilobytes beyond the inputs, in an interpreter of its own."""
    place = str(next(p for p in sys.path if p.endswith("benchmarks")))
    command = [sys.executable, "-c", rates.PEAK + SEARCH, place, which, str(trajectories)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run(machine: Machine) -> list[Ratio]:
    """Both searches, and the closed form."""
    states, noise, rows = problem()
    some = states[:NAIVE], noise[:NAIVE], rows
    agreement = float(np.mean(naive(*some) == ours(*some)))
    assert agreement >= 0.95, f"the grid of the naive search may miss by a step, but only {agreement:.2f} agree"
    quick = [seconds(lambda: ours(states, noise, rows)) for _ in range(3)]
    slow = seconds(lambda: naive(*some)) * TRAJECTORIES / NAIVE
    product = 2.0 * (TRAJECTORIES * (TIMES + 1)) * ROWS * SIZE / machine.float64
    time = Ratio(
        "naive_over_nearest_time",
        slow / float(np.median(quick)),
        slow / max(quick),
        slow / min(quick),
        AT_LEAST,
        20.0,
        slow / product,
        f"the product of states and bank alone; naive scaled from {NAIVE} of {TRAJECTORIES} trajectories",
    )
    memory = _peak("naive", 1) / max(_peak("ours", TRAJECTORIES), 1.0)
    x, x0, y = (torch.randn(200, 4096, dtype=torch.float64) for _ in range(3))

    def loop() -> None:
        best = torch.full((200,), torch.inf, dtype=torch.float64)
        for m in GRID:
            best = torch.minimum(best, (x - m * y - (1 - m) * x0).square().sum(1))

    own = quotients(loop, lambda: closest_time(x, x0, y, Linear()), 7)
    return [
        time,
        Ratio("naive_over_nearest_memory", memory, memory, memory, AT_LEAST, 20.0),
        Ratio("loop_over_own", *own, AT_LEAST, 20.0),
    ]
