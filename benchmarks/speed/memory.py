"""memory_20000_over_2000: peak memory of a whole measurement of ten times the samples, each in its own interpreter.

Small states and a network of one operation: what must not grow is what SlowFlow itself holds while it measures and fits,
and a large network would hide that. The floor is 1.
"""

from __future__ import annotations

import subprocess
import sys

from speed import machine as rates
from speed.machine import Machine
from speed.timing import AT_MOST, Ratio

SAMPLES = 2000
MEASURE = """
import sys, tempfile
from pathlib import Path
import numpy as np
import slowflow
place = Path(tempfile.mkdtemp())
draw = np.random.default_rng(0)
np.savez(place / "data.npz", data=draw.normal(size=(2500, 1, 4, 4)).astype(np.float32))
model = slowflow.FlowModel.from_callable(lambda state, t, cond: -state, shape=(1, 4, 4))
probe = slowflow.Probe(
    samples=int(sys.argv[1]), steps=10, references=("own", "nearest", "level", "clocks"), nulls=("genuine",), shard=256
)
slowflow.measure(model, place / "data.npz", probe, out=place / "run", heldout=0.8)
print(peak())
"""


def peak(samples: int) -> float:
    """Peak resident kilobytes of one measurement."""
    found = subprocess.run(
        [sys.executable, "-c", rates.PEAK + MEASURE, str(samples)], capture_output=True, text=True, check=True
    )
    return float(found.stdout)


def run(machine: Machine) -> list[Ratio]:
    """Ten times the samples over the same measurement."""
    value = peak(10 * SAMPLES) / peak(SAMPLES)
    return [Ratio("memory_20000_over_2000", value, value, value, AT_MOST, 1.1, 1.0)]
