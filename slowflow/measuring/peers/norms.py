"""norms: the norm curve of Epsilon Scaling, for the velocity and for the noise prediction.

    ratio(t) = mean |network(state met in sampling, t)| / mean |network(genuine state, t)|

1 for a perfect model, because its states have the law of genuine states. The null is not taken from that sentence: the
same network is evaluated on the states of a perfect model (kind `exact`), and their ratio stands in the columns `*_null`.

lambda(t) = mean |noise_hat| on the model's states / on a perfect model's states is the number by which Epsilon Scaling
would divide the noise prediction at this time alone. Both start from the same noise, so the interval is a paired one.
The authors' constants are smaller (1.004 to 1.017 on ADM), because a scale acts on all later steps as well. One scalar
is blind to direction, and a coarse solver alone moves it to either side of 1.

Cost: one network call a state gives both norms, so 3 kinds x TIMES / SHARE = 3 x 6 / 8 = 2.25 calls a sample, 4.5 % of
the 50 calls of bare sampling with Euler (11 % of 20). The FIRST samples, always taken, add at most 3 x 6 x 8 calls in all.
Source: Ning et al. 2024, Elucidating the Exposure Bias in Diffusion Models (Epsilon Scaling, arXiv 2308.15321);
the null and the intervals are SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from slowflow.errors import InputError
from slowflow.flow.generate import state_dtype
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import Predictor, combine
from slowflow.measuring.bootstrap import RESAMPLES, interval, mean_curve, weights
from slowflow.measuring.peers.base import MEASURES
from slowflow.measuring.references.base import Start, Trajectories

TIMES = 6
SHARE = 8
"""One trajectory in this many is looked at."""
FIRST = 8
"""Samples with ids below this are always looked at."""
GOLDEN = (5**0.5 - 1) / 2


class Norms:
    """Mean norms of the network's output on few states, over those on genuine states."""

    start: Start = "noise"
    kinds: tuple[str, ...] = ("model", "genuine", "exact")

    def observe(self, batch: Trajectories, model: Predictor) -> dict[str, np.ndarray]:
        """`velocity` and `noise` [picked, times], norms / sqrt(d); `ids` [picked]; `t` [1, times]."""
        rows, at = picked(batch.ids), times(batch.grid)
        norms = np.empty((2, len(rows), len(at)))
        for k, column in enumerate(at if len(rows) else []):
            norms[:, :, k] = _outputs(model, batch.states[rows, column], batch.labels[rows], float(batch.grid[column]))
        return {"velocity": norms[0], "noise": norms[1], "ids": batch.ids[rows], "t": batch.grid[None, at]}

    def table(self, stored: Mapping[str, Mapping[str, np.ndarray]], path: Interpolant, seed: int) -> pd.DataFrame:
        """One row a time: velocity_ratio, noise_ratio, each with `_null`, and lambda; NaN for a null not measured.

        Raises:
            InputError: model or genuine states were not measured.
        """
        missing = [kind for kind in ("model", "genuine") if kind not in stored]
        if missing:
            raise InputError(f"'norms' compares model and genuine states; '{missing[0]}' was not measured")
        columns: dict[str, np.ndarray | float] = {"t": stored["model"]["t"][0]}
        for what in ("velocity", "noise"):
            below = _resampled(stored["genuine"], what, seed, "norms/genuine")
            for kind, suffix in (("model", ""), ("exact", "_null")):
                above = _resampled(stored.get(kind), what, seed, "norms")
                columns |= _with_interval(f"{what}_ratio{suffix}", above, below)
        pair = [_resampled(stored.get(kind), "noise", seed, "norms") for kind in ("model", "exact")]
        return pd.DataFrame(columns | _with_interval("lambda", pair[0], pair[1]))


def picked(ids: np.ndarray) -> np.ndarray:
    """Rows that are looked at: ids below FIRST and one in SHARE of the others, evenly spread over ids and classes.

    Multiples of the golden ratio fill the unit interval evenly; the choice depends on the id alone, not on the batch.
    """
    return np.flatnonzero((ids < FIRST) | ((ids * GOLDEN) % 1.0 < 1.0 / SHARE))


def times(grid: np.ndarray) -> np.ndarray:
    """Columns that are looked at. The last time is left out: no network is asked there."""
    return np.unique(np.linspace(0, len(grid) - 2, TIMES).round().astype(np.int64)) if len(grid) > 1 else np.arange(0)


@torch.no_grad()
def _outputs(model: Predictor, states: np.ndarray, labels: np.ndarray, t: float) -> np.ndarray:
    """Norms of (velocity, noise) over sqrt(d): [2, n]."""
    device = getattr(model, "device", torch.device("cpu"))
    state = torch.from_numpy(states).to(device, state_dtype(device)).reshape(-1, *model.shape)
    time = torch.tensor(t, dtype=torch.float64, device=device)
    data, noise = model.predict(state, time, torch.from_numpy(labels).to(device))
    velocity = combine(model.interpolant, data, noise, time.to(state.dtype))
    norms = [out.flatten(1).to("cpu", torch.float64).square().mean(1).sqrt().numpy() for out in (velocity, noise)]
    return np.stack(norms)


def _resampled(kind: Mapping[str, np.ndarray] | None, what: str, seed: int, purpose: str) -> np.ndarray | None:
    """Mean norms at each time, of everyone in the first row and of each resample below: [1 + resamples, times]."""
    if kind is None:
        return None
    n = len(kind[what])
    return mean_curve(kind[what], np.concatenate([np.ones((1, n)), weights(n, RESAMPLES, seed, purpose)]))


def _with_interval(name: str, above: np.ndarray | None, below: np.ndarray | None) -> dict[str, np.ndarray | float]:
    if above is None or below is None:
        return {f"{name}{end}": np.nan for end in ("", "_low", "_high")}
    ratio = above / below
    low, high = interval(ratio[1:])
    return {name: ratio[0], f"{name}_low": low, f"{name}_high": high}


MEASURES.register(
    "norms",
    summary="norms of the network's output on sampled over genuine states; 1 for a perfect model",
    source="Ning et al. 2024, Epsilon Scaling (arXiv 2308.15321)",
)(Norms())
