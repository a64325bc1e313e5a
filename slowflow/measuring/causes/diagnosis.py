"""Diagnosis: a finished folder of probes, read back as causes, a verdict and an advice.

    lag = steps + local model error + accumulation,  beside it off-path, round trip, law of inverted noise, growth, bend

See `shares` for the division, `probing` for what is sampled and `diagnosing` for the run that samples it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from slowflow.config import canonical
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.table import recorded
from slowflow.io import checkpoint
from slowflow.io.run import whole_manifest
from slowflow.measuring.bootstrap import RESAMPLES, interval, weights
from slowflow.measuring.causes.bands import Bands
from slowflow.measuring.causes.nodes import nodes_of
from slowflow.measuring.causes.shares import PARTS, Division, Energies, divided, off_path
from slowflow.records import Estimate

CAUSE = {
    "steps": "steps dominate",
    "local": "local model error",
    "accumulation": "accumulation",
}
MEANING = {
    "steps": "the step size makes it",
    "local": "the network errs on real states already",
    "accumulation": "the network's own output makes it worse: exposure bias proper",
}
ADVICE = {
    "steps": "Use more steps or a second-order sampler (Heun) first; post-training would treat the wrong cause.",
    "local": (
        "Train the network further, or correct what it returns (epsilon scaling, a corrected time label); training on "
        "slowed inputs treats accumulation, which is not what this is."
    ),
    "accumulation": "This is what MixFlow and its rivals are for: post-train, beside a plain arm of the same length.",
    "undivided": "There is a lag, but no cause is clear of zero: diagnose more samples before correcting anything.",
    "none": "Nothing to correct at this precision; more samples would narrow the intervals.",
    "fast": "States run ahead: do not apply MixFlow, which slows the inputs; look at guidance and at the scale of the output.",
}


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis on disk.

    Args:
        path: the run folder. config: what was asked. facts: nodes, step counts, bands. files: names of the shards.
    """

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    files: list[str]

    @classmethod
    def load(cls, path: str | Path) -> Diagnosis:
        """Open a finished diagnosis.

        Raises:
            InputError: not a diagnosis, unfinished, or damaged.
        """
        path = Path(path)
        manifest = whole_manifest(path, "diagnose")
        return cls(path, manifest["config"], manifest["result"]["facts"], sorted(manifest["files"]))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array, samples along the first axis."""
        shards = [checkpoint.load(self.path / name).tensors for name in self.files]
        return {key: np.concatenate([shard[key].numpy() for shard in shards]) for key in shards[0]}

    @cached_property
    def path_of_states(self) -> Interpolant:
        """The interpolant."""
        return recorded(self.facts["interpolant"], self.facts.get("levels"))

    @property
    def seed(self) -> int:
        """Of the bootstrap."""
        return int(self.config["probe"]["seed"])

    @property
    def counts(self) -> list[int]:
        """Step counts, the reported one first."""
        return list(self.facts["counts"])

    @cached_property
    def _bands(self) -> Bands:
        group = {k: np.array(v, dtype=np.float64) for k, v in self.facts["bands"].items()}
        return Bands(np.empty((0, 0)), {}, np.empty(0), group["size"], group["variance"])

    def _runs(self, of: str = "") -> list[Energies]:
        mean_energy = np.array(self.facts["bands"]["mean_energy"])
        arrays, shared = self.arrays, (self.arrays["genuine"], mean_energy, self.arrays["noise"])
        return [Energies(n, arrays[f"{of}own-{n}"], arrays[f"{of}forced-{n}"], *shared) for n in self.counts]

    @cached_property
    def divisions(self) -> dict[str, Division]:
        """reading -> the division of its lag."""
        nodes = nodes_of(self._bands, self.path_of_states, self.facts["nodes"][1:])
        return divided(self._runs(), nodes, int(self.facts["order"]), self.seed, self._runs("null-"))

    @cached_property
    def off_path(self) -> tuple[Estimate, Estimate]:
        """(share of the divergence from genuine states that no single time takes away, the divergence in nats)."""
        nodes = nodes_of(self._bands, self.path_of_states, self.facts["nodes"][1:])
        return off_path(self._runs()[0], nodes, self.seed)

    @property
    def reading(self) -> str:
        """The reading with the largest lag of those that are clear of zero, else the one nearest to being clear."""
        clear = [name for name, division in self.divisions.items() if division.clear]
        if clear:
            return max(clear, key=lambda name: abs(self.divisions[name].lag.value))
        return max(self.divisions, key=lambda name: self.divisions[name].strength)

    @property
    def main(self) -> Division:
        """Its division."""
        return self.divisions[self.reading]

    @property
    def cause(self) -> str:
        """steps, local, accumulation, undivided (no part is clear of zero), fast or none."""
        if not any(division.clear for division in self.divisions.values()):
            return "none"
        if self.main.lag.value < 0:
            return "fast"
        largest = max(PARTS, key=lambda name: self.main.parts[name].value)
        return largest if self.main.parts[largest].low > 0.0 else "undivided"

    @property
    def verdict(self) -> str:
        """One of the legal verdicts."""
        return {"none": "none detectable", "fast": "fast", "steps": "steps dominate"}.get(self.cause, "detected")

    @property
    def advice(self) -> str:
        """The cheapest first remedy, in one or two sentences."""
        return ADVICE[self.cause]

    def mean(self, name: str, column: int | None = None) -> Estimate:
        """Mean over samples of a saved array (of one of its columns) with an interval."""
        values = self.arrays[name]
        values = values.reshape(len(values), -1).mean(axis=1) if column is None else values[:, column]
        low, high = interval(weights(len(values), RESAMPLES, self.seed, "causes") @ values / len(values))
        return Estimate(float(values.mean()), float(low), float(high), len(values))

    def growth(self) -> pd.DataFrame:
        """How a small displacement grows over each interval: along the path and at random, with that of Gaussian data."""
        t = np.array(self.facts["nodes"])
        rows = []
        for k in range(len(t) - 1):
            row: dict[str, float] = {"start": float(t[k]), "end": float(t[k + 1])}
            for kind in ("lag", "random"):
                found = self.mean(f"growth-{kind}", k)
                row |= {kind: found.value, f"{kind}_low": found.low, f"{kind}_high": found.high}
            rows.append({**row, **self._gaussian_growth(t[k], t[k + 1])})
        return pd.DataFrame(rows)

    def _gaussian_growth(self, start: float, end: float) -> dict[str, float]:
        """The same for the exact flow of Gaussian data with these variances: sqrt(v(end) / v(start)) along each axis."""
        path = self.path_of_states
        times = torch.tensor([start, end], dtype=torch.float64)
        v = self._bands.expected(path.alpha(times).numpy(), path.sigma(times).numpy())
        ratio, size = v[1] / v[0], self._bands.size
        along = size * (self._bands.variance + 1.0)
        return {
            "lag_gaussian": float(np.sqrt(along @ ratio / along.sum())),
            "random_gaussian": float(np.sqrt(size @ ratio / size.sum())),
        }

    def noise_law(self) -> dict[str, Estimate]:
        """Energy a dimension (1) and fourth moment (3) of the noise that inversion finds, and energy by band halves."""
        size, energy = self._bands.size, self.arrays["inverted"]
        half = np.cumsum(size) <= size.sum() / 2
        half[0], half[-1] = True, False
        drawn = weights(len(energy), RESAMPLES, self.seed, "causes")
        found = {"fourth moment": self.mean("inverted-fourth")}
        parts = {"energy": np.ones(len(size), bool), "energy, weak axes": half, "energy, strong axes": ~half}
        for name, use in parts.items():
            each = energy[:, use] @ size[use] / size[use].sum()
            low, high = interval(drawn @ each / len(each))
            found[name] = Estimate(float(each.mean()), float(low), float(high), len(each))
        return found

    def result(self) -> dict[str, Any]:
        """The machine-readable answer of `slowflow diagnose --json`."""
        return {
            "shares": {**canonical(self.main.shares), "off_path": canonical(self.off_path[0])},
            "divergence": canonical(self.off_path[1]),
            "verdict": self.verdict,
            "cause": CAUSE.get(self.cause, self.cause),
            "advice": self.advice,
            "reading": self.reading,
            "readings": {name: _plain(division) for name, division in self.divisions.items()},
            "round_trip": {str(n): canonical(self.mean(f"roundtrip-{n}")) for n in self.counts},
            "inverted_noise": canonical(self.noise_law()),
            "growth": self.growth().to_dict("records"),
            "bend": canonical(self.mean("bend")),
            "steps": self.counts,
            "nodes": self.facts["nodes"],
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {share}" for name, share in self.main.shares.items())
        return f"Diagnosis in {self.path}: {CAUSE.get(self.cause, self.cause)}; {self.reading} lags {self.main.lag} ({parts})"


def _plain(division: Division) -> dict[str, Any]:
    names = ("lag", "parts", "shares", "by_steps")
    return {name: canonical(getattr(division, name)) for name in names}
