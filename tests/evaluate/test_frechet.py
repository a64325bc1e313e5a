"""Frechet distance: the formulas of the tools people use, its symmetries, what it must notice, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from scipy import ndimage

from slowflow.evaluating.frechet import distance, factor, influence, optimal_map, resampled
from slowflow.evaluating.moments import Moments, moments


def features(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    turn = np.random.default_rng(99).normal(size=(d, d))
    return draw.normal(size=(n, d)) @ turn + shift


def ttur(a: Moments, b: Moments) -> float:
    """Heusel et al. 2017, and clean-fid where nothing is singular: a matrix square root by SciPy, its real part."""
    root = np.real(scipy.linalg.sqrtm(a.covariance @ b.covariance))
    return float(np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root))


def clean_fid(a: Moments, b: Moments) -> float:
    """As published: where the root is not finite, 1e-6 is added to both diagonals."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    if not np.isfinite(root).all():
        jitter = 1e-6 * np.eye(len(root))
        root = scipy.linalg.sqrtm((a.covariance + jitter) @ (b.covariance + jitter))
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(np.real(root)))


def torch_fidelity(a: Moments, b: Moments) -> float:
    """As published: the trace of the root is the sum of roots of the eigenvalues of the product, real parts."""
    values = np.linalg.eigvals(a.covariance @ b.covariance).astype(complex)
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(values).real.sum())


@pytest.mark.parametrize("formula", [ttur, clean_fid, torch_fidelity])
@pytest.mark.parametrize("d", [1, 3, 8, 30, 128])
def test_the_distance_is_that_of_the_usual_tools(formula, d: int) -> None:
    a, b = moments(features(400, d, 1)), moments(1.3 * features(300, d, 2, shift=0.5))
    assert distance(a, b) == pytest.approx(formula(a, b), rel=1e-6)


def test_a_set_is_at_distance_zero_from_itself() -> None:
    for x in (features(100), features(10, 30)):  # the second has a singular covariance
        a = moments(x)
        scale = np.trace(a.covariance)
        assert abs(distance(a, a)) < 1e-12 * scale
        assert abs(distance(a, moments(x[::-1]))) < 1e-9 * scale


def test_the_distance_is_symmetric() -> None:
    a, b = moments(features(100, seed=1)), moments(features(100, seed=2, shift=1.0))
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)


def test_singular_covariances_need_no_jitter() -> None:
    flat = features(100, 8, 1)
    flat[:, 4:] = flat[:, :4]  # rank 4
    few = features(5, 8, 2)  # rank 4
    for a, b in ((moments(flat), moments(few)), (moments(flat), moments(features(100)))):
        exact = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
        roots = (np.real(scipy.linalg.sqrtm(m.covariance + 1e-14 * np.eye(8))) for m in (a, b))
        overlap = scipy.linalg.svdvals(next(roots) @ next(roots)).sum()  # nuclear norm
        assert distance(a, b) == pytest.approx(exact - 2 * overlap, rel=1e-6)
    constant = moments(np.ones((4, 3)))
    assert distance(constant, constant) == 0.0
    assert distance(constant, moments(np.zeros((4, 3)))) == pytest.approx(3.0)


def test_a_factor_is_one_and_drops_what_is_rounding() -> None:
    few = moments(features(5, 8)).covariance
    found = factor(few)
    assert found.shape == (8, 4)
    np.testing.assert_allclose(found @ found.T, few, atol=1e-12 * np.trace(few))


def test_two_axis_aligned_gaussians_have_the_closed_form() -> None:
    s, u = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.0])
    a, b = Moments(np.zeros(3), np.diag(s**2), 10), Moments(np.array([1.0, -2.0, 0.0]), np.diag(u**2), 10)
    assert distance(a, b) == pytest.approx(5.0 + np.sum((s - u) ** 2), rel=1e-12)


def test_the_optimal_map_carries_one_gaussian_to_the_other() -> None:
    a, b = moments(features(100, seed=1)), moments(2.0 * features(100, seed=2))
    found = optimal_map(a, b)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    np.testing.assert_allclose(found @ a.covariance @ found, b.covariance, rtol=1e-6, atol=1e-8)


def waves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten classes, 8 x 8, and their labels."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:8] / 8
    labels = np.arange(n) % 10
    phase = draw.uniform(0, 1, size=(n, 1, 1))
    pictures = np.cos(2 * np.pi * ((labels[:, None, None] % 4) * x + (labels[:, None, None] // 4) * y) + phase)
    return pictures + 0.1 * draw.normal(size=(n, 8, 8)), labels


def flat(pictures: np.ndarray) -> Moments:
    return moments(pictures.reshape(len(pictures), -1))


def test_the_distance_grows_with_noise_with_blur_and_with_every_dropped_class() -> None:
    real, (made, labels) = flat(waves(600, 1)[0]), waves(600, 2)
    noise = np.random.default_rng(5).normal(size=made.shape)
    for worse in (
        [made + strength * noise for strength in (0.0, 0.2, 0.4, 0.8)],
        [ndimage.gaussian_filter(made, (0, width, width)) for width in (0.0, 0.5, 1.0, 2.0)],
        [made[labels >= dropped] for dropped in (0, 2, 5, 8)],
    ):
        found = [distance(flat(pictures), real) for pictures in worse]
        assert found == sorted(found)
        assert found[1] > 1.1 * found[0]


def test_the_first_order_is_the_derivative_in_the_weights() -> None:
    x, real = features(40, seed=1, shift=0.3), moments(features(60, seed=2))
    phi, step = influence(x, real), 1e-5
    assert abs(phi.mean()) < 1e-12 * np.abs(phi).max()
    for i in (0, 7, 39):
        values = []
        for sign in (1, -1):
            weights = np.ones(40)
            weights[i] += sign * step
            mean = weights @ x / weights.sum()
            centred = x - mean
            covariance = (centred * weights[:, None]).T @ centred / weights.sum() * 40 / 39
            values.append(distance(Moments(mean, covariance, 40), real))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(phi[i] / 40, rel=1e-4, abs=1e-6 * np.abs(phi).max())  # differences of 1e-5


def test_a_resample_is_the_estimate_where_every_sample_is_drawn_once() -> None:
    x, real = features(40, seed=1), moments(features(60, seed=2))
    found = resampled(x, real, np.ones((3, 40)))
    np.testing.assert_allclose(found, distance(moments(x), real), rtol=1e-12)


@pytest.mark.parametrize(("scale", "d"), [(1.15, 8), (1.0, 8), (1.15, 40)])
def test_resamples_scatter_as_new_samples_do(scale: float, d: int) -> None:
    draw, n = np.random.default_rng(0), 300
    real = moments(draw.normal(size=(n, d)))
    new = [distance(moments(scale * draw.normal(size=(n, d))), real) for _ in range(150)]
    counts = draw.multinomial(n, np.full(n, 1 / n), size=200).astype(float)
    scatter = [resampled(scale * draw.normal(size=(n, d)), real, counts).std() for _ in range(10)]
    # sd of a sd of 150 numbers is 6 %; the first order errs by up to 20 % where n is not large beside d
    assert np.mean(scatter) == pytest.approx(np.std(new), rel=0.35)


def test_resampling_itself_scatters_too_far_where_features_are_wide() -> None:
    """Why the first order is used: a resample's covariance is noisier than a sample's."""
    draw, n, d = np.random.default_rng(1), 300, 48
    real = moments(draw.normal(size=(n, d)))
    new = [distance(moments(draw.normal(size=(n, d))), real) for _ in range(60)]
    x = draw.normal(size=(n, d))
    again = [distance(moments(x[draw.integers(n, size=n)]), real) for _ in range(60)]
    counts = draw.multinomial(n, np.full(n, 1 / n), size=200).astype(float)
    assert np.std(again) > 1.4 * np.std(new)
    assert abs(resampled(x, real, counts).std() / np.std(new) - 1) < abs(np.std(again) / np.std(new) - 1)
