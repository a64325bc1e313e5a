"""delta: Epsilon Scaling's delta_t, over the null that it was published without.

    delta_t = ( mean over pixels of std over samples of [ state_t - alpha_t datum ] - sigma_t )^2

Sampling starts in a real interpolation at t about 0.05 and the datum is the image in it. Genuine states have delta = 0
(there the bracket is sigma_t noise), which suggests that 0 is what a perfect model has. It is not: a sampler that
starts in almost pure noise forgets the image and ends in another one of the same law, so that for a perfect model

    std^2 -> sigma_t^2 + alpha_t^2 Var(datum) + alpha_t^2 Var(the other image) = sigma_t^2 + 2 alpha_t^2 Var

per pixel, and delta at the end is about 2 Var: 0.5 for data of standard deviation 0.5, of the size of the published
curves. `*_null` is the same number of a perfect model started in the same states, `excess` the difference of the
signed roots (mean std - sigma); that difference, and nothing else here, speaks of the model.

Only sums over samples of 1, r and r^2 at each pixel are kept, one row a shard, so memory does not grow with the number of
samples. Intervals come from leaving out one shard at a time (jackknife, Student's t); with fewer than SHARDS shards
their ends are NaN, because too few numbers are left to vary. Model and null share noise and image by sample, so the
interval of the excess leaves out the same shard on both sides.
Source: Ning et al. 2024, Epsilon Scaling (arXiv 2308.15321), delta_t as in its code; the null is SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import Predictor
from slowflow.measuring.bootstrap import LEVEL
from slowflow.measuring.peers.base import MEASURES
from slowflow.measuring.references.base import Start, Trajectories

TIMES = 10
SHARDS = 4
"""Fewest shards an interval is made from."""


class Delta:
    """Spread of the state about its image, of late starts."""

    start: Start = "late"
    kinds: tuple[str, ...] = ("model", "exact", "coarse")

    def observe(self, batch: Trajectories, model: Predictor) -> dict[str, np.ndarray]:
        """`sums` [1, 3, times, d] of 1, r and r^2 over the samples, float64; `t` [1, times].

        Raises:
            InputError: the trajectories belong to no real image.
        """
        if batch.datum is None:
            raise InputError("'delta' needs trajectories that start in a real interpolation")
        at = np.unique(np.linspace(0, len(batch.grid) - 1, TIMES).round().astype(np.int64))
        sums = np.empty((3, len(at), batch.datum.shape[1]))
        for k, column in enumerate(at):
            alpha = float(batch.path.alpha(torch.tensor(batch.grid[column])))
            rest = batch.states[:, column] - alpha * batch.datum
            sums[:, k] = np.stack([np.ones_like(rest), rest, np.square(rest)]).sum(axis=1)
        return {"sums": sums[None], "t": batch.grid[None, at]}

    def table(self, stored: Mapping[str, Mapping[str, np.ndarray]], path: Interpolant, seed: int) -> pd.DataFrame:
        """One row a time: delta and its signed root, each with `_null` (exact) and `_coarse`, excess, shards.

        Raises:
            InputError: the model's states were not measured.
        """
        if "model" not in stored:
            raise InputError("'delta' was not measured on the model's states")
        t = stored["model"]["t"][0]
        sigma = path.sigma(torch.from_numpy(t)).numpy()
        columns: dict[str, np.ndarray | float] = {"t": t}
        left_out = {kind: _roots(stored[kind]["sums"], sigma) for kind in self.kinds if kind in stored}
        for kind, suffix in (("model", ""), ("exact", "_null"), ("coarse", "_coarse")):
            root, low, high = _jackknife(left_out[kind]) if kind in left_out else (np.full(len(t), np.nan),) * 3
            crosses = (low < 0) & (high > 0)
            columns |= {f"delta{suffix}": root**2}
            columns |= {f"delta{suffix}_low": np.where(crosses, 0.0, np.minimum(low**2, high**2))}
            columns |= {f"delta{suffix}_high": np.maximum(low**2, high**2)}
            columns |= {f"root{suffix}": root, f"root{suffix}_low": low, f"root{suffix}_high": high}
        excess = _difference(left_out["model"], left_out.get("exact"))
        columns |= dict(zip(("excess", "excess_low", "excess_high"), excess, strict=True))
        return pd.DataFrame({**columns, "shards": len(stored["model"]["sums"])})


def _roots(sums: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Mean over pixels of the std, less sigma: of all shards in the first row, without each one below: [1 + g, times]."""
    total = sums.sum(axis=0)
    without = [total - one for one in sums] if len(sums) >= SHARDS else []
    return np.stack([_root(one, sigma) for one in (total, *without)])


def _root(sums: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    count, first, second = sums
    variance = np.maximum(second - first**2 / count, 0.0) / np.maximum(count - 1.0, 1.0)
    return np.asarray(np.sqrt(variance).mean(axis=1) - sigma)


def _jackknife(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high) of everything in the first row and of what is left without each shard below it."""
    estimate, without = values[0], values[1:]
    groups = len(without)
    if groups == 0:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    error = np.sqrt((groups - 1) / groups * np.square(without - without.mean(axis=0)).sum(axis=0))
    reach = float(student.ppf(0.5 + LEVEL / 2.0, groups - 1)) * error
    return estimate, estimate - reach, estimate + reach


def _difference(model: np.ndarray, null: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jackknife of the difference, shard by shard; NaN without a null."""
    if null is None or null.shape != model.shape:
        return (np.full(model.shape[1], np.nan),) * 3
    return _jackknife(model - null)


MEASURES.register(
    "delta",
    summary="Epsilon Scaling's delta_t from late starts; about 2 Var of the data for a perfect model",
    source="Ning et al. 2024, Epsilon Scaling (arXiv 2308.15321)",
)(Delta())
