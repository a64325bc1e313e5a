"""Spectral mixtures against the isotropic field, densities differentiated by torch, closed forms and drawn samples."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import Predictor, combine
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.samplers.heun import Heun
from slowflow.flow.spectral import SpectralMixture, draw, solve_gaussian

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
D = 5
VARIANCES = torch.tensor([0.0, 0.01, 0.2, 1.0, 4.0], dtype=DOUBLE)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def scalar(t):
    return torch.tensor(t, dtype=DOUBLE)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


AXES = torch.linalg.qr(randn(0, D, D)).Q
CENTRES = randn(1, 6, D)


def mixture(path="linear", variances=VARIANCES):
    return SpectralMixture(CENTRES, LABELS, AXES, variances, path)


def gaussians(path="linear", t_max=1.0, variances=VARIANCES):
    """One centre in each of two classes."""
    return SpectralMixture(CENTRES[:2], torch.tensor([0, 1]), AXES, variances, path, t_max=t_max)


def end_state(field, method, start, cond, grid):
    return deque(walk(field, sampler(method), start, cond, grid), maxlen=1)[0][1]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    t=st.floats(0.0, 1.0),
    width=st.floats(0.05, 3.0),
    path=st.sampled_from(PATHS),
)
def test_equal_variances_are_the_isotropic_mixture_whatever_the_axes(seed, t, width, path):
    axes = torch.linalg.qr(randn(seed, D, D)).Q
    spectral = SpectralMixture(CENTRES, LABELS, axes, torch.full((D,), width**2, dtype=DOUBLE), path)
    exact = ExactMixture(CENTRES, LABELS, width, path)
    state, cond = randn(seed + 1, 6, D), torch.arange(6) % 2
    # scores are of order |x|^2 / width^2 <= 1e4, so that a rotation's rounding shows as 1e-12
    for got, expected in zip(
        spectral.predict(state, scalar(t), cond), exact.predict(state, scalar(t), cond), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    if path != "vp" or t < 1:  # sigma' is infinite there
        expected = exact.velocity(state, scalar(t), cond)
        torch.testing.assert_close(spectral.velocity(state, scalar(t), cond), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(D)), signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=D, max_size=D))
def test_order_and_sign_of_the_axes_do_not_matter(order, signs):
    turned = SpectralMixture(
        CENTRES, LABELS, AXES[:, order] * torch.tensor(signs, dtype=DOUBLE), VARIANCES[list(order)]
    )
    state, time, cond = randn(2, 4, D), scalar(0.6), torch.arange(4) % 2
    # scores reach 1e2 and sums run in another order: a few digits
    torch.testing.assert_close(
        turned.velocity(state, time, cond), mixture().velocity(state, time, cond), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_noise_hat_is_the_gradient_of_the_log_density(path, t):
    alpha, sigma = interpolant(path).alpha(scalar(t)), interpolant(path).sigma(scalar(t))
    covariance = alpha**2 * AXES @ torch.diag(VARIANCES) @ AXES.T + sigma**2 * torch.eye(D, dtype=DOUBLE)
    own = CENTRES[LABELS == 1]
    density = MixtureSameFamily(
        Categorical(torch.ones(len(own), dtype=DOUBLE)), MultivariateNormal(alpha * own, covariance)
    )
    state = randn(3, 7, D).requires_grad_()
    gradient = torch.autograd.grad(density.log_prob(state).sum(), state)[0]
    _, noise = mixture(path).predict(state.detach(), scalar(t), torch.ones(7, dtype=torch.int64))
    # the density goes through a Cholesky factor with condition number up to 1e3
    torch.testing.assert_close(noise, -sigma * gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_data_hat_is_the_posterior_mean_by_importance(path):
    field, time = mixture(path, variances=VARIANCES + 0.05), scalar(0.5)
    alpha, sigma = interpolant(path).alpha(time), interpolant(path).sigma(time)
    data = draw(field, zeros(200_000), np.random.default_rng(4))
    state = alpha * CENTRES[:1] + 0.5 * sigma * randn(5, 1, D)
    weights = torch.softmax(-(state - alpha * data).square().sum(1) / (2 * sigma**2), dim=0)
    estimate = weights @ data
    error = torch.sqrt(weights.square() @ (data - estimate).square())  # of a self-normalised importance estimate
    got, _ = field.predict(state, time, zeros(1))
    assert float(error.max()) < 0.1  # enough samples carry weight
    assert float(((got[0] - estimate) / error).abs().max()) < 4  # five values: 4 errors are passed once in 3,000 seeds


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.99, 1.0])
def test_prediction_recombines_into_the_state(path, t):
    field, cond = mixture(path, variances=VARIANCES + 0.01), torch.arange(6) % 2
    state, time = randn(6, 6, D), scalar(t)
    data, noise = field.predict(state, time, cond)
    torch.testing.assert_close(interpolant(path).state(noise, data, time), state, rtol=0, atol=1e-12)
    if path != "vp" or t < 1:  # sigma' is infinite there
        expected = combine(interpolant(path), data, noise, time)
        # noise_hat carries rounding of 1e-15, sigma' of vp is 7 at t = 0.99
        torch.testing.assert_close(field.velocity(state, time, cond), expected, rtol=0, atol=1e-12)


def test_the_velocity_is_finite_and_continuous_at_the_end_of_vp():
    field, state, cond = gaussians("vp", variances=VARIANCES + 0.1), randn(7, 4, D), torch.arange(4) % 2
    before, at_end = (field.velocity(state, scalar(t), cond) for t in (1 - 1e-7, 1.0))
    # the velocity's own slope in t is below 1e3: beta changes by 20 and 1 / v reaches 10
    torch.testing.assert_close(at_end, before, rtol=0, atol=1e-4)


def test_a_class_sees_only_its_own_centres():
    state, time = randn(8, 8, D), scalar(0.5)
    cond = torch.tensor([0, 1, 0, 1, 1, 1, 0, 0])
    data, noise = mixture().predict(state, time, cond)
    for label in (0, 1):
        rows = cond == label
        alone = SpectralMixture(CENTRES[label == LABELS], zeros(3), AXES, VARIANCES)
        expected = alone.predict(state[rows], time, zeros(int(rows.sum())))
        torch.testing.assert_close(data[rows], expected[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(noise[rows], expected[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("path", PATHS)
def test_per_sample_times_equal_one_sample_at_a_time(path):
    state, times = randn(9, 4, D), torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=DOUBLE)
    cond = torch.tensor([1, 0, 1, 0])
    for field in (mixture(path), gaussians(path)):
        together = torch.cat([*field.predict(state, times, cond), field.velocity(state, times, cond)], dim=1)
        alone = [
            torch.cat([*field.predict(*one), field.velocity(*one)], dim=1)
            for one in ((state[i : i + 1], times[i], cond[i : i + 1]) for i in range(4))
        ]
        # products of another size sum in another order
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    solved = solve_gaussian(gaussians(path), state, times, cond)
    alone = [solve_gaussian(gaussians(path), state[i : i + 1], times[i], cond[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(solved, torch.cat(alone), rtol=0, atol=1e-13)


def test_images_keep_their_shape_and_dtype_and_the_field_is_a_predictor():
    axes = torch.linalg.qr(randn(10, 32, 32)).Q
    field = SpectralMixture(randn(11, 3, 2, 4, 4), zeros(3), axes, torch.rand(32, dtype=DOUBLE))
    state = randn(12, 5, 2, 4, 4).float()
    data, noise = field.predict(state, scalar(0.5), zeros(5))
    velocity = field.velocity(state, scalar(0.5), zeros(5))
    assert isinstance(field, Predictor)
    assert (field.shape, field.classes) == ((2, 4, 4), 0)
    assert mixture().classes == 2
    assert all(x.shape == state.shape and x.dtype == torch.float32 for x in (data, noise, velocity))
    # float32 output of float64 work: only the last rounding is lost
    expected, _ = field.predict(state.double(), scalar(0.5), zeros(5))
    torch.testing.assert_close(data.double(), expected, rtol=1e-6, atol=1e-6)


def test_an_axis_without_variance_does_not_choose_the_centre():
    """Where all centres agree rounding must not decide, although the axis weighs 1 / sigma^2 near t = 1."""
    centres = torch.tensor([[1.0, 0.3], [-1.0, 0.3]], dtype=DOUBLE)
    field = SpectralMixture(centres, zeros(2), torch.eye(2, dtype=DOUBLE), torch.tensor([0.25, 0.0], dtype=DOUBLE))
    state = torch.tensor([[0.0, 0.3 + 1e-9]], dtype=DOUBLE)
    for t in (0.9, 1 - 1e-9, 1.0):
        data, _ = field.predict(t * state, scalar(t), zeros(1))
        # half way between the centres: neither wins; the second value is known
        torch.testing.assert_close(data, torch.tensor([[0.0, 0.3]], dtype=DOUBLE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_a_step_that_is_corrected_at_the_end_stays_in_bounds_without_variance(path):
    """The true velocity is infinite there; what matters is that no rounding of sigma(1) is blown up."""
    end = end_state(gaussians(path), "heun", randn(20, 50, D), zeros(50), uniform_grid(20))
    silent = ((end - CENTRES[0]) @ AXES)[:, 0]
    # the last step starts with a noise of sigma(0.95) <= 0.08, which the correction leaves half of
    assert float(silent.abs().max()) < 4 * 0.08


@pytest.mark.parametrize("path", PATHS)
def test_the_closed_form_is_where_heun_converges_to_with_order_two(path):
    field, start, cond = gaussians(path, t_max=0.9), randn(13, 6, D), torch.arange(6) % 2
    truth = solve_gaussian(field, start, scalar(0.9), cond)
    errors = [
        float((end_state(field, "heun", start, cond, uniform_grid(n, end=0.9)) - truth).abs().max()) for n in (80, 160)
    ]
    assert errors[1] < 1e-4
    # second order: half the step leaves a quarter of the error; the next term changes that by 3 %
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.06)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.99])
def test_the_closed_form_satisfies_the_equation(path, t):
    field, start, cond = gaussians(path), randn(14, 4, D), torch.arange(4) % 2
    step = 1e-5
    after, before = (solve_gaussian(field, start, scalar(t + h), cond) for h in (step, -step))
    slope = field.velocity(solve_gaussian(field, start, scalar(t), cond), scalar(t), cond)
    # central difference: step^2 times a third derivative that reaches 1e4 on the axis without variance
    torch.testing.assert_close((after - before) / (2 * step), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_the_closed_form_starts_at_the_noise_and_ends_on_the_data(path):
    field, start, cond = gaussians(path), randn(15, 4, D), torch.arange(4) % 2
    torch.testing.assert_close(solve_gaussian(field, start, scalar(0.0), cond), start, rtol=0, atol=1e-14)
    end = CENTRES[:2][cond] + (start @ AXES * VARIANCES.sqrt()) @ AXES.T
    # cos(pi / 2) is 6e-17
    torch.testing.assert_close(solve_gaussian(field, start, scalar(1.0), cond), end, rtol=0, atol=1e-13)


def test_the_closed_form_asks_for_one_centre_a_class():
    with pytest.raises(InputError, match="class 1 has 3 centres"):
        solve_gaussian(mixture(), randn(16, 1, D), scalar(0.5), torch.tensor([1]))


def law(samples):
    """Mean and covariance along the axes."""
    along = samples @ AXES
    return along.mean(0), torch.cov(along.T)


def true_law(label):
    own = CENTRES[label == LABELS] @ AXES
    return own.mean(0), torch.diag(VARIANCES) + torch.cov(own.T, correction=0)


def assert_same_law(samples, label):
    (mean, covariance), (true_mean, true_covariance) = law(samples), true_law(label)
    scale = true_covariance.diag().sqrt()
    n = len(samples)
    # the standard errors of a mean and, for tails no heavier than a Gaussian's, of a covariance; 5 of them
    assert float(((mean - true_mean) / scale).abs().max()) < 5 / n**0.5
    difference = (covariance - true_covariance) / (scale[:, None] * scale[None, :])
    assert float(difference.abs().max()) < 5 * (2 / n) ** 0.5


def test_drawn_data_have_the_law_of_their_class():
    labels = torch.arange(20_000) % 2
    data = draw(mixture(), labels, np.random.default_rng(17))
    for label in (0, 1):
        assert_same_law(data[labels == label], label)
    again = draw(mixture(), labels, np.random.default_rng(17))
    assert torch.equal(again, data)


@pytest.mark.parametrize("path", PATHS)
def test_sampling_ends_on_the_law_of_the_data(path):
    # on an axis without variance the field is infinite at t = 1, so the last step is not corrected there
    grid = uniform_grid(120)
    samples = end_state(mixture(path), Heun(last_euler=True), randn(18, 2000, D), zeros(2000), grid)
    assert_same_law(samples, 0)


BAD = [
    ({"centres": CENTRES.float()}, "centres are torch.float32"),
    ({"centres": CENTRES[:, :3]}, r"axes have shape \(5, 5\), expected \(3, 3\)"),
    ({"centres": CENTRES[:0], "labels": LABELS[:0]}, "expected \\[k, \\*shape\\] with at least one"),
    ({"centres": CENTRES * torch.nan}, "centres hold NaN"),
    ({"labels": LABELS.int()}, "labels are torch.int32, expected torch.int64"),
    ({"labels": LABELS[:3]}, r"labels have shape \(3,\), expected \(6,\)"),
    ({"labels": LABELS - 1}, "smallest label is -1"),
    ({"axes": AXES * 1.001}, "not orthonormal"),
    ({"axes": AXES.float().double()}, "not orthonormal"),
    ({"variances": VARIANCES - 1}, "smallest variance is -1"),
    ({"variances": VARIANCES[:2]}, r"variances have shape \(2,\)"),
    ({"t_max": 0.0}, "t_max is 0"),
    ({"path": "crooked"}, "crooked"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_input_that_makes_no_field_is_refused(changes, message):
    whole = {"centres": CENTRES, "labels": LABELS, "axes": AXES, "variances": VARIANCES}
    with pytest.raises(InputError, match=message):
        SpectralMixture(**{**whole, **changes})


def test_an_unknown_class_is_refused():
    for use in (
        lambda cond: mixture().predict(randn(19, 1, D), scalar(0.5), cond),
        lambda cond: solve_gaussian(gaussians(), randn(19, 1, D), scalar(0.5), cond),
        lambda cond: draw(mixture(), cond, np.random.default_rng(0)),
    ):
        with pytest.raises(InputError, match="no centre of class 5; it knows"):
            use(torch.tensor([5]))
