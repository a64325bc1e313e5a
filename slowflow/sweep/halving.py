"""Successive halving over gamma: rungs, their cost, and the chance that the pick is wrong.

Rung r trains K / 2^r candidates to length L 2^r, along the same runs, judges each under every seed, and keeps the better
half, until one is left. A budget in network calls fixes L.

    The chance of a wrong pick. At its last rung a candidate's truth mu_g is known through a mean with noise; with the
    candidates' own spread tau (estimated from the rung, at least 0) the posterior of mu_g is normal, shrunk towards the
    rung's mean by tau^2 / (tau^2 + sigma^2). The pick is wrong when some candidate's truth beats the pick's at the rung
    where that candidate fell. It is assumed that a candidate which is worse at its rung stays worse later; where lengths
    reorder gammas the stated chance is too small. Where they do not, it errs on the safe side, because each rung is judged
    by itself (tests/sweep/test_halving.py: with spread 3 over noise 1 it says 0.25 and is wrong in 0.15).

Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943) for the rungs; the chance is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slowflow import rng
from slowflow.errors import InputError
from slowflow.sweep.grid import Sweep

DRAWN = 4000
LEAST = 10
"""Fewest steps of the first rung: fewer say nothing."""


@dataclass(frozen=True)
class Rung:
    """`candidates` runs, and `beside` that are never dropped, are trained up to `length` steps in all and judged."""

    candidates: int
    length: int
    beside: int = 0


def rungs(candidates: int, first: int, beside: int = 0) -> list[Rung]:
    """Halving from all candidates at `first` steps to the last two (or three), doubling the length."""
    found = [Rung(candidates, first, beside)]
    while found[-1].candidates > 3:
        found.append(Rung(-(-found[-1].candidates // 2), 2 * found[-1].length, beside))
    return found


def calls(plan: list[Rung], seeds: int, per_step: int, per_look: int) -> int:
    """Network calls of a plan: training along the same runs, and one look a candidate, rung and seed."""
    before = [0, *(rung.length for rung in plan)]
    return seeds * sum(
        (rung.candidates + rung.beside) * ((rung.length - done) * per_step + per_look)
        for rung, done in zip(plan, before, strict=False)
    )


def longest_plan(candidates: int, budget: int, seeds: int, per_step: int, per_look: int, beside: int = 0) -> list[Rung]:
    """The plan with the longest runs that the budget allows.

    Raises:
        InputError: even the shortest plan costs more; the message says how much.
    """
    least = calls(rungs(candidates, LEAST, beside), seeds, per_step, per_look)
    if least > budget:
        raise InputError(
            f"a budget of {budget:,} network calls is too small for {candidates} gammas: {LEAST} steps of post-training and "
            f"one look at each rung cost {least:,}; raise the budget, or try fewer gammas, samples or seeds"
        )
    a_step = calls(rungs(candidates, LEAST + 1, beside), seeds, per_step, per_look) - least
    return rungs(candidates, LEAST + (budget - least) // a_step, beside)


def survivors(sweep: Sweep, keep: int) -> np.ndarray:
    """Rows of the `keep` gammas with the lowest means, in order of gamma."""
    return np.sort(np.argsort(sweep.swept.mean, kind="stable")[:keep])


@dataclass(frozen=True)
class Doubt:
    """How sure a pick is.

    Args:
        wrong: posterior chance that some candidate beats the pick at the rung where it fell.
        loss: what the pick is expected to cost against the best of them there, in units of the metric.
    """

    wrong: float
    loss: float


def doubt(seen: list[Sweep], pick: float, seed: int = 0) -> Doubt:
    """How sure the pick is, given every rung.

    Args:
        seen: the rungs in order; each holds the candidates that were alive.
        pick: the gamma that won.
        seed: of the draws.
    """
    alive = [set(sweep.gammas.tolist()) for sweep in seen] + [{pick}]
    behind = np.zeros(DRAWN)
    for number, sweep in enumerate(one.swept for one in seen):
        truth = _posterior(sweep, rng.generator(seed, "halving", number))
        own = truth[:, sweep.gammas.tolist().index(pick)]
        fell = [i for i, gamma in enumerate(sweep.gammas.tolist()) if gamma not in alive[number + 1]]
        if fell:
            behind = np.maximum(behind, own - truth[:, fell].min(axis=1))
    return Doubt(float((behind > 0.0).mean()), float(behind.mean()))


def _posterior(sweep: Sweep, draw: np.random.Generator) -> np.ndarray:
    """Draws of the truths [DRAWN, gamma] given the rung's means: empirical Bayes, normal with normal.

    A truth drawn from the prior and an error drawn from the noise make a mean; the draw is corrected by what that mean
    misses (Matheron's rule), which keeps an uncertain scale of the noise uncertain.
    """
    mean, k = sweep.mean, len(sweep.mean)
    centre = np.eye(k) - 1.0 / k  # what all candidates share moves no comparison
    noise = centre @ sweep.covariance() @ centre
    spread = max(float(mean.var(ddof=1)) - float(np.trace(noise)) / (k - 1), 0.0)
    gain = spread * centre @ np.linalg.pinv(spread * centre + noise)
    prior = np.sqrt(spread) * draw.standard_normal((DRAWN, k)) @ centre
    missed = (mean - mean.mean()) - prior - sweep.errors(draw, (DRAWN,)) @ centre
    tie = (
        1e-9 * np.sqrt(np.trace(noise)) * draw.standard_normal((DRAWN, k))
    )  # a tie in truth is a toss, not a certainty
    return np.asarray(prior + missed @ gain + tie)
