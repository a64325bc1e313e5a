"""Frechet distance: the textbook formula, its symmetries, and what it must notice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from slowflow.errors import InputError
from slowflow.evaluating.frechet import Moments, distance, moments, resampled, symmetric_root


def features(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    turn = np.random.default_rng(99).normal(size=(d, d))
    return draw.normal(size=(n, d)) @ turn + shift


def textbook(a: Moments, b: Moments) -> float:
    """Heusel et al. 2017 with scipy's matrix square root."""
    root = np.real(scipy.linalg.sqrtm(a.covariance @ b.covariance))
    return float(np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root))


@pytest.mark.parametrize("d", [1, 3, 8, 30])
def test_the_distance_is_the_textbook_formula(d: int) -> None:
    a, b = moments(features(200, d, 1)), moments(1.3 * features(150, d, 2, shift=0.5))
    assert distance(a, b) == pytest.approx(textbook(a, b), rel=1e-6)


def test_the_moments_are_numpys() -> None:
    x = features(50)
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-10)  # both divide by n - 1
    assert found.n == 50


def test_a_set_is_at_distance_zero_from_itself() -> None:
    a = moments(features(100))
    scale = np.trace(a.covariance)
    assert abs(distance(a, a)) < 1e-9 * scale  # float64 rounding of the traces
    assert abs(distance(a, moments(features(100)[::-1]))) < 1e-9 * scale


def test_the_distance_is_symmetric() -> None:
    a, b = moments(features(100, seed=1)), moments(features(100, seed=2, shift=1.0))
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


def test_singular_covariances_need_no_jitter() -> None:
    flat = features(100, 8, 1)
    flat[:, 4:] = flat[:, :4]  # rank 4
    few = features(5, 8, 2)  # rank 4
    for a, b in ((moments(flat), moments(few)), (moments(flat), moments(features(100)))):
        exact = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
        root = scipy.linalg.svdvals(symmetric_root(a.covariance) @ symmetric_root(b.covariance)).sum()  # nuclear norm
        assert distance(a, b) == pytest.approx(exact - 2 * root, rel=1e-6)
    constant = moments(np.ones((4, 3)))
    assert distance(constant, constant) == 0.0


def test_two_axis_aligned_gaussians_have_the_closed_form() -> None:
    s, u = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.0])
    a, b = Moments(np.zeros(3), np.diag(s**2), 10), Moments(np.array([1.0, -2.0, 0.0]), np.diag(u**2), 10)
    assert distance(a, b) == pytest.approx(5.0 + np.sum((s - u) ** 2), rel=1e-12)


def test_the_distance_grows_with_added_noise() -> None:
    real, noise = features(400, seed=1), np.random.default_rng(5).normal(size=(400, 8))
    found = [distance(moments(features(400, seed=2) + k * noise), moments(real)) for k in (0.0, 1.0, 2.0, 4.0)]
    assert found == sorted(found)
    assert found[1] > found[0]


def test_the_distance_grows_with_dropped_classes() -> None:
    draw = np.random.default_rng(6)
    centres, labels = 5 * draw.normal(size=(10, 8)), np.arange(500) % 10
    real, made = (centres[labels] + draw.normal(size=(500, 8)) for _ in range(2))
    found = [distance(moments(made[labels >= dropped]), moments(real)) for dropped in (0, 2, 5, 8)]
    assert found == sorted(found)


def test_weights_of_one_change_nothing_and_others_repeat_rows() -> None:
    x = features(30)
    plain, ones = moments(x), moments(x, np.ones(30))
    np.testing.assert_array_equal(plain.covariance, ones.covariance)
    count = np.arange(30) % 3
    repeated = moments(np.repeat(x, count, axis=0))
    weighted = moments(x, count.astype(float))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, rtol=1e-10)


def test_resampling_with_equal_weights_is_the_distance() -> None:
    x, real = features(40, seed=1), moments(features(60, seed=2))
    drawn = np.stack([np.ones(40), np.arange(40) % 3 / 1.0])
    found = resampled(x, real, drawn)
    assert found[0] == pytest.approx(distance(moments(x), real), rel=1e-12)
    assert found[1] == pytest.approx(distance(moments(np.repeat(x, np.arange(40) % 3, axis=0)), real), rel=1e-9)


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(InputError, match="at least 2"):
        moments(np.zeros((1, 4)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_refused_by_its_number(bad: float) -> None:
    x = features(5)
    x[3, 1] = bad
    with pytest.raises(InputError, match="feature 3"):
        moments(x)
