"""Moments: NumPy's, whatever the parts; and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.evaluating import moments as module
from slowflow.evaluating.moments import Scatter, merged, moments


def features(n: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, 6)) @ draw.normal(size=(6, 6)) + offset


def test_the_moments_are_numpys() -> None:
    x = features(50)
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-10)  # both divide by n - 1
    assert found.n == 50


@pytest.mark.parametrize("ranks", [2, 3])
def test_moments_of_ranks_equal_those_of_one(ranks: int) -> None:
    x = features(1001, offset=3.0)
    whole = moments(x)
    found = merged(Scatter.of(x[rank::ranks]) for rank in range(ranks)).moments()
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=0, atol=1e-12 * np.trace(whole.covariance))
    assert found.n == 1001


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 99), st.sampled_from([0.0, 1e6]))
def test_any_parts_in_any_order_give_the_same(sizes: list[int], seed: int, offset: float) -> None:
    x = features(sum(sizes) + 1, seed, offset)
    parts = [Scatter.of(part) for part in np.split(x, np.cumsum(sizes))]
    shuffled = [parts[i] for i in np.random.default_rng(seed).permutation(len(parts))]
    found, whole = merged(shuffled).moments(), moments(x)
    scale = np.trace(np.cov((x - offset).T)) + (offset * 1e-8) ** 2  # float64 has lost as much of a mean of 1e6 already
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        found.covariance, whole.covariance, rtol=0, atol=1e-8 * scale if offset else 1e-12 * scale
    )


def test_streaming_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(100).astype(np.float32)  # as networks give them
    whole = moments(x)
    monkeypatch.setattr(module, "ROWS", 7)
    found = moments(x)
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=0, atol=1e-12 * np.trace(whole.covariance))
    assert found.covariance.dtype == np.float64


def test_a_large_mean_costs_no_digits() -> None:
    x = features(200)
    near, far = moments(x), moments(x + 2.0**20)  # a power of two: adding it rounds x itself to 2^-32
    assert np.abs(far.covariance - near.covariance).max() < 1e-8 * np.trace(near.covariance)


def test_one_feature_has_no_covariance_and_none_no_moments() -> None:
    with pytest.raises(InputError, match="at least 2"):
        moments(np.zeros((1, 4)))
    with pytest.raises(InputError, match="no features"):
        moments(np.zeros((0, 4)))
    with pytest.raises(InputError, match="no features"):
        merged([])
    with pytest.raises(InputError, match="width 2 and 3"):
        Scatter.of(np.zeros((2, 2))).merge(Scatter.of(np.zeros((2, 3))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_refused_by_its_number(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2)
    x = features(5)
    x[3, 1] = bad
    with pytest.raises(InputError, match="feature 3"):
        moments(x)
