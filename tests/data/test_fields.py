"""Fields fitted to data: what they recover, what they make of awkward data, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.data.fields import gaussian_like, mixture_like, synthetic
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.spectral import SpectralMixture

SHAPE, D = (1, 2, 3), 6
VARIANCES = torch.tensor([0.02, 0.1, 0.3, 0.7, 1.5, 4.0], dtype=torch.float64)
AXES = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(D, D)))).Q


def image_set(values: np.ndarray, labels: list[int] | np.ndarray, classes: int) -> ImageSet:
    data = torch.from_numpy(np.asarray(values, dtype=np.float32)).view(-1, *SHAPE)
    return ImageSet("set", data, torch.as_tensor(np.asarray(labels), dtype=torch.int64), classes, pixels=False)


def truth(components: int = 1, classes: int = 2, distance: float = 1.0) -> SpectralMixture:
    """A field with `components` centres in each class."""
    centres = distance * np.random.default_rng(1).normal(size=(components * classes, *SHAPE))
    labels = torch.arange(components * classes) % classes
    return SpectralMixture(torch.from_numpy(centres), labels, AXES, VARIANCES)


def covariance(field: SpectralMixture) -> torch.Tensor:
    return field.axes @ torch.diag(field.variances) @ field.axes.T


def relative_error(found: SpectralMixture, expected: SpectralMixture) -> float:
    """Largest error of the covariance in units of the two standard deviations."""
    along = expected.axes.T @ (covariance(found) - covariance(expected)) @ expected.axes
    scale = expected.variances.sqrt()
    return float((along / (scale[:, None] * scale[None, :])).abs().max())


def test_a_gaussian_fit_recovers_the_field_the_data_came_from() -> None:
    n = 4000
    field = truth()
    found = gaussian_like(synthetic(field, n, 3, "drawn"), 2, "gvp", 0.99)
    assert (found.shape, found.classes, found.interpolant.name, found.t_max) == (SHAPE, 2, "gvp", 0.99)
    offset = (found.centres - field.centres).flatten(1) @ AXES / VARIANCES.sqrt()
    assert float(offset.abs().max()) < 4.5 / n**0.5  # standard error of a mean, 12 values
    assert relative_error(found, field) < 4.5 * (2 / (2 * n)) ** 0.5  # of a covariance, both classes pooled


def test_the_fit_is_the_mean_and_the_pooled_covariance(images: ImageSet) -> None:
    found = gaussian_like(images, 10)
    rows, labels = images.data.flatten(1).double(), images.labels
    means = torch.stack([rows[labels == c].mean(0) for c in range(10)])
    # float64 sums over 300 values
    torch.testing.assert_close(found.centres.flatten(1), means, rtol=0, atol=1e-12)
    assert torch.equal(found.labels, torch.arange(10))
    rest = rows - means[labels]
    torch.testing.assert_close(covariance(found), rest.T @ rest / (300 - 10), rtol=0, atol=1e-12)


def test_without_classes_all_data_are_one(images: ImageSet) -> None:
    found = gaussian_like(images, 0)
    rows = images.data.flatten(1).double()
    assert (found.classes, found.labels.tolist()) == (0, [0])
    torch.testing.assert_close(found.centres[0].flatten(), rows.mean(0), rtol=0, atol=1e-12)  # float64 sums
    torch.testing.assert_close(covariance(found), torch.cov(rows.T), rtol=0, atol=1e-12)


def test_a_mixture_fit_recovers_lumps_that_lie_apart() -> None:
    n, field = 3000, truth(components=3, distance=8.0)
    found = mixture_like(synthetic(field, n, 4, "drawn"), 2, components=3, seed=5)
    assert torch.bincount(found.labels).tolist() == [3, 3]
    for label in (0, 1):
        distances = torch.cdist(
            found.centres[found.labels == label].flatten(1), field.centres[field.labels == label].flatten(1)
        )
        # a lump of n / 3 data with total variance 6.6 has its mean known to 0.08; 4 of them
        assert float(distances.min(dim=1).values.max()) < 0.32
        assert len(distances.argmin(dim=1).unique()) == 3
    assert relative_error(found, field) < 4.5 * (2 / (2 * n)) ** 0.5  # no datum lies between the lumps


def test_a_mixture_follows_its_seed_and_nothing_else(images: ImageSet) -> None:
    np.random.seed(0)
    first = mixture_like(images, 10, seed=1)
    np.random.seed(1)
    again, other = mixture_like(images, 10, seed=1), mixture_like(images, 10, seed=2)
    assert torch.equal(first.centres, again.centres)
    assert torch.equal(first.variances, again.variances)
    assert not torch.equal(first.centres, other.centres)
    assert torch.bincount(first.labels).tolist() == [4] * 10


def test_one_component_is_the_gaussian(images: ImageSet) -> None:
    one, gaussian = mixture_like(images, 10, components=1), gaussian_like(images, 10)
    assert torch.equal(one.centres, gaussian.centres)
    assert torch.equal(one.variances, gaussian.variances)


def test_few_images_and_duplicates_get_fewer_components() -> None:
    draw = np.random.default_rng(6)
    single, pair, many = draw.normal(size=(1, D)), draw.normal(size=(2, D)), draw.normal(size=(20, D))
    copies = np.repeat(draw.normal(size=(4, D)), 5, axis=0)
    values = np.concatenate([single, pair, many, copies])
    found = mixture_like(image_set(values, [0] + [1] * 2 + [2] * 20 + [3] * 20, 4), 4, components=4)
    counts = torch.bincount(found.labels)
    assert counts[:2].tolist() == [1, 1]
    assert 1 <= int(counts[2]) <= 4
    assert 1 <= int(counts[3]) <= 2


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(-2, 2), min_size=D, max_size=D), min_size=2, max_size=12),
    components=st.integers(1, 6),
    seed=st.integers(0, 100),
)
def test_any_data_that_vary_make_a_field_with_their_mean_within_reach(
    values: list[list[int]], components: int, seed: int
) -> None:
    rows = np.array(values, dtype=np.float64)
    images = image_set(rows, np.zeros(len(rows)), 0)
    if (rows == rows[0]).all():
        with pytest.raises(DataError, match="equal"):
            mixture_like(images, 0, components=components, seed=seed)
        return
    found = mixture_like(images, 0, components=components, seed=seed)
    assert 1 <= len(found.centres) <= components
    assert float(found.variances.min()) >= 0
    centres = found.centres.flatten(1).numpy()
    # centres are means of data: they stay within the data's range, up to rounding
    assert (centres >= rows.min(axis=0) - 1e-12).all()
    assert (centres <= rows.max(axis=0) + 1e-12).all()


def test_synthetic_data_are_balanced_and_follow_the_seed() -> None:
    field = truth(components=2)
    drawn, again, other = synthetic(field, 5, 7, "drawn"), synthetic(field, 5, 7, "drawn"), synthetic(field, 5, 8, "x")
    assert (drawn.name, drawn.shape, drawn.classes, drawn.pixels) == ("drawn", SHAPE, 2, False)
    assert drawn.data.dtype == torch.float32
    assert drawn.labels.tolist() == [0, 1] * 5
    assert drawn.fingerprint == again.fingerprint != other.fingerprint


def test_a_fitted_field_generates_data_like_the_fitted(images: ImageSet) -> None:
    field = gaussian_like(images, 10)
    noise = torch.from_numpy(np.random.default_rng(9).normal(size=(1000, *images.shape)))
    cond = torch.arange(1000) % 10
    grid = torch.linspace(0, 1, 51, dtype=torch.float64)
    *_, (_, end) = walk(field, sampler("heun"), noise, cond, grid)
    rest = (end - field.centres[cond]).flatten(1)
    # total variance: relative error sqrt(2 sum s^4 / n) / sum s^2 <= sqrt(2 / n), here 4.5 % at most; 2 of them
    np.testing.assert_allclose(float(rest.square().sum(1).mean()), float(field.variances.sum()), rtol=0.09)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_fewer_images_than_dimensions_and_constant_pixels_make_a_usable_field(path: str) -> None:
    values = np.random.default_rng(10).normal(size=(4, D))
    values[:, 2] = 0.7
    field = gaussian_like(image_set(values, np.zeros(4), 0), 0, path)
    assert int((field.variances > 1e-9).sum()) == 3  # four images span three directions; eigh rounds at 1e-16
    noise = torch.from_numpy(np.random.default_rng(11).normal(size=(20, *SHAPE)))
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    *_, (_, end) = walk(field, sampler("euler"), noise, torch.zeros(20, dtype=torch.int64), grid)
    # the constant pixel ends there up to what one Euler step of 0.01 leaves of the noise; vp has the most, 0.03
    torch.testing.assert_close(end[:, 0, 0, 2], torch.full((20,), 0.7, dtype=torch.float64), rtol=0, atol=0.1)


def test_data_without_variance_are_refused() -> None:
    constant = image_set(np.full((5, D), 0.1), [0, 1, 0, 1, 0], 2)
    for fit in (gaussian_like, mixture_like):
        with pytest.raises(DataError, match="all 5 items of 'set' are equal"):
            fit(constant, 2)


def test_data_of_too_many_dimensions_are_refused() -> None:
    wide = ImageSet("wide", torch.randn(2, 1, 91, 91), torch.tensor([0, 0]), 0)
    with pytest.raises(DataError, match="8281 dimensions"):
        gaussian_like(wide, 0)


def test_classes_that_do_not_fit_the_data_are_refused() -> None:
    images = image_set(np.random.default_rng(8).normal(size=(6, D)), [0, 1, 2] * 2, 3)
    with pytest.raises(DataError, match="run up to 2, the model knows 2"):
        gaussian_like(images, 2)
    with pytest.raises(DataError, match=r"no item of 2 of the model's 5 classes \(first: 3\)"):
        gaussian_like(images, 5)
    with pytest.raises(InputError, match="classes is -1"):
        gaussian_like(images, -1)


def test_counts_below_one_are_refused(images: ImageSet) -> None:
    with pytest.raises(InputError, match="components is 0"):
        mixture_like(images, 10, components=0)
    with pytest.raises(InputError, match="n_per_class is 0"):
        synthetic(truth(), 0, 0, "none")
