"""Form a rule for the sign of MixFlow's effect on some worlds, judge it on others.

    P(help) = 1 / (1 + exp(-z)),   z = c_0 + sum_i c_i f_i     (logistic regression, a ridge on all but c_0)

Every cell whose effect is outside its interval counts once. The features are those of `slowflow.measuring.forecast`, so
that what is judged here is what the library says.
Source: Cox 1958 for the regression; le Cessie and van Houwelingen 1992 for the ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from knowntruth.table import sure
from slowflow import rng
from slowflow.measuring.forecast import Outlook, features

RIDGE = 1.0
TOOL, EXACT = "tool_", ""
"""Readings by the library's `level`, which a user has, and by the exact density, which only this study has."""
FORMED_ON = {"d": (16, 256), "kind": ("manifold", "white")}


def outlooks(table: pd.DataFrame, reading: str = TOOL) -> list[Outlook]:
    """What the forecast is told of each cell; reading: prefix of the columns, TOOL or EXACT."""
    columns = [table.gamma, table[f"{reading}level"], table[f"{reading}blur"], table.ratio]
    return [Outlook(gamma=g, level=m, blur=b, length=r) for g, m, b, r in zip(*columns, strict=True)]


def matrix(table: pd.DataFrame, reading: str = TOOL) -> np.ndarray:
    """Features [cell, feature]."""
    return np.array([features(one) for one in outlooks(table, reading)])


def formed(table: pd.DataFrame) -> pd.Series:
    """Cells the rule may be formed on: ordinary networks on fresh data in the worlds declared beforehand."""
    ordinary = ~table.reader & (table.data == 0)
    return ordinary & table.d.isin(FORMED_ON["d"]) & table.kind.isin(FORMED_ON["kind"])


def fit(x: np.ndarray, helps: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Coefficients [1 + feature], the first a constant; features are scaled to unit deviation inside, for the ridge."""
    scale = x.std(axis=0)
    wide = np.column_stack([np.ones(len(x)), x / scale])
    signs = np.where(helps, 1.0, -1.0)

    def cost(c: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (wide @ c)
        pull = np.r_[0.0, c[1:]]
        gradient = -(wide * (signs * expit(-margin))[:, None]).sum(0) + ridge * pull
        return float(np.logaddexp(0.0, -margin).sum() + 0.5 * ridge * (pull @ pull)), gradient

    c = minimize(cost, np.zeros(wide.shape[1]), jac=True, method="BFGS").x
    return np.r_[c[0], c[1:] / scale]


@dataclass(frozen=True)
class Score:
    """How well signs were foretold: share right, of helps and of hurts, and what always saying the commoner would get."""

    n: int
    right: float
    helps: int
    right_helps: float
    right_hurts: float
    constant: float


def score(said: np.ndarray, helps: np.ndarray) -> Score:
    """Compare signs; shares of an empty kind are nan."""
    hit = said == helps

    def share(rows: np.ndarray) -> float:
        return float(hit[rows].mean()) if rows.any() else float("nan")

    common = max(float(helps.mean()), 1 - float(helps.mean())) if len(helps) else float("nan")
    return Score(len(helps), share(np.ones(len(helps), bool)), int(helps.sum()), share(helps), share(~helps), common)


def clustered(hit: np.ndarray, clusters: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of a share of hits, resampling whole clusters: cells of one base share networks and noise."""
    names, index = np.unique(clusters, return_inverse=True)
    hits, sizes = np.bincount(index, hit), np.bincount(index)
    drawn = rng.generator(0, "clusters").integers(len(names), size=(draws, len(names)))
    low, high = np.quantile(hits[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def clear(table: pd.DataFrame, metric: str = "fd") -> pd.DataFrame:
    """Cells outside their interval, with the sign: helps."""
    found = table[sure(table, metric)].copy()
    return found.assign(helps=found[f"{metric}_effect"] < 0)
