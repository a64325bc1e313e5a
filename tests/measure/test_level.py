"""The level reference: unbiased on genuine states, zero for a perfect model, right on planted faults."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from slowflow import rng
from slowflow.data.bank import FLOOR, Bank
from slowflow.errors import DataError
from slowflow.flow.exact import ExactMixture
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.planted import Scaled
from slowflow.flow.samplers import sampler, walk
from slowflow.measuring import gamma
from slowflow.measuring.closest import LAST
from slowflow.measuring.references import REFERENCES, Assigned, Trajectories
from slowflow.records import Estimate

D, N = 64, 400
TIMES = np.linspace(0.1, 0.9, 9)
SPECTRUM = 4.0 / np.arange(1, D + 1)  # variances of natural images fall roughly like this; mean 0.3
SHIFT = 0.3


def gaussian_data(n: int, seed: int) -> np.ndarray:
    return SHIFT + np.sqrt(SPECTRUM) * np.random.default_rng(seed).normal(size=(n, D))


@cache
def bank() -> Bank:
    return Bank({0: gaussian_data(5000, 1)}, "gaussian", "")


def assigned(states: np.ndarray, times: np.ndarray = TIMES, path: str = "linear", of: Bank | None = None) -> Assigned:
    """The level of states [n, time, d]."""
    n, _, d = states.shape
    unused = np.zeros((n, d))
    batch = Trajectories(states, unused, unused, np.zeros(n, dtype=np.int64), times, interpolant(path), np.arange(n))
    return REFERENCES.get("level").assign(batch, of or bank(), "torch")


def mixed(times: np.ndarray, seed: int, path: str = "linear") -> np.ndarray:
    """Genuine states [N, time, D] at the given times; noise and data of `seed`."""
    noise, data = np.random.default_rng(seed).normal(size=(N, D)), gaussian_data(N, seed + 100)
    t, way = torch.from_numpy(times), interpolant(path)
    alpha, sigma = way.alpha(t).numpy(), way.sigma(t).numpy()
    return alpha[:, None] * data[:, None, :] + sigma[:, None] * noise[:, None, :]


def slack(found: Assigned, times: np.ndarray = TIMES) -> gamma.Slack:
    return gamma.Slack(found.m, times, found.residual)


def excess(model: gamma.Slack, genuine: gamma.Slack) -> Estimate:
    kinds = {"level": {"model": model, "genuine": genuine}}
    return gamma.fit(kinds, band_reference="level", excess_reference="level").estimates["excess_genuine"]


@pytest.mark.parametrize(("path", "first"), [("linear", 0.1), ("gvp", 0.2), ("vp", 0.7)])
def test_genuine_states_are_found_at_their_time_on_average(path: str, first: float) -> None:
    """Earlier states of the curved paths hold too little data (VP: 1 % at t = 0.1) to say where they are."""
    times = np.linspace(first, 0.9, 9)
    found = assigned(mixed(times, 2, path), times, path=path)
    # a state's sd is about 0.05 at d = 64, its mean over 400 about 0.003; the likelihood's own bias is of order 1/d
    np.testing.assert_allclose(found.m.mean(axis=0), times, rtol=0, atol=0.02)
    assert found.residual.mean() == pytest.approx(1.0, abs=0.02)  # chi-square: sd of the mean is 0.001


def test_a_perfect_model_has_no_excess_over_genuine_states() -> None:
    start = np.random.default_rng(3).normal(size=(N, 1, D))
    t = TIMES[:, None]
    scale = np.sqrt((1 - t) ** 2 + SPECTRUM * t**2)  # the exact flow of an axis-aligned Gaussian, in closed form
    perfect = slack(assigned(SHIFT * t + scale * start))
    found = excess(perfect, slack(assigned(mixed(TIMES, 4))))
    assert not found.excludes(0.0)
    assert abs(found.value) < 0.03  # otherwise a wide interval would pass anything


@pytest.mark.parametrize("lag", [0.1, 0.2, -0.1])
def test_a_planted_lag_is_recovered_in_sign_and_size(lag: float) -> None:
    late, honest = slack(assigned(mixed((1 - lag) * TIMES, 5))), slack(assigned(mixed(TIMES, 6)))
    found = excess(late, honest)  # twice the mean slack, by its definition
    assert found.excludes(0.0)
    assert found.value / 2 == pytest.approx(lag, rel=0.25)  # the brief's 25 %; the interval's half width is about 10 %


def mixture() -> ExactMixture:
    centres = torch.from_numpy(1.5 * rng.normal(0, "centres", range(20), (D,)))
    return ExactMixture(centres, torch.zeros(20, dtype=torch.int64), 0.3)


def mixture_data(n: int, seed: int) -> np.ndarray:
    draw, centres = np.random.default_rng(seed), mixture().centres.numpy()
    return centres[draw.integers(0, 20, size=n)] + 0.3 * draw.normal(size=(n, D))


def sampled(factor: float) -> np.ndarray:
    """States at TIMES of the exact velocity times `factor`, Heun on 50 intervals."""
    start, cond = torch.from_numpy(rng.normal(0, "noise", range(N), (D,))), torch.zeros(N, dtype=torch.int64)
    steps = walk(Scaled(mixture(), factor), sampler("heun"), start, cond, uniform_grid(50))
    return np.stack([x.numpy() for k, x in steps if k in range(5, 46, 5)], axis=1)


@pytest.mark.parametrize(("factor", "sign"), [(0.95, 1), (1.05, -1)])
def test_a_velocity_five_per_cent_off_has_the_right_sign(factor: float, sign: int) -> None:
    of = Bank({0: mixture_data(4000, 11)}, "mixture", "")
    noise, data = np.random.default_rng(12).normal(size=(N, 1, D)), mixture_data(N, 13)[:, None]
    genuine = slack(assigned(TIMES[:, None] * data + (1 - TIMES[:, None]) * noise, of=of))
    perfect, planted = slack(assigned(sampled(1.0), of=of)), slack(assigned(sampled(factor), of=of))
    assert not excess(perfect, genuine).excludes(0.0)
    found = excess(planted, genuine)
    assert found.excludes(0.0)
    assert sign * found.value > 0  # slack is positive where the model is slow


def test_the_ends_of_time_are_flagged() -> None:
    draw = np.random.default_rng(14)
    loud = 10 * draw.normal(size=(5, 1, D))  # more energy than pure noise
    # strong axes far outside the data, weak ones silent: later than any mixture with noise
    clean = SHIFT + np.where(SPECTRUM > 1, 8 * np.sqrt(SPECTRUM), 0.0) * np.sign(draw.normal(size=(5, 1, D)))
    middle = mixed(np.array([0.5]), 15)
    early, late, inside = (assigned(x, np.array([0.5])) for x in (loud, clean, middle))
    assert (early.m == 0.0).all()
    assert (late.m >= LAST).all()
    assert early.boundary.all()
    assert late.boundary.all()
    assert not inside.boundary.any()


def test_the_level_pairs_nothing_with_the_state() -> None:
    found = assigned(mixed(TIMES, 16)[:3])
    np.testing.assert_array_equal(found.index, np.full((3, len(TIMES)), -1))


def test_the_spectrum_takes_axes_from_one_half_and_variances_from_the_other() -> None:
    found, rows = bank().spectrum, bank().shards[0]
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(D), rtol=0, atol=1e-10)  # eigh, float64
    turned = (rows[::2] - rows[::2].mean(0)) @ found.axes
    covariance = turned.T @ turned / (len(turned) - 1)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.mean, rows.mean(0) @ found.axes, rtol=0, atol=1e-10)
    other = (rows[1::2] @ found.axes).var(axis=0, ddof=1)
    expected = np.add.reduceat(other, found.first_of_group) / found.group_size
    np.testing.assert_allclose(found.group_variance, expected, rtol=1e-10)


def test_variances_are_those_of_data_that_fitted_nothing() -> None:
    """Sample axes stretch their own data; variances from the other half are unbiased on fresh data, weak axes included."""
    draw = np.random.default_rng(3)
    scale = 1.0 / np.sqrt(np.arange(1, 65))
    found = Bank({0: draw.normal(size=(400, 64)) * scale}, "few", "").spectrum
    fresh = np.square((draw.normal(size=(4000, 64)) * scale) @ found.axes).mean(axis=0)
    grouped = np.add.reduceat(fresh, found.first_of_group) / found.group_size
    ratio = found.group_variance / grouped
    weak = found.group_size @ ratio / found.group_size.sum()
    assert weak == pytest.approx(1.0, abs=0.04)  # 200 rows on 64 axes: 1.3 % on the mean of all ratios
    assert ratio[:10].mean() == pytest.approx(1.0, abs=0.1)


def test_the_groups_of_the_spectrum_cover_every_axis_once() -> None:
    found = bank().spectrum
    assert found.group_size.sum() == D
    np.testing.assert_array_equal(found.first_of_group, np.concatenate([[0], np.cumsum(found.group_size)[:-1]]))
    total = found.group_size @ found.group_variance
    assert total == pytest.approx(
        bank().shards[0][1::2].var(axis=0, ddof=1).sum(), rel=1e-9
    )  # grouping keeps the trace


def test_a_constant_axis_gets_the_floor_and_not_zero() -> None:
    rows = np.random.default_rng(17).normal(size=(52, 6))
    rows[:, 2] = 1.0
    found = Bank({0: rows[:26], 1: rows[26:]}, "flat", "").spectrum
    other = np.concatenate([rows[:26][1::2], rows[26:][1::2]])
    assert found.group_variance.min() == pytest.approx(FLOOR * other.var(axis=0, ddof=1).mean(), rel=1e-6)
    constant = Bank({0: np.ones((4, 3))}, "constant", "").spectrum
    assert (constant.group_variance > 0).all()


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match="too large for principal axes"):
        _ = Bank({0: np.zeros((2, 8193))}, "large", "").spectrum
