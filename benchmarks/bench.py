"""Speed as ratios within one run: `make bench` writes benchmarks/last.json.

A and B are interleaved, medians are compared, and process time (not wall time) is read, so that a busy machine changes
both sides alike. Bars are those the project aims at; a missed bar is printed, not hidden.

    references_over_sampling own, paired, nearest, fresh, level, clocks with genuine nulls, over bare sampling
    measure_over_sampling    the default references with every null (a perfect model finely solved too), over bare sampling
    memory_of_ten_times      peak memory of measuring ten times as many samples, over that of measuring few
    own_over_sampling        own alone, no nulls, over bare sampling
    mixflow_over_plain       a training step with MixFlow over a plain one
    loop_over_forward        the sampling loop over bare forward passes
    naive_over_nearest_time  materialised N x T flat search over the bank search, same answers
    loop_over_own            loop of 50 materialised candidates over the closed form, d = 4,096
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.data.open import open_data
from slowflow.families.open import open_model
from slowflow.flow.generate import final_states, labels_of, noise_of
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import Linear
from slowflow.io import atomic
from slowflow.io.run import environment
from slowflow.measuring import search
from slowflow.measuring.closest import closest_time
from slowflow.measuring.references import REFERENCES, Reference
from slowflow.measuring.trajectories import Source
from slowflow.records import DEFAULT_REFERENCES, Probe
from slowflow.remedies.mixflow import MixFlow
from slowflow.remedies.plain import Plain
from slowflow.train.loop import TrainConfig, step_loss

OUT = Path(__file__).resolve().parent / "last.json"
BARS = {
    "references_over_sampling": ("at most", 1.35),
    "measure_over_sampling": ("at most", 1.35),
    "memory_of_ten_times": ("at most", 1.1),
    "own_over_sampling": ("at most", 1.05),
    "mixflow_over_plain": ("at most", 1.01),
    "loop_over_forward": ("at most", 1.03),
    "naive_over_nearest_time": ("at least", 20.0),
    "loop_over_own": ("at least", 20.0),
}


def ratio(a: Callable[[], object], b: Callable[[], object], rounds: int) -> float:
    """Median of A over B, interleaved, after one warm-up of each."""
    a(), b()
    quotients = []
    for _ in range(rounds):
        times = []
        for work in (a, b):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        quotients.append(times[0] / times[1])
    return statistics.median(quotients)


def measuring() -> dict[str, float]:
    """Measurement over bare sampling, on the bundled model."""
    model, data = open_model("mnist-sit").model, open_data("mnist5k")
    train, held = data.split()
    bank, ids = Bank.of(train, conditional=True), np.arange(64)
    source = Source(model, held, train, Probe(samples=64, steps=10))
    assert bank.spectrum.axes is not None  # made once a run, not once a batch
    assert bank.within.variance is not None

    def sampling() -> None:
        final_states(model, ids, steps=10)

    def looked_at(kinds: Sequence[str], names: Sequence[str]) -> None:
        for kind in kinds:
            batch = source.make(kind, ids, 10)
            for reference in map(REFERENCES.get, names):
                if isinstance(reference, Reference):
                    reference.assign(batch, bank, "auto")
                else:
                    reference.observe(batch, bank)

    def references() -> None:
        looked_at(("model", "genuine"), ("own", "paired", "nearest", "fresh", "level", "clocks"))

    def everything() -> None:
        looked_at(("model", *source.probe.nulls), DEFAULT_REFERENCES)

    def own() -> None:
        looked_at(("model",), ("own",))

    def forward() -> None:
        state = noise_of(0, ids, model.shape)
        cond = torch.from_numpy(labels_of(ids, model.classes))
        with torch.no_grad():
            for t in uniform_grid(10)[:-1]:
                model.net(state.float(), t.float().expand(64), cond)

    return {
        "references_over_sampling": ratio(references, sampling, 5),
        "measure_over_sampling": ratio(everything, sampling, 5),
        "own_over_sampling": ratio(own, sampling, 5),
        "loop_over_forward": ratio(sampling, forward, 5),
    }


def training() -> dict[str, float]:
    """A MixFlow step over a plain step."""
    model, data = open_model("mnist-sit").model, open_data("mnist5k").split()[0]
    config = TrainConfig(steps=1, batch_size=32)

    def step(remedy: MixFlow | Plain) -> Callable[[], None]:
        bound = replace(remedy, interpolant=model.interpolant, prediction=model.prediction)

        def once() -> None:
            step_loss(model, bound, data, config, 0).backward()

        return once

    return {"mixflow_over_plain": ratio(step(MixFlow(0.4)), step(Plain()), 15)}


def searching() -> dict[str, float]:
    """The bank search over a materialised flat index, and the closed form over a loop, with equal answers."""
    draw, path = np.random.default_rng(0), Linear()
    rows, noise = draw.normal(size=(500, 256)), draw.normal(size=(40, 256))
    times = np.linspace(0.02, 1.0, 50)
    state = 0.5 * draw.normal(size=(40, 256)) + 0.5 * noise

    def naive() -> np.ndarray:
        winner = []
        for x, x0 in zip(state, noise, strict=True):
            candidates = times[:, None, None] * rows[None] + (1 - times)[:, None, None] * x0
            winner.append(np.square(candidates - x).sum(-1).min(0).argmin())
        return np.array(winner)

    def ours() -> np.ndarray:
        return search.nearest(state, noise, rows, path, "auto").index

    agreement = float(np.mean(naive() == ours()))
    assert agreement >= 0.95, f"the grid of the naive search may miss by a step, but only {agreement:.2f} agree"
    x, x0, y = (torch.from_numpy(draw.normal(size=(200, 4096))) for _ in range(3))

    def loop() -> None:
        best = torch.full((200,), torch.inf, dtype=torch.float64)
        for m in times:
            best = torch.minimum(best, (x - m * y - (1 - m) * x0).square().sum(1))

    return {
        "naive_over_nearest_time": ratio(naive, ours, 5),
        "loop_over_own": ratio(loop, lambda: closest_time(x, x0, y, path), 7),
    }


PEAK = """
import resource, sys, tempfile, slowflow
data, model = slowflow.open_data("digits", classes=10), slowflow.load("digits-sit")
probe = slowflow.Probe(samples=int(sys.argv[1]), steps=10, nulls=("genuine",), shard=32)
slowflow.measure(model, data, probe, out=tempfile.mkdtemp() + "/run", heldout=0.5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory() -> dict[str, float]:
    """Peak resident memory of a whole measurement, each in an interpreter of its own."""
    peaks = [
        float(subprocess.run([sys.executable, "-c", PEAK, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in (80, 800)
    ]
    return {"memory_of_ten_times": peaks[1] / peaks[0]}


def main() -> None:
    """Run everything, print each ratio beside its bar, write the file."""
    torch.set_num_threads(1)
    found = {**measuring(), **memory(), **training(), **searching()}
    for name, value in found.items():
        side, bar = BARS[name]
        met = value <= bar if side == "at most" else value >= bar
        print(f"{name:<26} {value:8.3f}   bar {side} {bar:g}   {'met' if met else 'MISSED'}")
    atomic.write_json(OUT, {**found, "environment": environment()})
    print(json.dumps({"file": OUT.name}))


if __name__ == "__main__":
    main()
