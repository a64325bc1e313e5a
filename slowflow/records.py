"""Records that cross floors: what was asked, what was found. Frozen, validated when made, plain values inside."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from slowflow.errors import InputError

KINDS = ("model", "genuine", "exact", "coarse", "seen", "fine", "unguided")
"""model: the checkpoint's own states. genuine: real interpolations. exact: a perfect model with a fine solver.
coarse: the perfect model under the user's sampler and steps. seen: real interpolations of images of the bank itself.
fine: the checkpoint with a fine solver. unguided: the checkpoint without guidance, measured beside guided sampling."""
HIGHER_IS_BETTER = {
    "fd": False,
    "density": True,
    "coverage": True,
    "agreement": True,
    "sfd": False,
    "kid": False,
    "is": True,
    "precision": True,
    "recall": True,
}
"""Metrics of an evaluation in the order in which they are listed, and which way is up."""
DEFAULT_REFERENCES = ("own", "nearest", "level", "clocks")


BEST_AFTER = "best after "
"""What begins the name of the gamma that was best after a shorter training, as a pilot finds it."""


@dataclass(frozen=True)
class Estimate:
    """A number with its doubt.

    Args:
        value: the point estimate.
        low, high: ends of its 95 % interval.
        n: how many independent samples stand behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def excludes(self, number: float) -> bool:
        """True when `number` lies outside the interval."""
        return not self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def change_word(metric: str, difference: Estimate) -> str:
    """better, worse, or `no significant change` where the interval holds zero."""
    if not difference.excludes(0.0):
        return "no significant change"
    return "better" if (difference.value > 0) == HIGHER_IS_BETTER[metric] else "worse"


@dataclass(frozen=True)
class Probe:
    """What is measured together.

    Args:
        samples: number of trajectories, at least 2.
        steps: intervals of the sampling grid; the first is the one reported, others are measured beside it.
        sampler: registered name, such as euler or heun.
        references: which ground truth states are compared with; auto takes DEFAULT_REFERENCES, without those that need
            the starting noise where the sampler is stochastic.
        measures: measures of peers that are taken beside them (`slowflow ls measures`).
        guidance: scale of classifier-free guidance; 1 = none.
        seed: of noise and nulls.
        shift: further warp of the sampling grid, on top of the model's own.
        nulls: kinds measured beside the model.
        shard: samples a saved shard (and a batch) holds.
        backend: search engine: auto, faiss or torch; `approximate` is never chosen by itself, it biases m.
        bank: rows of the bank, 0 for all that the data give.
    """

    samples: int = 500
    steps: int | tuple[int, ...] = (50,)
    sampler: str = "euler"
    references: str | tuple[str, ...] = "auto"
    measures: tuple[str, ...] = ()
    guidance: float = 1.0
    seed: int = 0
    shift: float = 1.0
    nulls: tuple[str, ...] = ("genuine", "exact", "coarse", "seen")
    shard: int = 64
    backend: str = "auto"
    bank: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.samples <= 10_000_000:
            raise InputError(f"samples is {self.samples}, expected between 2 and 10,000,000")
        if isinstance(self.steps, int):
            object.__setattr__(self, "steps", (self.steps,))
        if not self.grids or any(not 1 <= s <= 100_000 for s in self.grids):
            raise InputError(f"steps is {list(self.grids)}, expected intervals between 1 and 100,000")
        if len(set(self.grids)) < len(self.grids):
            raise InputError(f"steps {list(self.grids)} names a number twice")
        if isinstance(self.references, str):
            object.__setattr__(self, "references", (self.references,))
        if not self.references:
            raise InputError("no reference was given")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"references {list(self.names)} names one twice")
        if not math.isfinite(self.guidance) or not 0.0 <= self.guidance <= 100.0:
            raise InputError(f"guidance is {self.guidance}, expected a scale between 0 and 100 (1 = none)")
        if not 0.1 <= self.shift <= 100.0:
            raise InputError(f"shift is {self.shift}, expected between 0.1 and 100")
        if self.bank < 0:
            raise InputError(f"bank is {self.bank}, expected a number of images, or 0 for all")
        if self.shard < 1:
            raise InputError(f"shard is {self.shard}, expected at least 1")
        for what, names in (("null", self.nulls), ("measure", self.measures)):
            if len(set(names)) < len(names):
                raise InputError(f"{what}s {list(names)} name one twice")
        unknown = [kind for kind in self.nulls if kind not in KINDS[1:]]
        if unknown:
            raise InputError(f"unknown null '{unknown[0]}' (known: {', '.join(KINDS[1:])})")

    @property
    def grids(self) -> tuple[int, ...]:
        """Every number of steps, as a tuple."""
        return (self.steps,) if isinstance(self.steps, int) else self.steps

    @property
    def names(self) -> tuple[str, ...]:
        """Every reference, as a tuple."""
        return (self.references,) if isinstance(self.references, str) else self.references


@dataclass(frozen=True)
class GammaFit:
    """gamma, how it was found, and whether a correction is called for.

    Args:
        gamma: the recommended width of the slowed interval, in [0, 1].
        method: the estimator it comes from: band, excess or pilot.
        estimates: every estimator by name.
        verdict: none detectable, detected, steps dominate, off path or fast.
        reason: one sentence.
        warnings: sentences that every table and figure repeats.
        band_reference, excess_reference: what the band and the excess were read from.
        time: the time variable gamma refers to.
        shape: interval, shift, jitter, fast or none: what the slack above genuine states looks like. shape_reason: why.
        log_snr_gap: mean of log SNR(t) - log SNR(m) at m = t (1 - excess gamma / 2), over the times of the excess.
        curve: rows (t, gamma(t), low, high), each time by itself. isotonic: rows (t, gamma(t)) whose lag never shrinks.
        tests: `reading: law` -> squared error on trajectories left out, as a share of predicting no lag.
        laws: reading -> the law that wins: none, gamma t, c h, or gamma t + c h.
        chosen: why this estimator, one sentence of clauses parted by "; ".
        outlook: what is foretold of MixFlow's effect on the samples, or that nothing is; empty where nothing is known.
    """

    gamma: float
    method: str
    estimates: dict[str, Estimate]
    verdict: str
    reason: str
    warnings: tuple[str, ...] = ()
    band_reference: str = "nearest"
    excess_reference: str = "level"
    time: str = "canonical t, 0 = noise, 1 = data"
    shape: str = "none"
    shape_reason: str = ""
    log_snr_gap: Estimate | None = None
    curve: tuple[tuple[float, float, float, float], ...] = ()
    isotonic: tuple[tuple[float, float], ...] = ()
    tests: dict[str, float] = field(default_factory=dict)
    laws: dict[str, str] = field(default_factory=dict)
    chosen: str = ""
    outlook: str = ""

    @property
    def reasons(self) -> list[str]:
        """`chosen`, clause by clause."""
        return [part for part in self.chosen.split("; ") if part]


def excess_key(estimates: Collection[str]) -> str | None:
    """The estimate that an excess is: over genuine states, else over a perfect model; None where no null was measured."""
    return next((name for name in ("excess_genuine", "excess_exact") if name in estimates), None)
