"""The sweep over gamma at one setting: a value for every gamma and seed, and what a difference between gammas is worth.

Under seed s every gamma sees the same images, noise and sample ids, so v[g, s] = mu_g + beta_s + e[g, s]: whatever a seed
does to all gammas alike drops out of differences. Gammas differ in how much they vary (a larger distance varies more), and two
or three seeds of one gamma say next to nothing about that; samples alone make row g vary by i_g, which the paired bootstrap
knows, so that only one factor is left to estimate, from the residuals of the two-way table of K rows:

    sigma_g^2 = phi i_g,    phi = max(1, sum (v[g,s] - v[g,.] - v[.,s] + v[.,.])^2 / ((K - 1)(S - 1) mean i_g))

It holds training and sampling alike. With one seed there are no residuals; the paired bootstrap over samples is used alone,
which knows nothing of training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from slowflow.errors import InputError
from slowflow.records import HIGHER_IS_BETTER
from slowflow.sweep.folder import CONTROL, SWEPT, StudyResult


@dataclass(frozen=True)
class Sweep:
    """Values over gamma and seeds, turned so that lower is better.

    Args:
        gammas: [gamma], ascending.
        values: [row, seed]; a row is a gamma, and the last one training without a correction where that is beside them.
        draws: [row, seed, resample], paired over rows within a seed; may be biased, only their spread is used.
        metric: whose values they are. sign: -1 where they were turned.
    """

    gammas: np.ndarray
    values: np.ndarray
    draws: np.ndarray
    metric: str = "fd"
    sign: float = 1.0

    def __post_init__(self) -> None:
        k, s = self.values.shape
        if len(self.gammas) < 2 or k - len(self.gammas) not in (0, 1) or self.draws.shape[:2] != (k, s):
            raise InputError(f"a sweep of {len(self.gammas)} gammas with values {self.values.shape}; at least 2 gammas")
        if np.any(np.diff(self.gammas) <= 0):
            raise InputError(f"the gammas of a sweep must ascend, got {self.gammas.tolist()}")

    @property
    def seeds(self) -> int:
        """How many seeds."""
        return int(self.values.shape[1])

    @property
    def mean(self) -> Float[np.ndarray, " row"]:
        """Mean over seeds."""
        return self.values.mean(axis=1)

    @property
    def swept(self) -> Sweep:
        """The gammas alone."""
        k = len(self.gammas)
        return self if len(self.values) == k else replace(self, values=self.values[:k], draws=self.draws[:k])

    @property
    def best(self) -> int:
        """Index of the gamma with the lowest mean."""
        return int(np.argmin(self.mean[: len(self.gammas)]))

    @cached_property
    def inside(self) -> Float[np.ndarray, " row"]:
        """i_g: variance that samples alone give a row, beyond what they do to all rows alike.

        With w_g the variance of draws less their mean over rows, w_g = i_g (1 - 2 / K) + sum i / K^2, which is solved for i_g
        (two rows cannot be told apart and share it). None is taken below a twentieth of the mean: it comes from a difference.
        """
        k = len(self.values)
        seen = (self.draws - self.draws.mean(axis=0)).var(axis=2, ddof=1).mean(axis=1)
        mean = float(seen.sum()) / (k - 1)
        if k == 2:
            return np.full(k, mean)
        return np.maximum((seen - mean / k) / (1.0 - 2.0 / k), mean / 20.0)

    @cached_property
    def variance(self) -> tuple[Float[np.ndarray, " row"], float]:
        """(variance of e by row, degrees of freedom) of a table with two seeds or more.

        A few seeds can agree by chance; the paired bootstrap says how much samples alone make them differ, and the variance
        is never taken to be smaller. Where the bootstrap decides, its freedom counts as infinite.
        """
        k, s = self.values.shape
        rest = self.values - self.values.mean(axis=1, keepdims=True) - self.values.mean(axis=0) + self.values.mean()
        found, inside = float((rest**2).sum() / ((k - 1) * (s - 1))), float(self.inside.mean())
        if found <= inside:
            return self.inside, np.inf
        by_row = self.inside * found / inside if inside > 0.0 else np.full(k, found)
        return by_row, float((k - 1) * (s - 1))

    @property
    def freedom(self) -> float:
        """Degrees of freedom behind the covariance."""
        return np.inf if self.seeds == 1 else self.variance[1]

    def covariance(self) -> Float[np.ndarray, "row row"]:
        """Of the means, up to a part that all rows share and that no difference sees."""
        if self.seeds == 1:
            return np.atleast_2d(np.cov(self.draws[:, 0, :]))
        return np.diag(self.variance[0] / self.seeds)

    def errors(self, draw: np.random.Generator, size: tuple[int, ...]) -> Float[np.ndarray, "*size row"]:
        """Errors of the means, normal, their scale as uncertain as the freedom says (one scale a first index)."""
        found = draw.multivariate_normal(np.zeros(len(self.values)), self.covariance(), size=size, method="eigh")
        if np.isinf(self.freedom):
            return np.asarray(found)
        scale = np.sqrt(self.freedom / draw.chisquare(self.freedom, size=size[0]))
        return np.asarray(found * scale.reshape(-1, *[1] * len(size)))

    def holds(self, gamma: float) -> bool:
        """True where the metric at `gamma` can be read off."""
        return bool(self.gammas[0] <= gamma <= self.gammas[-1])

    def weights(self, gamma: float | None) -> Float[np.ndarray, " row"]:
        """Weights that read a value at `gamma` off the sweep: linear between neighbours, no reading outside it.

        Args:
            gamma: in the sweep; None = training without a correction.

        Raises:
            InputError: gamma outside the sweep, or no such training beside it.
        """
        if gamma is None:
            if len(self.values) == len(self.gammas):
                raise InputError("this sweep has no training without a correction beside it")
            return np.eye(len(self.values))[-1]
        if not self.holds(gamma):
            raise InputError(f"gamma {gamma:.3f} lies outside the sweep, {self.gammas[0]:g} to {self.gammas[-1]:g}")
        return np.array([np.interp(gamma, self.gammas, row[: len(self.gammas)]) for row in np.eye(len(self.values))])


def sweep_of(
    result: StudyResult, metric: str, length: int, budget: int, group: str = SWEPT, *, control: bool = False
) -> Sweep:
    """The sweep of one group of arms at one length and step count, on the seeds that every row has.

    Args:
        result: a study.
        metric, length, budget: the setting.
        group: arms that are swept.
        control: with plain training of the same length as the last row.

    Raises:
        InputError: fewer than two gammas, or no seed that all rows have.
    """
    rows = result.rows
    here = rows[(rows["metric"] == metric) & (rows["length"] == length) & (rows["budget"] == budget)]
    swept = here[(here["group"] == group) & here["gamma"].notna()].sort_values("gamma", kind="stable")
    gammas = swept["gamma"].unique()
    if len(gammas) < 2:
        raise InputError(
            f"{result.path} has no sweep of '{group}' at {length} steps: {len(gammas)} gammas are finished"
        )
    arms = [*swept["arm"].unique(), *([CONTROL] if control else [])]
    had = here[here["arm"].isin(arms)].groupby("seed")["arm"].nunique()
    seeds = [int(s) for s in had.index[had == len(arms)].tolist()]
    if not seeds:
        raise InputError(f"{result.path}: no seed of '{group}' is finished for every gamma yet")
    sign = -1.0 if HIGHER_IS_BETTER[metric] else 1.0
    values = here.pivot_table(index="arm", columns="seed", values="value").loc[arms, seeds].to_numpy()
    draws = [[result.draws(arm, s, metric, length, budget) for s in seeds] for arm in arms]
    return Sweep(gammas, sign * values, sign * np.array(draws), metric, sign)
