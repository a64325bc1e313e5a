"""Estimators of gamma from slack r = (t - m) / t, each with its resamples. NumPy arrays in, numbers with intervals out.

mean      2 sum_t w_t (mean r of the states - mean r of the null), for slack uniform on [0, gamma]
spread    sqrt(12 sum_t w_t (variance of the states - variance of the null)), the same width read off the variance
quantile  gamma such that a share tau of the states has t - m <= gamma t; raw, no null taken off

The mean needs only means over trajectories, so clocks have it too; the others need an m for every state (`Slack`).
Weights are w_t = 1 / variance of the null's slack, from T_MIN on: near the noise r is all error. A time at which the
null scatters beyond a limit is left out, so that a reading that is blind there does not enter.
Source: MixFlow (arXiv 2512.19311) for the model of slack; the estimators are SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from slowflow.measuring.bootstrap import LEVEL, RESAMPLES, total, weights
from slowflow.measuring.slack import Reading, Slack, everyone
from slowflow.records import Estimate

T_MIN = 0.3
END = 1.0 - 1e-9
"""Times from here on do not enter where there are others: no noise is left, m is pinned or clipped at the end."""
BLIND = 0.5
"""Null scatter of one state's slack above which a time is left out: such a state cannot tell t from t / 2."""
BLIND_MEAN = 0.1
"""The same for a clock, where one state says nothing: standard error of the null's mean slack."""
PINNED = 1e-6
"""Share of the median variance below which a null cannot move at a time (a clipped clock, a pinned end): left out."""
NO_SCATTER = 1e-10
"""Median variance of a null that shows rounding only (genuine states under `own`): all its times weigh alike."""
APART = ("genuine", "seen")
"""Kinds drawn by themselves; all others start from the same noise and are resampled together."""


class Draws:
    """Resamples of whole trajectories, made once for every purpose and number of trajectories."""

    def __init__(self, seed: int, resamples: int = RESAMPLES) -> None:
        self._seed, self._resamples = seed, resamples
        self._made: dict[tuple[str, int], np.ndarray] = {}

    def of(self, kind: str, n: int) -> np.ndarray:
        """[resamples, n]; equal for kinds on the same noise, so that their difference is a paired one."""
        key = (kind if kind in APART else "model", n)
        if key not in self._made:
            self._made[key] = weights(n, self._resamples, self._seed, key[0], np.uint16)
        return self._made[key]


def with_interval(value: float, resampled: np.ndarray, n: int, level: float = LEVEL) -> Estimate:
    """A value with its percentile interval."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Estimate(float(value), float(low), float(high), n)


def calibrate(null: Reading) -> tuple[np.ndarray, np.ndarray]:
    """(weights [time] that sum to 1, which times were left out as blind [time]).

    Zero below T_MIN and at the end. Where every time is blind none is left out, and `blind` says so.
    """
    late = null.t >= min(T_MIN, null.t.max())
    if (late & (null.t < END)).any():
        late &= null.t < END
    variance = null.variance()
    middle = float(np.median(variance[late]))
    if middle <= NO_SCATTER:
        return late / late.sum(), np.zeros_like(late)
    moves = late & np.isfinite(variance) & (variance > PINNED * middle)
    limit = BLIND**2 if isinstance(null, Slack) else BLIND_MEAN**2 * len(null)
    blind = moves & (variance > limit)
    kept = moves & ~blind if (moves & ~blind).any() else moves
    weight = np.zeros_like(variance)
    weight[kept] = 1.0 / np.maximum(variance[kept], 0.01 * np.median(variance[kept]))
    return weight / weight.sum(), blind


def time_weights(null: Reading) -> np.ndarray:
    """Inverse variance of the null's slack at each time, zero where nothing can be read, summing to 1."""
    return calibrate(null)[0]


@dataclass(frozen=True)
class Curves:
    """Mean slack by time of every kind under one reading, at the times that enter, with resamples.

    Args:
        name: of the reading.
        kept: [kept], indices of those times. t: [kept]. weight: [kept], sums to 1.
        blind: times left out because the null scatters too much, or all late times where all do.
        n: kind -> trajectories. mean: kind -> [kept]. resampled: kind -> [resamples, kept].
    """

    name: str
    kept: np.ndarray
    t: np.ndarray
    weight: np.ndarray
    blind: np.ndarray
    n: dict[str, int]
    mean: dict[str, np.ndarray]
    resampled: dict[str, np.ndarray]

    def gap(self, kind: str, null: str) -> tuple[float, np.ndarray]:
        """2 (mean slack of a kind - of a null) over all times, and its resamples."""
        point, drawn = self.mean[kind] - self.mean[null], self.resampled[kind] - self.resampled[null]
        return float(2.0 * point @ self.weight), 2.0 * drawn @ self.weight

    def excess(self, kind: str, null: str, level: float = LEVEL) -> Estimate:
        """The gap with its interval."""
        return with_interval(*self.gap(kind, null), min(self.n[kind], self.n[null]), level)

    def free(self, kind: str, null: str) -> list[Estimate]:
        """gamma(t) = 2 (mean slack of a kind - of a null), each time by itself."""
        point = 2.0 * (self.mean[kind] - self.mean[null])
        drawn, n = 2.0 * (self.resampled[kind] - self.resampled[null]), min(self.n[kind], self.n[null])
        return [with_interval(float(p), d, n) for p, d in zip(point, drawn.T, strict=True)]

    def isotonic(self, kind: str, null: str) -> np.ndarray:
        """gamma(t) whose lag gamma(t) t / 2 = t - m never shrinks with t: [kept]. Weights 1 / variance of m."""
        lag = self.t * (self.mean[kind] - self.mean[null])
        return np.asarray(2.0 * isotonic_regression(lag, weights=self.weight / self.t**2).x / self.t)


def mean_curves(name: str, kinds: Mapping[str, Reading], draws: Draws) -> Curves:
    """Mean slack of every kind under one reading; genuine states, else a perfect model, set weights and times.

    Genuine states without scatter (`own`) cannot set them where a perfect model can.
    """
    nulls = [kinds[kind] for kind in ("genuine", "exact", "model") if kind in kinds]
    scattered = [null for null in nulls if np.median(null.variance()) > NO_SCATTER]
    weight, blind = calibrate((scattered or nulls)[0])
    kept = np.flatnonzero(weight)
    t = nulls[0].t
    return Curves(
        name=name,
        kept=kept,
        t=t[kept],
        weight=weight[kept],
        blind=t[blind & (t < 1.0)],  # at the end of the path no noise is left to read, which is no fault
        n={kind: len(one) for kind, one in kinds.items()},
        mean={kind: one.mean_slack(everyone(one))[0, kept] for kind, one in kinds.items()},
        resampled={kind: one.mean_slack(draws.of(kind, len(one)))[:, kept] for kind, one in kinds.items()},
    )


def variance_curve(r: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Unbiased variance over trajectories in each resample: r [n, time], drawn [resamples, n] -> [resamples, time].

    1 - sum of squared shares is (n-1)/n for equal weights and ((n-1)/n)^2 on average for a resample, which is what each
    of them loses; without it a null of few states would look narrower than the model.
    """
    n = drawn.sum(axis=1, keepdims=True).astype(np.float64)
    centred = r - r.mean(axis=0)  # the variance does not change, its rounding does
    square, mean = np.split(total(drawn, np.hstack([centred**2, centred])) / n, 2, axis=1)
    biased = np.maximum(square - mean**2, 0.0)
    lost = np.array([[np.square(row, dtype=np.float64).sum()] for row in drawn]) / n**2
    return np.asarray(biased / np.maximum(1.0 - lost, 1e-9))


def spread(model: Slack, null: Slack, curves: Curves, drawn: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """Width from the excess variance, signed, and its resamples.

    Args:
        model, null: slack. curves: times and weights. drawn: resamples of the model and of the null.
    """

    def width(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = variance_curve(model.r[:, curves.kept], a) - variance_curve(null.r[:, curves.kept], b)
        gap = parts @ curves.weight
        return np.asarray(np.sign(gap) * np.sqrt(12.0 * np.abs(gap)))

    return float(width(everyone(model), everyone(null))[0]), width(*drawn)


def quantile_edges(slack: Slack, drawn: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """gamma such that a share of the points has t - m <= gamma t: [levels, resamples].

    Quantile regression of t - m on t through the origin. Its solution is the weighted quantile of the ratios r with
    weights t.
    """
    ratios = slack.r.ravel()
    order = np.argsort(ratios, kind="stable")
    owner = np.repeat(np.arange(len(slack.m)), slack.m.shape[1])[order]
    share = np.broadcast_to(slack.t, slack.m.shape).ravel()[order]
    places = [_crossing(owner, share, drawn, level) for level in levels]
    return ratios[order][np.stack(places)]


def _crossing(owner: np.ndarray, share: np.ndarray, drawn: np.ndarray, level: float) -> np.ndarray:
    """First place at which the running mass reaches `level` of the whole, in each resample: [resamples].

    Resamples cross near one another, so the mass up to a window around the middle comes from one product over
    trajectories and only the window is run through; it grows until every resample crosses inside.

    Args:
        owner, share: [points], trajectory and weight of every point, in order.
    """
    n, points = drawn.shape[1], len(owner)
    goal = level * total(drawn, np.bincount(owner, weights=share, minlength=n))
    running = np.cumsum(share)
    middle = int(np.searchsorted(running, level * running[-1]))
    reach = int(points * 3.0 / np.sqrt(n)) + 1
    while True:
        low, high = max(middle - reach, 0), min(middle + reach, points)
        before = total(drawn, np.bincount(owner[:low], weights=share[:low], minlength=n))
        within = total(drawn, np.bincount(owner[low:high], weights=share[low:high], minlength=n))
        if (low == 0 or (before < goal).all()) and (high == points or (before + within >= goal).all()):
            break
        reach *= 2
    inside, mass = owner[low:high], share[low:high]
    found = [
        low + np.searchsorted(np.cumsum(row[inside] * mass), g) for row, g in zip(drawn, goal - before, strict=True)
    ]
    return np.minimum(found, points - 1)


def log_snr_gap(
    excess: Estimate, curves: Curves, log_snr: Callable[[np.ndarray], np.ndarray] | None
) -> Estimate | None:
    """Mean of log SNR(t) - log SNR(m) at m = t (1 - gamma/2), the mean slowed timestep that an excess gamma stands for.

    Same times and weights as the excess, without those where t or m reaches 1 at any end of the interval (log SNR is
    infinite there). Rises with gamma, so the ends of the interval carry over. Unlike gamma it survives a warp of time.
    """
    if log_snr is None:
        return None
    gammas = np.array([excess.value, excess.low, excess.high])
    m = curves.t * (1.0 - gammas[:, None] / 2.0)
    inside = (curves.t < 1.0) & ((m > 0.0) & (m < 1.0)).all(axis=0)
    if not inside.any():
        return None
    gaps = [log_snr(curves.t[inside]) - log_snr(row[inside]) for row in m]
    value, low, high = (float(np.average(gap, weights=curves.weight[inside])) for gap in gaps)
    return Estimate(value, low, high, excess.n) if np.isfinite([value, low, high]).all() else None
