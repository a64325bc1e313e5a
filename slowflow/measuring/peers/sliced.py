"""sliced: the time whose genuine law is nearest to the law of the model's states, and how near it is.

    m(t) = argmin_m  W(m),     W(m)^2 = mean over K directions u of W_2( {u . state_t}, {u . x_m} )^2

x_m = alpha_m data + sigma_m noise are genuine; only u . data and u . noise are saved, which give every m. Laws are
compared, no state is paired with anything. W(m(t)) is what no m explains: the distance off the path. In one dimension
W_2 is the root mean square difference of sorted values. m runs over all of [0, 1]; `boundary` flags a time where it,
or its null, is an end of it.

W is positive at finite n and m is not quite t even for genuine states; the null says how much of each is that. Both are
computed at the same n by the same cross-over: model and genuine trajectories are cut in halves, and W^2 is the mean of
(model A against genuine B) and (model B against genuine A); its null puts genuine A and B in the model's place.
Resampling draws some trajectories twice and adds the same kind of distance once more, so the interval is the spread
of resamples about their mean, put around the estimate.

Random directions see little but the energy: m follows the amplitude of an off-path state. Where the energy of genuine
states turns (on the linear path at m = 1 / (1 + s^2) for data of variance s^2) two times have nearly the same law, m may
be either, and the interval is as wide; on variance-preserving paths with s = 1 it is so everywhere.
Source: sliced Wasserstein distance, Rabin et al. 2011; as a noise-level reading SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from slowflow import rng
from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import Predictor
from slowflow.measuring.bootstrap import interval
from slowflow.measuring.peers.base import MEASURES
from slowflow.measuring.references.base import Start, Trajectories

TIMES = 8
DIRECTIONS = 32
GRID = 65
RESAMPLES = 60

Halves = tuple[np.ndarray, np.ndarray]


class Sliced:
    """Sliced Wasserstein-2 distance between laws."""

    start: Start = "noise"
    kinds: tuple[str, ...] = ("model", "genuine")

    def observe(self, batch: Trajectories, model: Predictor) -> dict[str, np.ndarray]:
        """`states` [n, times, K] float32, `t` [1, times]; for genuine states also `data` and `noise` [n, K]."""
        at = np.unique(np.linspace(0, len(batch.grid) - 1, TIMES).round().astype(np.int64))
        along = directions(batch.seed, batch.states.shape[2])
        kept = {"states": (batch.states[:, at] @ along).astype(np.float32), "t": batch.grid[None, at]}
        if batch.kind == "genuine" and batch.datum is not None:
            kept["data"] = (batch.datum @ along).astype(np.float32)
            kept["noise"] = (batch.noise @ along).astype(np.float32)
        return kept

    def table(self, stored: Mapping[str, Mapping[str, np.ndarray]], path: Interpolant, seed: int) -> pd.DataFrame:
        """One row a time: m, distance, m_null, distance_null, excess = m - m_null, distance_at_t, boundary.

        Raises:
            InputError: model or genuine states were not measured, or fewer than 4 of one of them.
        """
        short = [kind for kind in self.kinds if len(stored.get(kind, {}).get("states", ())) < 4]
        if short:
            raise InputError(f"'sliced' compares at least 4 model and 4 genuine states; '{short[0]}' has fewer")
        t, genuine = stored["model"]["t"][0], stored["genuine"]
        size = min(len(stored[kind]["states"]) for kind in self.kinds) // 2
        rows = {kind: _halves(len(stored[kind]["states"]), size, seed, kind) for kind in self.kinds}
        laws = _Laws(stored["model"]["states"], genuine["states"], genuine["data"], genuine["noise"], path, t)
        found = laws.compare(rows)
        draw = rng.generator(seed, "sliced/bootstrap")
        again = [laws.compare(_redrawn(rows, draw)) for _ in range(RESAMPLES)]
        columns = {"t": t, "boundary": found.pop("boundary")}
        for name, value in found.items():
            resampled = np.stack([one[name] for one in again])
            low, high = interval(resampled - resampled.mean(axis=0))
            columns |= {name: value, f"{name}_low": value + low, f"{name}_high": value + high}
        return pd.DataFrame(columns)


class _Laws:
    """Projected states of both kinds, and genuine ones at every m.

    Args:
        model, genuine: [n, times, K]. data, noise: [n, K], of the genuine ones. path: the interpolant. t: [times].
    """

    def __init__(
        self,
        model: np.ndarray,
        genuine: np.ndarray,
        data: np.ndarray,
        noise: np.ndarray,
        path: Interpolant,
        t: np.ndarray,
    ) -> None:
        self.states = {"model": model, "genuine": genuine}
        self.data, self.noise = data, noise
        self.grid = np.linspace(0.0, 1.0, GRID)
        at = torch.from_numpy(np.concatenate([self.grid, t]))  # W at m = t needs the law there as well
        self.alpha, self.sigma = (f(at).numpy().astype(np.float32)[:, None, None] for f in (path.alpha, path.sigma))

    def compare(self, rows: Mapping[str, Halves]) -> dict[str, np.ndarray]:
        """m, distance, their nulls, the excess and the distance at m = t, each [times]; boundary: bool."""
        interpolations = [self._interpolations(half) for half in rows["genuine"]]
        m, distance, at_t, boundary = self._nearest("model", rows, interpolations)
        m_null, distance_null, _, boundary_null = self._nearest("genuine", rows, interpolations)
        return {
            "m": m,
            "distance": distance,
            "distance_at_t": at_t,
            "m_null": m_null,
            "distance_null": distance_null,
            "excess": m - m_null,
            "boundary": boundary | boundary_null,
        }

    def _interpolations(self, half: np.ndarray) -> np.ndarray:
        """Sorted u . x_m at every m: [grid + times, K n]."""
        values = self.alpha * self.data[half].T + self.sigma * self.noise[half].T
        return _sorted(values)

    def _nearest(
        self, kind: str, rows: Mapping[str, Halves], interpolations: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(m, W at m, W at t, whether m is an end of [0, 1]) of one kind against the other half of the genuine ones."""
        square = np.zeros((self.states[kind].shape[1], len(self.alpha)))
        for half, other in zip(rows[kind], reversed(interpolations), strict=True):
            square += 0.5 * _square_distance(_sorted(self.states[kind][half].transpose(1, 2, 0)), other)
        on_grid, at_t = square[:, :GRID], np.diagonal(square[:, GRID:])
        best = np.argmin(on_grid, axis=1)
        m, least = _parabola(self.grid, on_grid, best)
        return m, np.sqrt(np.maximum(least, 0.0)), np.sqrt(np.maximum(at_t, 0.0)), (best == 0) | (best == GRID - 1)


def directions(seed: int, d: int) -> np.ndarray:
    """[d, K], independent random unit vectors; the same for every kind and shard."""
    drawn = rng.generator(seed, "sliced/directions", d).standard_normal((d, DIRECTIONS))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=0))


def _sorted(values: np.ndarray) -> np.ndarray:
    """[..., K, n] -> [..., K n] float64, sorted along n. Sums of squares are taken in float64: they nearly cancel."""
    return np.sort(values, axis=-1).reshape(len(values), -1).astype(np.float64)


def _square_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean square difference of every row of one with every row of the other."""
    squares = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2.0 * (left @ right.T)
    return np.asarray(squares / left.shape[1])


def _parabola(grid: np.ndarray, values: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and value of the minimum of the parabola through three grid points; the grid point itself at the ends."""
    inner, pick = np.clip(best, 1, len(grid) - 2), np.arange(len(best))
    left, centre, right = (values[pick, inner + k] for k in (-1, 0, 1))
    curvature = left - 2.0 * centre + right
    shift = np.where(curvature > 0, 0.5 * (left - right) / np.where(curvature > 0, curvature, 1.0), 0.0)
    shift = np.where(best == inner, shift, best - inner)
    least = np.where(best == inner, centre - 0.25 * (left - right) * shift, values[pick, best])
    return grid[inner] + shift * (grid[1] - grid[0]), least


def _halves(n: int, size: int, seed: int, kind: str) -> Halves:
    """Two disjoint random sets of `size` of n rows."""
    order = rng.permutation(seed, f"sliced/{kind}", n)
    return order[:size], order[size : 2 * size]


def _redrawn(rows: Mapping[str, Halves], draw: np.random.Generator) -> dict[str, Halves]:
    """Each half resampled with replacement."""
    return {
        kind: (draw.choice(first, len(first)), draw.choice(second, len(second)))
        for kind, (first, second) in rows.items()
    }


MEASURES.register(
    "sliced",
    summary="time whose genuine law is nearest in sliced Wasserstein-2 distance, and the distance left there",
    source="sliced Wasserstein distance (Rabin et al. 2011); as a noise-level reading SlowFlow's",
)(Sliced())
