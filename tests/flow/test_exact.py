"""Exact fields against closed forms, brute force and automatic differentiation."""

from collections import deque

import numpy as np
import pytest
import torch

from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture, gaussian
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import score
from slowflow.flow.samplers import sampler, walk

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
CENTRES = torch.tensor([[1.0, 0.5, 0.0], [-1.2, 0.3, 0.7], [0.2, -1.0, -0.4], [0.9, 0.9, -1.1]], dtype=DOUBLE)
LABELS = torch.tensor([0, 0, 1, 1])


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def scalar(t):
    return torch.tensor(t, dtype=DOUBLE)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def one_class(path, width):
    return ExactMixture(CENTRES, zeros(4), width, path)


def spread(t, width):
    """Standard deviation of the linear path of N(0, width^2) at t."""
    return torch.sqrt((1 - t) ** 2 + width**2 * t**2)


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_gaussian_velocity_is_the_derivative_of_the_closed_form_map(width):
    noise = randn(0, 1, 6)
    field = gaussian(torch.zeros(6, dtype=DOUBLE), width)
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        time = scalar(t).requires_grad_()
        slope = torch.autograd.grad(spread(time, width), time)[0]
        got = field.velocity(spread(time.detach(), width) * noise, time.detach(), zeros(1))
        torch.testing.assert_close(got, slope * noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_gaussian_flow_follows_the_closed_form_map(width):
    noise = randn(1, 4, 6)
    field = gaussian(torch.zeros(6, dtype=DOUBLE), width)
    grid = uniform_grid(200)
    for k, state in walk(field, sampler("heun"), noise, zeros(4), grid):
        # second order with 200 steps: the error stays below 1e-3 even for the sharpest width
        torch.testing.assert_close(state, spread(grid[k], width) * noise, rtol=0, atol=1e-3)


def test_gaussian_mean_moves_along_the_path():
    mean = torch.tensor([2.0, -1.0], dtype=DOUBLE)
    field = gaussian(mean, 0.5, "gvp")
    path, time = interpolant("gvp"), scalar(0.4)
    on_mean = path.alpha(time) * mean[None]
    torch.testing.assert_close(field.velocity(on_mean, time, zeros(1)), path.alpha_dot(time) * mean[None])


def posterior_mean_by_hand(x, alpha, sigma, centres, width):
    """E[data | x] one sample at a time, in plain NumPy: posterior of each bump, then its conditional mean."""
    variance = alpha**2 * width**2 + sigma**2
    out = np.empty_like(x)
    for i, row in enumerate(x):
        logs = np.array([-np.sum((row - alpha * c) ** 2) / (2 * variance) for c in centres])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        means = [c + alpha * width**2 / variance * (row - alpha * c) for c in centres]
        out[i] = sum(w * m for w, m in zip(weights, means, strict=True))
    return out


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("width", [0.0, 0.3, 1.5])
def test_data_hat_is_the_brute_force_posterior_mean(path, t, width):
    state, time = randn(2, 7, 3), scalar(t)
    data, _ = one_class(path, width).predict(state, time, zeros(7))
    alpha, sigma = float(interpolant(path).alpha(time)), float(interpolant(path).sigma(time))
    expected = posterior_mean_by_hand(state.numpy(), alpha, sigma, CENTRES.numpy(), width)
    # the softmax of differences of squares of order 1 / variance loses a few digits
    np.testing.assert_allclose(data.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.6, 0.9])
def test_score_is_the_gradient_of_the_log_density(path, t):
    width, time = 0.4, scalar(t)
    field = one_class(path, width)
    alpha, sigma = interpolant(path).alpha(time), interpolant(path).sigma(time)
    state = randn(3, 5, 3).requires_grad_()
    squares = (state[:, None] - alpha * CENTRES[None]).square().sum(-1)
    log_density = torch.logsumexp(-squares / (2 * (alpha**2 * width**2 + sigma**2)), dim=1)
    expected = torch.autograd.grad(log_density.sum(), state)[0]
    got = score(field, state.detach(), time, zeros(5))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.99, 1.0])
def test_prediction_recombines_into_the_state(path, t):
    state, time = randn(4, 6, 3), scalar(t)
    data, noise = one_class(path, 0.3).predict(state, time, zeros(6))
    rebuilt = interpolant(path).state(noise, data, time)
    torch.testing.assert_close(rebuilt, state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_is_the_recombined_prediction(path):
    state, time = randn(5, 6, 3), scalar(0.35)
    field = one_class(path, 0.3)
    data, noise = field.predict(state, time, zeros(6))
    expected = interpolant(path).alpha_dot(time) * data + interpolant(path).sigma_dot(time) * noise
    torch.testing.assert_close(field.velocity(state, time, zeros(6)), expected, rtol=0, atol=1e-13)


def test_a_class_sees_only_its_own_centres():
    state, time = randn(6, 8, 3), scalar(0.5)
    cond = torch.tensor([0, 1, 0, 1, 1, 1, 0, 0])
    both = ExactMixture(CENTRES, LABELS, 0.3)
    data, noise = both.predict(state, time, cond)
    for label in (0, 1):
        rows = cond == label
        alone = ExactMixture(CENTRES[label == LABELS], zeros(2), 0.3)
        expected = alone.predict(state[rows], time, zeros(int(rows.sum())))
        torch.testing.assert_close(data[rows], expected[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(noise[rows], expected[1], rtol=0, atol=1e-13)
    assert both.classes == 2


def test_per_sample_times_equal_one_sample_at_a_time():
    state, times = randn(7, 4, 3), torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=DOUBLE)
    cond = torch.tensor([1, 0, 1, 0])
    field = ExactMixture(CENTRES, LABELS, 0.3)
    together = field.velocity(state, times, cond)
    alone = torch.cat([field.velocity(state[i : i + 1], times[i], cond[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_width_zero_ends_on_a_centre(path):
    start = randn(8, 12, 3)
    cond = torch.arange(12) % 2
    field = ExactMixture(CENTRES, LABELS, 0.0, path)
    _, state = deque(walk(field, sampler("recombine"), start, cond, uniform_grid(100)), maxlen=1)[0]
    distances = torch.cdist(state, CENTRES)
    distances[LABELS[None] != cond[:, None]] = torch.inf
    nearest = distances.min(dim=1)
    assert float(nearest.values.max()) < 1e-9
    assert len(nearest.indices.unique()) > 2


def test_images_keep_their_shape_and_dtype():
    centres = randn(9, 3, 2, 4, 4)
    field = ExactMixture(centres, zeros(3), 0.2)
    data, noise = field.predict(randn(10, 5, 2, 4, 4).float(), scalar(0.5), zeros(5))
    assert field.shape == (2, 4, 4)
    assert data.shape == noise.shape == (5, 2, 4, 4)
    assert data.dtype == noise.dtype == torch.float32


def test_unknown_class_and_negative_width_are_refused():
    with pytest.raises(InputError, match="no centre of class 5"):
        ExactMixture(CENTRES, LABELS, 0.1).predict(randn(11, 1, 3), scalar(0.5), torch.tensor([5]))
    with pytest.raises(InputError, match=r"width is -0\.1"):
        ExactMixture(CENTRES, LABELS, -0.1)
