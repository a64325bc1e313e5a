"""The lag, divided among its causes. NumPy arrays in, estimates with intervals out.

Two kinds of runs give the relative band energies rho (1 = like genuine states, see `bands`):

    own       the model from noise to t_k, on its own states                            rho_k
    forced    the model from a *real* state at t_k to t_{k+1}, for every interval       r_k

For a field that is linear in every band energies multiply along the path, so the model run on real states only would
reach prod_{i<k} r_i. What it reaches on its own states beyond that is made by its own earlier output: exposure bias
proper. With an over-smoothed denoiser there is none, although its lag grows with the distance from the start; reading
the growth itself as accumulation would call most of a purely local error exposure bias.

Both are measured at three or more step sizes h and extrapolated to h = 0 (a polynomial through all of them, without the
terms that a method of the sampler's order does not have):

    lag(h) = steps + local + accumulation,    steps = lag(h) - lag(0),   local = forced(0),   accumulation = lag(0) - forced(0)

A perfect model on the same noise and images (the exact flow of the held-out images, extrapolated alike) is subtracted from
lag(0) and forced(0): it has no error of its own, so what it shows is chance, and most of that chance is the model's too.

Source: Richardson extrapolation; teacher forcing as in Bengio et al. 2015 (arXiv 1506.03099); the division is SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slowflow.measuring.bootstrap import LEVEL, mean_curve, weights
from slowflow.measuring.causes.bands import Node
from slowflow.measuring.estimators import with_interval
from slowflow.measuring.verdict import joint_level
from slowflow.records import Estimate

READINGS = ("signal clock", "noise clock", "level")
PARTS = ("steps", "local", "accumulation")
RESAMPLES = 300
T_MIN = 0.3
LEAST = 1e-6
SURE = 0.2
"""Least variance of a node, as a share of the median one, when nodes are weighted."""


@dataclass(frozen=True)
class Energies:
    """Band energies of one step count, all [n, node, 2, g] as `Bands.energies` gives them.

    Args:
        steps: intervals of the whole grid.
        own: states of the model run on its own output, at every node.
        forced: the model started at the previous node in a real state, at every node.
        genuine: the real states of the same noise and images, at every node.
        mean_energy: [g], of the class means.
        noise: [n, g], energy of the noise that the samples share, 1 on average: what it explains of an energy is taken
            out (control variate), which leaves means alone and most of their sampling error behind.
    """

    steps: int
    own: np.ndarray
    forced: np.ndarray
    genuine: np.ndarray
    mean_energy: np.ndarray
    noise: np.ndarray

    def relative(self, which: str, drawn: np.ndarray) -> np.ndarray:
        """[resample, node, g], energy of own or forced states over that of genuine ones."""
        ours, theirs = (self._variance(getattr(self, name), drawn) for name in (which, "genuine"))
        return np.maximum(ours, LEAST) / np.maximum(theirs, LEAST)

    def _variance(self, energy: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        known = self.noise - 1.0
        # least squares of each energy on that of the shared noise, group by group
        slope = np.einsum("ng,nkg->kg", known, energy[:, :, 0] - energy[:, :, 0].mean(axis=0)) / np.square(known).sum(
            axis=0
        )
        energy = np.concatenate([energy[:, :, :1] - (slope * known[:, None])[:, :, None], energy[:, :, 1:]], axis=2)
        mean = mean_curve(energy.reshape(len(energy), -1), drawn).reshape(-1, *energy.shape[1:])
        return np.asarray(mean[..., 0, :] - np.square(mean[..., 1, :]) * self.mean_energy)


def richardson(steps: Sequence[int], order: int) -> np.ndarray:
    """Weights [count] that take lags at these step counts to step size zero; they sum to 1.

    The polynomial 1, h^order, h^(order+1), ... through all points.

    Raises:
        ValueError: fewer than two step counts.
    """
    if len(steps) < 2:
        raise ValueError("one step count cannot be extrapolated")
    h = steps[0] / np.asarray(steps, dtype=np.float64)
    powers = np.concatenate([np.zeros(1), order + np.arange(len(steps) - 1)])
    return np.asarray(np.linalg.inv(h[:, None] ** powers)[0])


@dataclass(frozen=True)
class Division:
    """The lag of one reading in units of gamma, divided.

    Args:
        lag: at the reported step count. parts: steps, local, accumulation; they add up to it. shares: of the lag.
        joint: the lag with an interval that holds for all readings together. by_steps: lag at each step count.
        weight: [node], of the slack at each node; they sum to 2.
    """

    lag: Estimate
    joint: Estimate
    parts: dict[str, Estimate]
    shares: dict[str, Estimate]
    by_steps: dict[int, Estimate]
    weight: np.ndarray

    @property
    def clear(self) -> bool:
        """True when the lag is clear of zero at the joint level of all readings."""
        return self.joint.excludes(0.0)

    @property
    def strength(self) -> float:
        """|lag| in half-widths of its interval."""
        return abs(self.lag.value) / max((self.lag.high - self.lag.low) / 2.0, 1e-12)


def divided(
    runs: Sequence[Energies], nodes: Sequence[Node], order: int, seed: int, null: Sequence[Energies] = ()
) -> dict[str, Division]:
    """The division of every reading.

    Args:
        runs: one a step count, the reported one first, with the same samples.
        nodes: the times of the energies.
        order: of the sampler.
        seed: of the bootstrap.
        null: the same of a perfect model, whose lag at step size zero is taken off; none: nothing is.
    """
    n = len(runs[0].own)
    drawn = np.concatenate([np.ones((1, n)), weights(n, RESAMPLES, seed, "causes")])
    own = np.stack([_lags(run.relative("own", drawn), nodes) for run in runs])
    local = np.stack([_lags(_chained(run, drawn), nodes) for run in runs])
    # [count, resample, node, reading] -> [count, resample, reading], times weighted alike for every part
    late = np.array([node.t >= min(T_MIN, nodes[-1].t) for node in nodes])
    doubt = own[0, 1:].var(axis=0)
    # a clock that has run into an end of [0, 1] has no spread, and must not decide
    doubt = np.maximum(doubt, SURE * np.median(doubt[late], axis=0) + 1e-12)
    weight = np.where(late[:, None], 1.0 / doubt, 0.0)
    weight = 2.0 * weight / weight.sum(axis=0)
    own, local = (np.einsum("crnk,nk->crk", x, weight) for x in (own, local))
    to_zero = richardson([run.steps for run in runs], order)
    own0, local0 = (np.einsum("c,crk->rk", to_zero, x) for x in (own, local))
    if null:
        zero, zero_local = (
            np.einsum("c,crnk,nk->rk", to_zero, np.stack([_lags(of(run, drawn), nodes) for run in null]), weight)
            for of in (_own, _chained)
        )
        own, own0, local0 = own - zero, own0 - zero, local0 - zero_local
    found = {"steps": own[0] - own0, "local": local0, "accumulation": own0 - local0}
    counts = [run.steps for run in runs]
    return {
        reading: Division(
            lag=_estimate(own[0, :, k], n),
            joint=_estimate(own[0, :, k], n, joint_level(len(READINGS))),
            parts={name: _estimate(found[name][:, k], n) for name in PARTS},
            shares={name: _estimate(_share(found[name][:, k], own[0, :, k]), n) for name in PARTS},
            by_steps={count: _estimate(own[i, :, k], n) for i, count in enumerate(counts)},
            weight=weight[:, k],
        )
        for k, reading in enumerate(READINGS)
    }


def off_path(run: Energies, nodes: Sequence[Node], seed: int) -> tuple[Estimate, Estimate]:
    """(share of the divergence from genuine states that no single time m takes away, that divergence).

    The divergence is of Gaussians with these band energies, in nats, averaged over the late nodes. The share says nothing
    where the divergence is not clear of zero; 0 = the path fits, 1 = it does not.
    """
    n = len(run.own)
    drawn = np.concatenate([np.ones((1, n)), weights(n, RESAMPLES, seed, "causes")])
    relative = run.relative("own", drawn)
    late = [k for k, node in enumerate(nodes) if node.t >= min(T_MIN, nodes[-1].t)]
    misfit = np.mean([nodes[k].misfit(relative[:, k]) for k in late], axis=0)  # [resample, (at t, at the best m)]
    # resampling adds sampling noise to a divergence once more; what it adds is what the sample has added already
    added = misfit[1:].mean(axis=0) - misfit[0]
    freed = np.concatenate([misfit[:1] - added, misfit[1:] - 2.0 * added])
    ratio = np.clip(freed[:, 1] / np.maximum(freed[:, 0], LEAST), 0.0, 1.0)
    return _estimate(ratio, n), _estimate(freed[:, 0], n)


def _own(run: Energies, drawn: np.ndarray) -> np.ndarray:
    return run.relative("own", drawn)


def _chained(run: Energies, drawn: np.ndarray) -> np.ndarray:
    """Relative energies of a model that is asked on real states only: the product of its intervals."""
    return np.asarray(np.exp(np.cumsum(np.log(run.relative("forced", drawn)), axis=1)))


def _lags(relative: np.ndarray, nodes: Sequence[Node]) -> np.ndarray:
    """[resample, node, reading]."""
    return np.stack([node.lags(relative[:, k]) for k, node in enumerate(nodes)], axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(part / np.where(np.abs(whole) > LEAST, whole, np.nan))


def _estimate(values: np.ndarray, n: int, level: float = LEVEL) -> Estimate:
    """Point value first, then its resamples."""
    usable = values[1:][np.isfinite(values[1:])]
    if not len(usable) or not np.isfinite(values[0]):
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    return with_interval(float(values[0]), usable, n, level)
