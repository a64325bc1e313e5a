"""level-learned: the noise level of the state by itself, read by small networks and calibrated on real images.

    m(state) = g^-1( mean_k h_k(phi(state)) ),        g(t) = E[ mean_k h_k(phi(x_t)) ], made monotone in t

phi are sums over groups of the state's coordinates z along the principal axes of the data: log mean z^2, mean log |z|, and
log of mean z^4 / (mean z^2)^2, which is not a matter of second moments and tells where `level` has nothing to go by. The
h_k are MLPs that differ in their initial weights and in how much each state counts for them, trained on genuine states
x_t, t uniform, noise fresh in every step. A regressor returns the posterior mean, which shrinks towards the middle; g is
its mean on images that it was not trained on, and taking g back puts genuine states at m = t in the mean. Axes come
from the training images alone, since the bank's own images lie closer to the bank's axes than any new image does.

A network answers anything: a state unlike all that it was trained on gets an arbitrary m. There its members disagree, and
`ood` flags a spread above the 99th percentile of that of genuine states at the same t; `residual` is the spread over
their median. A share of flags well above 1 % says that this m is not to be used. No flag proves nothing: a state with
its pixels shuffled looks like an earlier one and is read as that. Where neighbouring times look alike (VP before t about
0.65) g is flat, m says little, and its mean is off for genuine states as well; the null shows it.

All of it is a function of the bank and the path: a resumed run trains the same weights again, in seconds.
Source: noise-level regression as in Abuduweili et al. 2024, NLC (arXiv 2412.05488), and ensemble spread as in
Lakshminarayanan et al. 2017 (arXiv 1612.01474); the calibration is SlowFlow's.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from slowflow import rng
from slowflow.data.bank import Bank
from slowflow.errors import DataError
from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.bootstrap import RESAMPLES, interval, mean_curve, weights
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories

SEED = 0
MEMBERS = 5
WIDTH = 64
STEPS = 500
BATCH = 256
RATE = 1e-2
SHARE = 0.8
"""Part of the bank that the networks are trained on; the rest calibrates them."""
LEAST = 10
GROUP = 4
"""Least axes in a group: the log energy of a single axis is mostly noise."""
FLOOR = 1e-4
"""Added to energies, as a share of the data's mean variance, so that a silent axis has a logarithm."""
KNOTS = 65
STATES = 768
"""Calibration states at each of KNOTS times, at least; at most twice as many images are used."""
RARE = 0.99
"""Quantile of the spread of genuine states above which a state is flagged."""
OUTSIDE = 1.0
"""How far outside [0, 1] m is continued on the linear path."""
TILE = 4096


class LearnedLevel:
    """Calibrated regression of the noise level."""

    start: Start = "noise"
    shares_noise = False

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m of every state; `more["ood"]` [sample, time] flags states unlike genuine ones."""
        n, times, d = batch.states.shape
        regressor = trained(bank, batch.path)
        flat = batch.states.reshape(n * times, d)
        parts = [regressor.predict(flat[i : i + TILE]) for i in range(0, len(flat), TILE)]
        mean, spread = (np.concatenate([part[k] for part in parts]).reshape(n, times) for k in (0, 1))
        m = regressor.time_of(mean)
        usual, limit = (np.interp(batch.grid, regressor.times, curve) for curve in (regressor.usual, regressor.limit))
        more = {"ood": spread > limit}
        return Assigned(m, spread / usual, (m <= 0.0) | (m >= 1.0), np.full((n, times), -1), more=more)


@dataclass(frozen=True)
class Features:
    """State -> standardised sums over groups of axes.

    Args:
        axes: [d, d], columns. first: [g], first axis of each group. size: [g]. floor: added to energies.
        centre, scale: [3 g], of genuine states at random times.
    """

    axes: np.ndarray
    first: np.ndarray
    size: np.ndarray
    floor: float
    centre: np.ndarray
    scale: np.ndarray

    def raw(self, z: np.ndarray) -> np.ndarray:
        """[n, 3 g] of coordinates [n, d], in their dtype."""
        energy = np.square(z)
        mean, log, square = (
            np.add.reduceat(values, self.first, axis=1) / self.size.astype(z.dtype)
            for values in (energy, 0.5 * np.log(energy + self.floor), np.square(energy))
        )
        tails = np.log((square + self.floor**2) / np.square(mean + self.floor))
        return np.concatenate([np.log(mean + self.floor), log, tails], axis=1)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """[n, 3 g], standardised, of coordinates [n, d]."""
        return (self.raw(z) - self.centre.astype(z.dtype)) / self.scale.astype(z.dtype)


@dataclass(frozen=True)
class Regressor:
    """A trained and calibrated ensemble.

    Args:
        features: of a state.
        weights: of all members, float64.
        times: [knots]. answers: [knots], mean answer to genuine states at those times, increasing.
        usual, limit: [knots], median and 99th percentile of the members' spread.
        straight: m may lie outside [0, 1].
    """

    features: Features
    weights: list[Tensor]
    times: np.ndarray
    answers: np.ndarray
    usual: np.ndarray
    limit: np.ndarray
    straight: bool

    def predict(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) over members, [n] each, of states [n, d]."""
        return _answers(self.weights, self.features(states @ self.features.axes))

    def time_of(self, answer: np.ndarray) -> np.ndarray:
        """g^-1; beyond the ends of the linear path continued with the mean slope of the outer quarter."""
        rising = self.answers + 1e-12 * np.arange(KNOTS)  # equal neighbours have no slope between them
        m = np.interp(answer, rising, self.times)
        if not self.straight:
            return m
        for end, inner in ((0, KNOTS // 4), (-1, -1 - KNOTS // 4)):
            slope = (self.times[inner] - self.times[end]) / (rising[inner] - rising[end])
            beyond = answer < rising[0] if end == 0 else answer > rising[-1]
            m = np.where(beyond, self.times[end] + slope * (answer - rising[end]), m)
        return np.clip(m, -OUTSIDE, 1.0 + OUTSIDE)


_TRAINED: dict[tuple[int, str], tuple[weakref.ref[Bank], Regressor]] = {}


def trained(bank: Bank, path: Interpolant) -> Regressor:
    """The regressor of a bank and a path; trained once for each Bank object.

    Raises:
        DataError: fewer than LEAST images, or too many dimensions for principal axes.
    """
    key = (id(bank), path.name)
    known = _TRAINED.get(key)
    if known is None or known[0]() is not bank:
        with _one_thread():
            known = weakref.ref(bank, lambda _: _TRAINED.pop(key, None)), _train(bank, path)
        _TRAINED[key] = known
    return known[1]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on the number of threads; weights must not."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _train(bank: Bank, path: Interpolant) -> Regressor:
    rows = np.concatenate([bank.shards[label] for label in sorted(bank.shards)])
    if len(rows) < LEAST:
        raise DataError(f"the bank '{bank.name}' holds {len(rows)} images; 'level-learned' needs at least {LEAST}")
    order = rng.permutation(SEED, "level-learned/split", len(rows))
    cut = int(SHARE * len(rows))
    draw = rng.generator(SEED, "level-learned/states", cut)
    features, data = _make_features(rows[np.sort(order[:cut])], path, draw)
    fitted = _fit(features, data, path, draw)
    return _calibrate(features, fitted, rows[order[cut:][: 2 * STATES]] @ features.axes, path)


def _make_features(rows: np.ndarray, path: Interpolant, draw: np.random.Generator) -> tuple[Features, np.ndarray]:
    """Features of these rows, and the rows' coordinates in float32."""
    spectrum = Bank({0: rows}, "training", "").spectrum
    d, first = len(spectrum.mean), [0]
    for edge in spectrum.first_of_group[1:].tolist():
        if edge - first[-1] >= GROUP and d - edge >= GROUP:
            first.append(edge)
    size = np.diff(first, append=d).astype(np.float64)
    floor = FLOOR * float(spectrum.group_variance @ spectrum.group_size) / d
    plain = Features(spectrum.axes, np.array(first), size, floor, np.zeros(3 * len(first)), np.ones(3 * len(first)))
    data = (rows @ spectrum.axes).astype(np.float32)
    seen = plain.raw(_genuine(data, 16 * BATCH, path, draw)[0]).astype(np.float64)
    # a group of one axis has no tails, and nothing is divided by their spread of zero
    scale = np.where(seen.std(axis=0) > 1e-6, seen.std(axis=0), 1.0)
    return replace(plain, centre=seen.mean(axis=0), scale=scale), data


def _genuine(
    data: np.ndarray, n: int, path: Interpolant, draw: np.random.Generator, t: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates [n, d] of genuine states, their times [n]), float32; random rows at random times, or all rows in turn at t."""
    rows = draw.integers(len(data), size=n) if t is None else np.arange(n) % len(data)
    t = draw.random(n) if t is None else t
    # noise has the same law along any orthonormal axes, so it is drawn there
    noise = draw.standard_normal((n, data.shape[1]), dtype=np.float32)
    alpha, sigma = (f(torch.from_numpy(t)).numpy().astype(np.float32)[:, None] for f in (path.alpha, path.sigma))
    return alpha * data[rows] + sigma * noise, t.astype(np.float32)


def _fit(features: Features, data: np.ndarray, path: Interpolant, draw: np.random.Generator) -> list[Tensor]:
    """Weights of all members after training: mean square error of t, each member with its own weight on each state."""
    generator = rng.torch_generator(SEED, "level-learned/weights", len(data))
    layers: list[Tensor] = []
    for inputs, outputs in pairwise((len(features.centre), WIDTH, WIDTH, 1)):
        start = torch.randn(MEMBERS, inputs, outputs, generator=generator, dtype=torch.float32)
        layers += [start * (1.5 / inputs) ** 0.5, torch.zeros(MEMBERS, 1, outputs, dtype=torch.float32)]
    with torch.enable_grad():
        layers = [layer.requires_grad_() for layer in layers]
        optimiser = torch.optim.Adam(layers, lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            z, t = _genuine(data, BATCH, path, draw)
            counts = torch.from_numpy(draw.exponential(size=(MEMBERS, BATCH)).astype(np.float32))
            error = _forward(layers, torch.from_numpy(features(z))) - torch.from_numpy(t)
            optimiser.zero_grad()
            (counts * error.square()).mean(dim=1).sum().backward()
            optimiser.step()
            schedule.step()
    return [layer.detach().to(torch.float64) for layer in layers]


def _forward(layers: list[Tensor], x: Tensor) -> Tensor:
    """[members, n] from [n, features]."""
    out = x.expand(MEMBERS, *x.shape)
    for k in range(0, len(layers), 2):
        out = torch.baddbmm(layers[k + 1], torch.nn.functional.silu(out) if k else out, layers[k])
    return out[..., 0]


@torch.no_grad()
def _answers(layers: list[Tensor], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) over members, float64."""
    answers = _forward(layers, torch.from_numpy(x.astype(np.float64))).numpy()
    return answers.mean(axis=0), answers.std(axis=0)


def _calibrate(features: Features, layers: list[Tensor], data: np.ndarray, path: Interpolant) -> Regressor:
    """Mean answer and spread at each time, on images that were not trained on (coordinates `data`)."""
    draw = rng.generator(SEED, "level-learned/calibration", len(data))
    times, n = np.linspace(0.0, 1.0, KNOTS), -(-STATES // len(data)) * len(data)
    found = [_answers(layers, features(_genuine(data, n, path, draw, np.full(n, t))[0])) for t in times]
    answers = isotonic_regression([mean.mean() for mean, _ in found]).x
    spread = [np.concatenate([s for _, s in found[max(k - 1, 0) : k + 2]]) for k in range(KNOTS)]
    usual, limit = (np.array([np.quantile(s, q) for s in spread]) for q in (0.5, RARE))
    return Regressor(features, layers, times, np.asarray(answers), usual, limit, path.straight)


def check(bank: Bank, heldout: np.ndarray, path: Interpolant, times: np.ndarray | None = None) -> pd.DataFrame:
    """Error of the calibration on images that are not in the bank.

    Args:
        bank: real data. heldout: [n, d], real images outside it, at least 2. path: the interpolant.
        times: where; 0.05, 0.10, ..., 0.95 unless told.

    Returns:
        A row a time: t, bias = mean m - t with `_low` and `_high`, sd of m, ood = share of flags (1 % when all is well).
    """
    times, n = np.linspace(0.05, 0.95, 19) if times is None else times, len(heldout)
    noise = rng.normal(SEED, "level-learned/check", range(n), heldout.shape[1:])
    alpha, sigma = (f(torch.from_numpy(times)).numpy()[:, None] for f in (path.alpha, path.sigma))
    states, labels = alpha * heldout[:, None] + sigma * noise[:, None], np.zeros(n, dtype=np.int64)
    batch = Trajectories(states, noise, heldout, labels, times, path, np.arange(n), kind="genuine")
    found = LearnedLevel().assign(batch, bank, "torch")
    error = found.m - times
    low, high = interval(mean_curve(error, weights(n, RESAMPLES, SEED, "level-learned/check")))
    columns = {"t": times, "bias": error.mean(axis=0), "bias_low": low, "bias_high": high, "sd": error.std(axis=0)}
    return pd.DataFrame({**columns, "ood": found.more["ood"].mean(axis=0)})


REFERENCES.register(
    "level-learned",
    summary="noise level of the state by calibrated networks, with a flag where they disagree; no pairing",
    source="noise-level regression as in NLC (arXiv 2412.05488); the calibration is SlowFlow's",
)(LearnedLevel())
