"""The sweep over gamma at one setting: a value for every gamma and seed, and what a difference between gammas is worth.

Under seed s every gamma sees the same images, noise and sample ids, so v[g, s] = mu_g + beta_s + e[g, s]: whatever a seed
does to all gammas alike drops out of differences. The variance of e is the residual of that two-way table,

    sigma^2 = sum (v[g,s] - v[g,.] - v[.,s] + v[.,.])^2 / ((K - 1)(S - 1)),

and holds training and sampling alike. With one seed there is no such residual; the paired bootstrap over samples is used
instead, which knows nothing of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from slowflow.errors import InputError
from slowflow.records import HIGHER_IS_BETTER
from slowflow.sweep.folder import StudyResult


@dataclass(frozen=True)
class Sweep:
    """Values over gamma and seeds, turned so that lower is better.

    Args:
        gammas: [gamma], ascending.
        values: [gamma, seed].
        draws: [gamma, seed, resample], paired over gammas within a seed; may be biased, only their spread is used.
        metric: whose values they are. sign: -1 where they were turned.
    """

    gammas: np.ndarray
    values: np.ndarray
    draws: np.ndarray
    metric: str = "fd"
    sign: float = 1.0

    def __post_init__(self) -> None:
        k, s = self.values.shape
        if k < 2 or len(self.gammas) != k or self.draws.shape[:2] != (k, s):
            raise InputError(f"a sweep of {len(self.gammas)} gammas with values {self.values.shape}; at least 2 gammas")
        if np.any(np.diff(self.gammas) <= 0):
            raise InputError(f"the gammas of a sweep must ascend, got {self.gammas.tolist()}")

    @property
    def seeds(self) -> int:
        """How many seeds."""
        return int(self.values.shape[1])

    @property
    def mean(self) -> Float[np.ndarray, " gamma"]:
        """Mean over seeds."""
        return self.values.mean(axis=1)

    @property
    def best(self) -> int:
        """Index of the gamma with the lowest mean."""
        return int(np.argmin(self.mean))

    @cached_property
    def variance(self) -> tuple[float, float]:
        """(variance of e, its degrees of freedom) of a table with two seeds or more.

        A few seeds can agree by chance; the paired bootstrap says how much samples alone make them differ, and the variance
        is never taken to be smaller. Where the bootstrap decides, its freedom counts as infinite.
        """
        k, s = self.values.shape
        rest = self.values - self.values.mean(axis=1, keepdims=True) - self.values.mean(axis=0) + self.values.mean()
        found = float((rest**2).sum() / ((k - 1) * (s - 1)))
        inside = float((self.draws - self.draws.mean(axis=0)).var(axis=2, ddof=1).sum() / ((k - 1) * s))
        return (found, float((k - 1) * (s - 1))) if found > inside else (inside, np.inf)

    @property
    def freedom(self) -> float:
        """Degrees of freedom behind the covariance."""
        return np.inf if self.seeds == 1 else self.variance[1]

    def covariance(self) -> Float[np.ndarray, "gamma gamma"]:
        """Of the means, up to a part that all gammas share and that no difference sees."""
        if self.seeds == 1:
            return np.atleast_2d(np.cov(self.draws[:, 0, :]))
        return np.eye(len(self.gammas)) * self.variance[0] / self.seeds

    def errors(self, draw: np.random.Generator, size: tuple[int, ...]) -> Float[np.ndarray, "*size gamma"]:
        """Errors of the means, normal, their scale as uncertain as the freedom says (one scale a first index)."""
        found = draw.multivariate_normal(np.zeros(len(self.gammas)), self.covariance(), size=size, method="eigh")
        if np.isinf(self.freedom):
            return np.asarray(found)
        scale = np.sqrt(self.freedom / draw.chisquare(self.freedom, size=size[0]))
        return np.asarray(found * scale.reshape(-1, *[1] * len(size)))

    def holds(self, gamma: float) -> bool:
        """True where the metric at `gamma` can be read off."""
        return bool(self.gammas[0] <= gamma <= self.gammas[-1])

    def weights(self, gamma: float) -> Float[np.ndarray, " gamma"]:
        """Weights that read a value at `gamma` off the sweep: linear between neighbours, no reading outside it.

        Raises:
            InputError: gamma outside the sweep.
        """
        if not self.holds(gamma):
            raise InputError(f"gamma {gamma:.3f} lies outside the sweep, {self.gammas[0]:g} to {self.gammas[-1]:g}")
        return np.array([np.interp(gamma, self.gammas, row) for row in np.eye(len(self.gammas))])


def sweep_of(result: StudyResult, metric: str, length: int, budget: int, group: str = "mixflow") -> Sweep:
    """The sweep of one group of arms at one length and step count, on the seeds that every gamma has.

    Raises:
        InputError: fewer than two gammas, or no seed that all of them have.
    """
    rows = result.rows
    here = rows[
        (rows["group"] == group)
        & (rows["metric"] == metric)
        & (rows["length"] == length)
        & (rows["budget"] == budget)
        & rows["gamma"].notna()
    ]
    arms = {float(g): str(arm) for g, arm in here[["gamma", "arm"]].itertuples(index=False)}
    if len(arms) < 2:
        raise InputError(f"{result.path} has no sweep of '{group}' at {length} steps: {len(arms)} gammas are finished")
    had = here.groupby("seed")["gamma"].nunique()
    seeds = [int(s) for s in had.index[had == len(arms)].tolist()]
    if not seeds:
        raise InputError(f"{result.path}: no seed of '{group}' is finished for every gamma yet")
    here = here[here["seed"].isin(seeds)]
    sign = -1.0 if HIGHER_IS_BETTER[metric] else 1.0
    values = here.pivot_table(index="gamma", columns="seed", values="value").loc[sorted(arms), seeds].to_numpy()
    draws = [[result.draws(arms[g], s, metric, length, budget) for s in seeds] for g in sorted(arms)]
    return Sweep(np.array(sorted(arms)), sign * values, sign * np.array(draws), metric, sign)
