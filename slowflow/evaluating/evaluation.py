"""Evaluation: a finished folder of features, read back as metrics with intervals and as paired differences.

Intervals resample generated samples; the reference images are taken as given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slowflow import rng
from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.evaluating import coverage, frechet
from slowflow.io import checkpoint
from slowflow.io.run import whole_manifest
from slowflow.records import HIGHER_IS_BETTER as HIGHER_IS_BETTER
from slowflow.records import Estimate

RESAMPLES = 500


def feature_file(key: int | str) -> str:
    """File of the features of one step count, or of the real images."""
    return f"features/{key:05d}.safetensors" if isinstance(key, int) else f"features/{key}.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on disk: features of generated and real images, and metrics with intervals from them.

    Args:
        path: the run folder.
        config: what was asked.
        facts: reference size, feature hash, quantiser.
    """

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    _again: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Open a finished evaluation.

        Raises:
            InputError: not one, unfinished or damaged.
        """
        path = Path(path)
        manifest = whole_manifest(path, "evaluate")
        return cls(path, manifest["config"], manifest["result"]["facts"])

    @property
    def steps(self) -> list[int]:
        """Step counts evaluated."""
        return list(self.config["sampling"]["steps"])

    @cached_property
    def _stored(self) -> dict[int | str, dict[str, np.ndarray]]:
        keys: list[int | str] = ["real", *self.steps]
        return {
            key: {k: v.numpy() for k, v in checkpoint.load(self.path / feature_file(key)).tensors.items()}
            for key in keys
        }

    def statistic(self, metric: str, steps: int, drawn: np.ndarray) -> np.ndarray:
        """One metric in each resample of generated samples: drawn [resamples, n] -> [resamples]."""
        generated, real = self._stored[steps], self._stored["real"]
        if metric == "fd":
            return frechet.resampled(generated["features"], frechet.moments(real["features"]), drawn)
        if metric == "agreement":
            hits = (generated["predicted"] == generated["labels"]).astype(np.float64)
            return np.asarray(drawn @ hits / drawn.sum(axis=1))
        function = coverage.density if metric == "density" else coverage.coverage
        return function(self._inside(steps), drawn)

    def _inside(self, steps: int) -> np.ndarray:
        stored = self._stored[steps]
        if "inside" not in stored:
            stored["inside"] = coverage.inside(self._stored["real"]["features"], stored["features"])
        return stored["inside"]

    @property
    def metrics(self) -> list[str]:
        """Metrics these samples allow: no agreement without a classifier or without labels."""
        judged = "predicted" in self._stored[self.steps[0]] and self.facts["labelled"]
        return [m for m in HIGHER_IS_BETTER if m != "agreement" or judged]

    def resamples(self) -> np.ndarray:
        """Resamples of sample ids; a function of seed and n, so that arms on the same ids share them."""
        sampling = self.config["sampling"]
        n = sampling["samples"]
        draw = rng.generator(int(sampling["seed"]), "bootstrap/evaluate", n)
        return draw.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES).astype(np.float64)

    def resampled(self, metric: str, steps: int) -> np.ndarray:
        """The metric in every resample [resamples], computed once; arms on the same ids and seed share the resamples."""
        if (metric, steps) not in self._again:
            self._again[metric, steps] = self.statistic(metric, steps, self.resamples())
        return self._again[metric, steps]

    def estimate(self, metric: str, steps: int) -> Estimate:
        """A metric with its interval, recentred on the estimate (resampling repeats samples and biases FD upwards)."""
        n = self.config["sampling"]["samples"]
        value = float(self.statistic(metric, steps, np.ones((1, n)))[0])
        again = self.resampled(metric, steps)
        top = 1.0 if metric in ("coverage", "agreement") else np.inf
        low, high = np.clip(np.quantile(again - again.mean() + value, [0.025, 0.975]), 0.0, top)
        return Estimate(value, float(low), float(high), n)

    def difference(self, other: Evaluation, metric: str, steps: int) -> Estimate:
        """self - other, paired by sample id.

        Raises:
            InputError: the two protocols differ; the message says in what.
        """
        mine, theirs = self.protocol(steps), other.protocol(steps)
        unlike = [key for key in mine if key != "model" and mine[key] != theirs[key]]
        if unlike:
            raise InputError(
                f"{self.path} and {other.path} differ in {unlike[0]}: {mine[unlike[0]]} and {theirs[unlike[0]]}"
            )
        n = self.config["sampling"]["samples"]
        ones = np.ones((1, n))
        value = float((self.statistic(metric, steps, ones) - other.statistic(metric, steps, ones))[0])
        again = self.resampled(metric, steps) - other.resampled(metric, steps)
        low, high = np.quantile(again - again.mean() + value, [0.025, 0.975])
        return Estimate(value, float(low), float(high), n)

    def protocol(self, steps: int) -> dict[str, Any]:
        """What a number depends on."""
        sampling = self.config["sampling"]
        return {
            "model": self.config["model"],
            "n": sampling["samples"],
            "n_real": self.facts["n_real"],
            "steps": steps,
            "nfe": self.facts["nfe"][str(steps)],
            "sampler": sampling["sampler"],
            "guidance": sampling["guidance"],
            "seed": sampling["seed"],
            "shift": sampling["shift"],
            "features": self.facts["features"],
            "reference": self.facts["reference"],
            "quantiser": self.facts["quantiser"],
            "labels": self.facts["labels"],
            "remedy": self.config.get("remedy"),
        }

    def result(self) -> dict[str, Any]:
        """Metrics with intervals and protocol: of the most steps, and of every step count."""
        by_steps = {
            str(steps): {
                "metrics": {metric: canonical(self.estimate(metric, steps)) for metric in self.metrics},
                "protocol": self.protocol(steps),
                "memorisation": self.facts["memorisation"][str(steps)],
            }
            for steps in self.steps
        }
        return {**by_steps[str(max(self.steps))], "by_steps": by_steps}
