"""The edge of slack: gamma by maximum likelihood, with the instrument's own error taken off.

A state's slack is uniform on [0, gamma] plus the error of the reading, whose law F_t genuine states show. Then

    p(r | gamma, t) = (F_t(r) - F_t(r - gamma)) / gamma,

the same formula for gamma < 0, where slack is uniform on [gamma, 0]; at gamma = 0 it is the density of F_t itself. The
logarithm is summed over times and states, times taken as independent: that costs precision, not truth, and the
interval, which resamples whole trajectories, pays for it. F_t is the empirical law smoothed by a Gaussian kernel, with
the points drawn in so that smoothing keeps the variance. A share EPSILON of states may lie anywhere.

Every resample draws the model anew; the law of the null, which is dear to rebuild, is redrawn NULLS times in all.
Source: maximum likelihood for a known convolution; shrunk kernel smoothing after Silverman 1986, section 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from slowflow.measuring.bootstrap import total
from slowflow.measuring.estimators import with_interval
from slowflow.measuring.slack import Slack, everyone
from slowflow.records import Estimate

TIMES = 16
"""Times used at most, evenly chosen: neighbours say nearly the same."""
NULLS = 20
EPSILON = 0.01
REACH = 2.0
"""Largest |gamma| that is looked for."""
COARSE, FINE = 81, 33
"""Points over +-REACH, and over the part of it that resamples reach."""
LATTICE = np.linspace(-8.0, 8.0, 401)
"""Points of F_t in units of the null's own scatter."""
TILE = 2048
"""Trajectories looked at together: what one gamma after another needs of them stays small."""
SMALLEST = 0.005
"""Least scatter of a null: genuine states under `own` have none."""


@dataclass(frozen=True)
class Law:
    """Law of the null's slack at each time: location [time], scale [time], F on the lattice [time, lattice]."""

    location: np.ndarray
    scale: np.ndarray
    cumulative: np.ndarray


def law(r: np.ndarray, share: np.ndarray) -> Law:
    """Smoothed law of slack r [n, time] with weights share [n] that sum to 1."""
    location = share @ r
    scale = np.maximum(np.sqrt(share @ (r - location) ** 2), SMALLEST)
    width = 1.06 * len(r) ** -0.2  # Silverman's rule for scatter 1
    z = (r - location) / scale * np.sqrt(1.0 - width**2) if width < 1.0 else np.zeros_like(r)
    step = LATTICE[1] - LATTICE[0]
    cell = np.clip(np.rint((z - LATTICE[0]) / step), 0, len(LATTICE) - 1).astype(np.int64)
    times = r.shape[1]
    flat = (cell + len(LATTICE) * np.arange(times)).ravel()
    mass = np.bincount(flat, weights=np.repeat(share, times), minlength=times * len(LATTICE))
    kernel = ndtr((LATTICE[:, None] - LATTICE) / width)
    return Law(location, scale, mass.reshape(times, -1) @ kernel.T)


def log_likelihood(r: np.ndarray, null: Law, gammas: np.ndarray) -> np.ndarray:
    """Of each trajectory at each gamma, summed over times, up to a constant: r [n, time] -> [n, gammas]."""
    found = np.zeros((len(r), len(gammas)))
    for column, location, scale, cumulative in zip(r.T, null.location, null.scale, null.cumulative, strict=True):
        z, g = (column - location) / scale, gammas / scale
        g = np.where(np.abs(g) < 1e-3, 1e-3, g)  # the limit gamma -> 0
        here = np.interp(z, LATTICE, cumulative, left=0.0, right=1.0)[:, None]
        anywhere = EPSILON / (np.ptp(z) + np.ptp(LATTICE))
        for i in range(0, len(z), TILE):
            part = slice(i, i + TILE)
            shifted = (z[part, None] - g).ravel()
            beyond = np.interp(shifted, LATTICE, cumulative, left=0.0, right=1.0).reshape(-1, len(g))
            found[part] += np.log((1.0 - EPSILON) * (here[part] - beyond) / g + anywhere)
    return found


def maximum(score: np.ndarray, gammas: np.ndarray) -> np.ndarray:
    """Place of the highest score in each row, refined by a parabola: [rows, gammas] -> [rows]."""
    row = np.arange(len(score))
    best = np.clip(np.argmax(score, axis=1), 1, len(gammas) - 2)
    left, centre, right = (score[row, best + k] for k in (-1, 0, 1))
    bend = left - 2.0 * centre + right
    shift = np.where(bend < 0.0, 0.5 * (left - right) / np.where(bend < 0.0, bend, -1.0), 0.0)
    return np.asarray(gammas[best] + np.clip(shift, -1.0, 1.0) * (gammas[1] - gammas[0]))


def edge(model: Slack, null: Slack, kept: np.ndarray, drawn_model: np.ndarray, drawn_null: np.ndarray) -> Estimate:
    """gamma by maximum likelihood, signed, with its interval.

    Args:
        model, null: slack of the states and of genuine states.
        kept: indices of the times that enter.
        drawn_model, drawn_null: resamples [resamples, n]; of the null only the first NULLS are used.
    """
    times = kept[np.unique(np.linspace(0, len(kept) - 1, min(TIMES, len(kept))).astype(np.int64))]
    ours, theirs = model.r[:, times], null.r[:, times]
    here = law(theirs, everyone(null)[0] / len(null))
    coarse = np.linspace(-REACH, REACH, COARSE)
    rough, margin = log_likelihood(ours, here, coarse), coarse[1] - coarse[0]
    near = maximum(rough.sum(axis=0, keepdims=True), coarse)[0] + np.linspace(-margin, margin, FINE)
    value = maximum(log_likelihood(ours, here, near).sum(axis=0, keepdims=True), near)[0]
    places = maximum(total(drawn_model, rough), coarse)
    fine = np.linspace(places.min() - margin, places.max() + margin, FINE)
    nulls = min(NULLS, len(drawn_null))
    parts = []
    for k in range(nulls):
        redrawn = law(theirs, drawn_null[k] / drawn_null[k].sum())
        parts.append(maximum(total(drawn_model[k::nulls], log_likelihood(ours, redrawn, fine)), fine))
    return with_interval(float(value), np.concatenate(parts), min(len(model), len(null)))
