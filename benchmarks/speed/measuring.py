"""Measuring over bare sampling with the same network calls, and the sampling loop over bare forward passes.

measure_over_sampling     own and nearest, of the model's states and of genuine ones (nulls that need no trajectories)
own_over_sampling         own alone, no nulls
six_over_sampling         own, paired, nearest, fresh, level and clocks with genuine nulls
every_null_over_sampling  the default references with every null: a perfect model finely solved, its coarse twin and
                          the bank's own images. This is the default of `measure`; its cost does not grow with the
                          network, and on a model this small the perfect model costs more than the network does
loop_over_forward         the sampling loop over the same network calls and nothing else
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.data.open import open_data
from slowflow.families.open import open_model
from slowflow.flow.generate import final_states, labels_of, noise_of
from slowflow.flow.grids import uniform_grid
from slowflow.measuring.references import REFERENCES, Reference
from slowflow.measuring.trajectories import Source
from slowflow.records import DEFAULT_REFERENCES, Probe
from speed.machine import Machine
from speed.timing import AT_MOST, Ratio, best, quotients

SAMPLES, STEPS, ROUNDS = 64, 10, 7
SIX = ("own", "paired", "nearest", "fresh", "level", "clocks")


def run(machine: Machine) -> list[Ratio]:
    """The bundled MNIST model on one batch."""
    model, data = open_model("mnist-sit").model, open_data("mnist5k")
    train, held = data.split()
    bank, ids = Bank.of(train, conditional=True), np.arange(SAMPLES)
    source = Source(model, held, train, Probe(samples=SAMPLES, steps=STEPS))
    assert bank.spectrum.axes is not None  # made once a run, not once a batch
    assert bank.within.variance is not None
    state = noise_of(0, ids, model.shape)
    cond = torch.from_numpy(labels_of(ids, model.classes))

    def sampling() -> None:
        final_states(model, ids, steps=STEPS)

    def forward() -> None:
        with torch.no_grad():
            for t in uniform_grid(STEPS)[:-1]:
                model.net(state.float(), t.float().expand(SAMPLES), cond)

    def looked_at(kinds: Sequence[str], names: Sequence[str]) -> Callable[[], None]:
        def work() -> None:
            for kind in kinds:
                batch = source.make(kind, ids, STEPS)
                for reference in map(REFERENCES.get, names):
                    if isinstance(reference, Reference):
                        reference.assign(batch, bank, "auto")
                    else:
                        reference.observe(batch, bank)

        return work

    alone = best(sampling, 3)
    d, states = int(np.prod(model.shape)), SAMPLES * STEPS
    own = states * d * 8 * 3 / machine.bandwidth  # state, noise and endpoint, read once
    rows = np.mean([len(shard) for shard in bank.shards.values()])
    product = (states + SAMPLES) * rows * d * 2 / machine.float64  # states with the bank, noises once
    loop = STEPS * SAMPLES * d * 8 * 3 / machine.bandwidth
    everything = ("model", *source.probe.nulls)
    cases = [
        ("measure_over_sampling", looked_at(("model", "genuine"), ("own", "nearest")), 1.35, 2 * (own + product)),
        ("own_over_sampling", looked_at(("model",), ("own",)), 1.05, own),
        ("six_over_sampling", looked_at(("model", "genuine"), SIX), 1.35, None),
        ("every_null_over_sampling", looked_at(everything, DEFAULT_REFERENCES), 1.35, None),
    ]
    found = [
        Ratio(name, *quotients(work, sampling, ROUNDS), AT_MOST, bar, None if extra is None else 1.0 + extra / alone)
        for name, work, bar, extra in cases
    ]
    floor = 1.0 + loop / best(forward, 3)
    return [*found, Ratio("loop_over_forward", *quotients(sampling, forward, ROUNDS), AT_MOST, 1.03, floor)]
