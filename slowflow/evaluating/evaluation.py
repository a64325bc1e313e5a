"""Evaluation: a finished folder of features, read back as metrics with intervals and as paired differences.

Intervals resample generated samples; the reference images are taken as given. The extrapolation to infinite n resamples
both sides.
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
from slowflow.evaluating.extrapolate import to_infinity
from slowflow.evaluating.inception_score import inception_score
from slowflow.evaluating.kernel import squared_mmd
from slowflow.evaluating.moments import Moments, moments
from slowflow.io import checkpoint
from slowflow.io.run import read_manifest, whole_manifest
from slowflow.records import HIGHER_IS_BETTER as HIGHER_IS_BETTER
from slowflow.records import Estimate

RESAMPLES = 500
FEWEST = 10
"""Samples of which a resample is never one sample alone (once in a billion)."""
WIDE = 512
"""Features wider than this are not extrapolated unasked: 165 decompositions of their covariance take hours."""
PAGE = ("fd", "density", "coverage", "agreement")
PUBLISHED = ("fd", "sfd", "is", "precision", "recall")
"""What a page shows of an evaluation against held-out images, and of one against a reference file, as papers do."""
NEIGHBOURS = ("precision", "recall", "density", "coverage")
RANGE = {
    "kid": (-np.inf, np.inf),
    "is": (1.0, np.inf),
    "fd": (0.0, np.inf),
    "sfd": (0.0, np.inf),
    "density": (0.0, np.inf),
}
"""Where a metric can be; the others are shares."""


def feature_file(key: int | str) -> str:
    """File of the features of one step count, or of the real images."""
    return f"features/{key:05d}.safetensors" if isinstance(key, int) else f"features/{key}.safetensors"


def label(metric: str, features: str) -> str:
    """A metric's printed name: FID's names for FID's features alone, FD-mnist, KD-mnist and so on for all others."""
    stems = {"sfd": ("sFD", "sFID"), "kid": ("KD", "KID"), "is": ("IS", "IS")}
    if metric == "fd":
        return features
    if metric not in stems:
        return metric
    own, published = stems[metric]
    return published if features == "FID" else f"{own}-{features.removeprefix('FD-')}"


def features_label(asked: str) -> str:
    """The printed name of features as they were asked for, where no evaluation is at hand: `fd-digits` is `FD-digits`."""
    stem = asked.rsplit(":", 1)[-1].rsplit("/", 1)[-1]
    stem = stem[: stem.rindex(".")] if "." in stem else stem
    return f"FD-{stem[3:] if stem.lower().startswith('fd-') else stem}"


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

    def _reference(self, kind: str) -> Moments | np.ndarray | None:
        """What samples' features (or spatial ones) are at a distance from: moments of a file, else real features."""
        real = self._stored["real"]
        if f"{kind}_mean" in real:
            return Moments(real[f"{kind}_mean"], real[f"{kind}_covariance"], 0)
        return real.get(kind)

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        found = {kind: self._reference(kind) for kind in ("features", "spatial")}
        return {k: v if isinstance(v, Moments) else moments(v) for k, v in found.items() if v is not None}

    def must_fit(self) -> None:
        """Refuse moments of other features than those that were taken of the samples.

        Raises:
            InputError: the widths differ.
        """
        for kind, known in self._moments.items():
            made = self._stored[self.steps[0]].get(kind)
            if made is not None and made.shape[1] != len(known.mean):
                raise InputError(
                    f"the reference holds moments of {kind} of width {len(known.mean)}, {self.facts['features']['name']} has "
                    f"{made.shape[1]}; a reference file in ADM's layout needs --features inception:FILE"
                )

    @property
    def all_metrics(self) -> list[str]:
        """Metrics these samples, this reference and these features allow."""
        made, real = self._stored[self.steps[0]], self._stored["real"]
        near = min(len(made["features"]), len(real.get("features", ()))) > coverage.NEIGHBOURS
        several = len(made["features"]) >= FEWEST  # a resample that is one sample many times has no pairs
        allowed = {
            "sfd": "spatial" in made and "spatial" in self._moments,
            "kid": several and len(real.get("features", ())) >= 2,
            "is": "probabilities" in made,
            "agreement": "predicted" in made and bool(self.facts["labelled"]),
            **dict.fromkeys(NEIGHBOURS, near),
        }
        return [metric for metric in HIGHER_IS_BETTER if allowed.get(metric, True)]

    @property
    def metrics(self) -> list[str]:
        """The few that a page shows; no agreement without a classifier or without labels."""
        shown = PUBLISHED if "features_mean" in self._stored["real"] else PAGE
        return [metric for metric in self.all_metrics if metric in shown]

    def label(self, metric: str) -> str:
        """A metric's printed name."""
        return label(metric, self.facts["features"]["name"])

    @cached_property
    def _drawn(self) -> np.ndarray:
        """All samples once, then every resample."""
        return np.concatenate([np.ones((1, self.config["sampling"]["samples"])), self.resamples()])

    def resamples(self) -> np.ndarray:
        """Resamples of sample ids; a function of seed and n, so that arms on the same ids share them."""
        sampling = self.config["sampling"]
        n = sampling["samples"]
        draw = rng.generator(int(sampling["seed"]), "bootstrap/evaluate", n)
        return draw.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES).astype(np.float64)

    def _values(self, metric: str, steps: int) -> np.ndarray:
        """The metric of all samples, then of every resample: [1 + RESAMPLES], computed once."""
        if (metric, steps) not in self._again:
            if metric not in self.all_metrics:
                raise InputError(f"{self.path} does not allow '{metric}' (it has {', '.join(self.all_metrics)})")
            if metric in NEIGHBOURS:
                made, real = self._stored[steps]["features"], self._stored["real"]["features"]
                found = coverage.neighbourhood(real, made, self._drawn)
                self._again.update({(name, steps): getattr(found, name) for name in NEIGHBOURS})
            else:
                self._again[metric, steps] = self._computed(metric, steps)
        return self._again[metric, steps]

    def _computed(self, metric: str, steps: int) -> np.ndarray:
        made, drawn = self._stored[steps], self._drawn
        if metric == "fd":
            return frechet.resampled(made["features"], self._moments["features"], drawn)
        if metric == "sfd":
            return frechet.resampled(made["spatial"], self._moments["spatial"], drawn)
        if metric == "kid":
            return squared_mmd(made["features"], self._stored["real"]["features"], drawn)
        if metric == "is":
            return inception_score(made["probabilities"], drawn)
        hits = (made["predicted"] == made["labels"]).astype(np.float64)
        return np.asarray(drawn @ hits / drawn.sum(axis=1))

    def resampled(self, metric: str, steps: int) -> np.ndarray:
        """The metric in every resample [resamples]; arms on the same ids and seed share the resamples."""
        return self._values(metric, steps)[1:]

    def estimate(self, metric: str, steps: int) -> Estimate:
        """A metric with its interval, recentred on the estimate where resampling moves it.

        Raises:
            InputError: these samples do not allow the metric.
        """
        values = self._values(metric, steps)
        value, again = float(values[0]), values[1:]
        low, high = np.clip(np.quantile(again - again.mean() + value, [0.025, 0.975]), *RANGE.get(metric, (0.0, 1.0)))
        return Estimate(value, float(low), float(high), self.config["sampling"]["samples"])

    @cached_property
    def infinite(self) -> dict[int, Estimate]:
        """`at_infinity` by step count as it was computed when the run was finished; without those n did not allow."""
        summary = read_manifest(self.path, "evaluate")["result"].get("summary", {})
        found = {int(k): one["metrics"].get("fd_infinity") for k, one in summary.get("by_steps", {}).items()}
        return {steps: Estimate(**one) for steps, one in found.items() if one}

    def at_infinity(self, steps: int) -> Estimate | None:
        """The Frechet distance that infinitely many samples would have; None where n is too small to tell."""
        reference = self._reference("features")
        if reference is None:
            return None
        return to_infinity(self._stored[steps]["features"], reference, int(self.config["sampling"]["seed"]))

    def difference(self, other: Evaluation, metric: str, steps: int) -> Estimate:
        """self - other, paired by sample id.

        Raises:
            InputError: the two protocols differ; the message says in what.
        """
        self.must_be_like(other, steps)
        mine, theirs = self._values(metric, steps), other._values(metric, steps)
        value, again = float(mine[0] - theirs[0]), mine[1:] - theirs[1:]
        low, high = np.quantile(again - again.mean() + value, [0.025, 0.975])
        return Estimate(value, float(low), float(high), self.config["sampling"]["samples"])

    def must_be_like(self, other: Evaluation, steps: int, other_steps: int | None = None) -> None:
        """Refuse to be put beside an evaluation under another protocol.

        Args:
            other: the other evaluation.
            steps: whose protocol is looked at.
            other_steps: where the other's step count may be another; step counts and calls are then not compared.

        Raises:
            InputError: the protocols differ; the message says in what.
        """
        mine, theirs = self.protocol(steps), other.protocol(steps if other_steps is None else other_steps)
        free = {"model", "versions"} if other_steps is None else {"model", "versions", "steps", "nfe"}
        for key in [key for key in mine if key not in free and mine[key] != theirs[key]]:
            if key in ("ema", "dtype") and {"as stored", "not recorded"} & {mine[key], theirs[key]}:
                continue  # one of the two does not say
            raise InputError(f"{self.path} and {other.path} differ in {key}: {mine[key]} and {theirs[key]}")

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
            "ema": self.facts.get("ema", "not recorded"),
            "dtype": self.facts.get("dtype", "not recorded"),
            "features": self.facts["features"],
            "reference": self.facts["reference"],
            "quantiser": self.facts["quantiser"],
            "labels": self.facts["labels"],
            "remedy": self.config.get("remedy"),
            "versions": self.facts.get("versions", {}),
        }

    def result(self) -> dict[str, Any]:
        """Metrics with intervals and protocol: of the most steps, and of every step count."""
        by_steps = {str(steps): self._result(steps) for steps in self.steps}
        return {**by_steps[str(max(self.steps))], "by_steps": by_steps}

    def _result(self, steps: int) -> dict[str, Any]:
        metrics = {metric: canonical(self.estimate(metric, steps)) for metric in self.all_metrics}
        n, width = self._stored[steps]["features"].shape
        infinite = None if width > WIDE else self.at_infinity(steps)
        notes = []
        if infinite is not None:
            metrics["fd_infinity"] = canonical(infinite)
        elif width > WIDE:
            notes.append(f"FD at infinite n is not computed unasked for features wider than {WIDE}")
        else:
            notes.append(
                f"n = {n:,} is too small beside {width:,} features to tell how much of FD is there because of n"
            )
        return {
            "metrics": metrics,
            "notes": notes,
            "labels": {metric: self.label(metric) for metric in self.all_metrics},
            "protocol": self.protocol(steps),
            "memorisation": self.facts["memorisation"].get(str(steps), {}),
        }
