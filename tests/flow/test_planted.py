"""Planted faults do what they say, and linear ones produce the variances that the closed forms predict."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.linear_truth import (
    euler_variances,
    planted_variances,
    rate_exact,
    rate_mislabelled,
    rate_scaled,
    rate_smoothed,
)
from slowflow.flow.model import Predictor, combine
from slowflow.flow.planted import Feedback, Mislabelled, Scaled, Smoothed
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.spectral import SpectralMixture, draw

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
D = 6
VARIANCES = torch.tensor([0.01, 0.05, 0.3, 1.0, 2.0, 5.0], dtype=DOUBLE)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def scalar(t):
    return torch.tensor(t, dtype=DOUBLE)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


AXES = torch.linalg.qr(randn(0, D, D)).Q
CENTRE = randn(1, 1, D)


def gaussian(path="linear", t_max=1.0):
    return SpectralMixture(CENTRE, zeros(1), AXES, VARIANCES, path, t_max=t_max)


def bumps(path):
    return ExactMixture(randn(2, 4, D), zeros(4), 0.4, path, calls=3, t_max=0.9)


FAULTS = {
    "scaled": lambda model: Scaled(model, 0.95),
    "smoothed": lambda model: Smoothed(model, 0.1, 0.3),
    "mislabelled": lambda model: Mislabelled(model, 0.03),
    "feedback": lambda model: Feedback(model, 0.5),
}
RATES = {
    "exact": (lambda model: model, rate_exact),
    "slow": (lambda model: Scaled(model, 0.95), lambda v, p: rate_scaled(v, p, 0.95)),
    "fast": (lambda model: Scaled(model, 1.05), lambda v, p: rate_scaled(v, p, 1.05)),
    "smoothed": (lambda model: Smoothed(model, 0.05, 0.4), lambda v, p: rate_smoothed(v, p, 0.05)),
    "late": (lambda model: Mislabelled(model, 0.05), lambda v, p: rate_mislabelled(v, p, 0.05)),
    "early": (lambda model: Mislabelled(model, -0.05), lambda v, p: rate_mislabelled(v, p, -0.05)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_model_is_a_predictor_whose_two_answers_agree(fault, path):
    model = gaussian(path, 0.9) if fault == "feedback" else bumps(path)
    faulty = FAULTS[fault](model)
    assert isinstance(faulty, Predictor)
    same = [getattr(x, n) for n in ("shape", "classes", "calls", "t_max") for x in (faulty, model)]
    assert same[::2] == same[1::2]
    state = randn(3, 5, D)
    for time in (scalar(0.4), torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)):
        data, noise = faulty.predict(state, time, zeros(5))
        velocity = faulty.velocity(state, time, zeros(5))
        # the wronskian of vp is as small as 0.05 here, which costs two digits
        torch.testing.assert_close(interpolant(path).state(noise, data, time), state, rtol=0, atol=1e-11)
        torch.testing.assert_close(combine(interpolant(path), data, noise, time), velocity, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", ["euler", "heun", "recombine", "em"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_sampler_takes_a_faulty_model(fault, path, method):
    faulty = FAULTS[fault](gaussian(path))
    steps = walk(faulty, sampler(method), randn(4, 3, D), zeros(3), uniform_grid(30, start=0.01), lambda k, x: x * 0)
    end = deque(steps, maxlen=1)[0][1]
    assert end.dtype == DOUBLE
    assert float(end.abs().max()) < 50


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("path", PATHS)
def test_scaled_multiplies_the_velocity(factor, path):
    state, time = randn(5, 5, D), scalar(0.4)
    expected = factor * bumps(path).velocity(state, time, zeros(5))
    assert torch.equal(Scaled(bumps(path), factor).velocity(state, time, zeros(5)), expected)


@pytest.mark.parametrize("path", PATHS)
def test_smoothed_shrinks_what_the_model_sees_in_a_state(path):
    state, time = randn(6, 5, D), scalar(0.4)
    data, _ = bumps(path).predict(state, time, zeros(5))
    shrunk, _ = Smoothed(bumps(path), 0.2, 0.5).predict(state, time, zeros(5))
    torch.testing.assert_close(shrunk - 0.5, 0.8 * (data - 0.5), rtol=0, atol=1e-14)


@pytest.mark.parametrize("path", PATHS)
def test_mislabelled_asks_at_the_offset_and_within_the_models_times(path):
    model, state = bumps(path), randn(7, 4, D)
    times = torch.tensor([0.0, 0.2, 0.5, 0.88], dtype=DOUBLE)
    for offset, told in ((0.1, [0.1, 0.3, 0.6, 0.9]), (-0.3, [0.0, 0.0, 0.2, 0.58])):
        expected = model.velocity(state, torch.tensor(told, dtype=DOUBLE), zeros(4))
        # 0.88 - 0.3 is 0.58 up to rounding, which the steepest field multiplies by 1e2
        torch.testing.assert_close(
            Mislabelled(model, offset).velocity(state, times, zeros(4)), expected, rtol=0, atol=1e-12
        )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), gain=st.floats(-2.0, 2.0), size=st.floats(0.2, 3.0), path=st.sampled_from(PATHS))
def test_feedback_is_zero_on_the_shell_and_grows_with_displacement(seed, gain, size, path):
    field, t = gaussian(path), scalar(0.5)
    v = interpolant(path).alpha(t) ** 2 * VARIANCES + interpolant(path).sigma(t) ** 2
    direction = randn(seed, 1, D)
    direction *= (D**0.5) / direction.norm()  # mean square 1: exactly on the shell
    offset = size * (v.sqrt() * direction) @ AXES.T
    state = interpolant(path).alpha(t) * CENTRE + offset
    added = Feedback(field, gain).velocity(state, t, zeros(1)) - field.velocity(state, t, zeros(1))
    # q = size^2; the difference of two velocities of order 10 keeps 1e-14
    torch.testing.assert_close(added, gain * (size**2 - 1) * offset, rtol=0, atol=1e-12)


def test_feedback_leaves_genuine_states_almost_alone():
    d, n = 400, 200
    field = SpectralMixture(randn(8, 1, d), zeros(1), torch.eye(d, dtype=DOUBLE), 4.0 / torch.arange(1, d + 1).double())
    data, noise, t = draw(field, zeros(n), np.random.default_rng(9)), randn(10, n, d), scalar(0.5)
    state = field.interpolant.state(noise, data, t)
    offset = field.locate(state, t, zeros(n)).offset
    added = Feedback(field, 1.0).velocity(state, t, zeros(n)) - field.velocity(state, t, zeros(n))
    share = added.norm(dim=1) / offset.norm(dim=1)  # |q - 1|, whose root mean square is sqrt(2 / d)
    # a root mean square of n values is known to 1 / sqrt(2 n) = 5 %; 4 of them
    np.testing.assert_allclose(float(share.square().mean().sqrt()), (2 / d) ** 0.5, rtol=0.2)


@pytest.mark.parametrize(("gain", "sign"), [(1.0, 1), (-1.0, -1)])
def test_feedback_amplifies_a_displacement_when_its_gain_is_positive(gain, sign):
    """Start 10 % outside the shell: the end is further outside than the exact field brings it, or less far."""
    field = gaussian()
    start = randn(11, 50, D)
    start *= 1.1 * D**0.5 / start.norm(dim=1, keepdim=True)

    def energy(model):
        end = deque(walk(model, sampler("heun"), start, zeros(50), uniform_grid(50, end=0.9)), maxlen=1)[0][1]
        place = field.locate(end, scalar(0.9), zeros(50))
        return (place.offset.square() / place.variance).mean(1)

    faulty, exact = energy(Feedback(field, gain)), energy(field)
    # the exact field keeps the energy at 1.1^2 = 1.21 but for Heun's error, seen at 50 steps
    torch.testing.assert_close(exact, torch.full((50,), 1.21, dtype=DOUBLE), rtol=0.02, atol=0)
    assert bool((sign * (faulty - exact) > 0.1).all())


def factors(model, method, grid):
    """Growth of each axis from grid[0] to grid[1:], read off by starting on the axes; exact for a linear field."""
    apart = torch.cat([AXES.T, torch.zeros(1, D, dtype=DOUBLE)])
    states = [x for k, x in walk(model, sampler(method), apart, zeros(D + 1), grid) if k]
    return torch.stack([((x[:-1] - x[-1]) @ AXES).diagonal() for x in states]).numpy()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", RATES)
def test_euler_variances_are_those_of_the_euler_sampler(fault, path):
    plant, rate = RATES[fault]
    grid = uniform_grid(25)
    found = factors(plant(gaussian(path)), "euler", grid) ** 2
    expected = euler_variances(grid.numpy(), rate(VARIANCES.numpy(), path))
    # the same products in another order; vp stretches by 1e2 on the way
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", RATES)
def test_planted_variances_are_where_heun_converges_to(fault, path):
    plant, rate = RATES[fault]
    # steps of 1/80 and 1/160, so that the kink of "early", where the label leaves 0 at t = 0.05, is a time of the grid
    grids = (uniform_grid(n, end=0.9) for n in (9, 72, 144))
    expected = planted_variances(next(grids).numpy(), rate(VARIANCES.numpy(), path))
    errors = []
    for grid in grids:
        every = len(grid) // 9
        found = factors(plant(gaussian(path)), "heun", grid)[every - 1 :: every] ** 2
        errors.append(np.abs(np.log(found / expected)).max())
    assert errors[1] < 3e-3
    # second order: half the step leaves a quarter of the error; the next term changes that by up to 5 % (vp)
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.1)


@pytest.mark.parametrize("path", PATHS)
def test_exact_variances_are_those_of_the_path(path):
    grid = uniform_grid(10)
    way, t = interpolant(path), grid[:, None]
    v = (way.alpha(t) ** 2 * VARIANCES + way.sigma(t) ** 2).numpy()
    # from unit variance, which on vp is not quite v(0); the integral is good to 1e-7 on each of 10 intervals, and the
    # last 1e-8 of time are held
    np.testing.assert_allclose(
        planted_variances(grid.numpy(), rate_exact(VARIANCES.numpy(), path)), v[1:] / v[0], rtol=5e-6
    )
    scaled = planted_variances(grid.numpy(), rate_scaled(VARIANCES.numpy(), path, 0.9), start=2.0)
    np.testing.assert_allclose(scaled, 2.0 * (v[1:] / v[0]) ** 0.9, rtol=5e-6)


def test_an_axis_without_variance_vanishes_at_the_end():
    for path in PATHS:
        grid = uniform_grid(3).numpy()
        found = planted_variances(grid, rate_exact(np.array([0.0, 1.0]), path))
        assert found.shape == (3, 2)
        assert 0 <= found[-1, 0] < 1e-8  # sigma^2 at the last time that is told apart from 1
        np.testing.assert_allclose(found[-1, 1], 1.0, rtol=1e-4)  # vp starts 4e-5 off nothing: v = 1 throughout


def test_sampled_states_have_the_planted_variances():
    """The whole chain with real randomness: a smoothed Gaussian field, Euler on 20 steps, 4,000 samples."""
    n, grid = 4000, uniform_grid(20)
    states = [x for k, x in walk(Smoothed(gaussian(), 0.1), sampler("euler"), randn(12, n, D), zeros(n), grid) if k]
    found = torch.stack([(x @ AXES).var(dim=0) for x in states]).numpy()
    expected = euler_variances(grid.numpy(), rate_smoothed(VARIANCES.numpy(), "linear", 0.1))
    # relative error sqrt(2 / n) of a variance, 4.5 of them over 6 independent axes
    np.testing.assert_allclose(found, expected, rtol=4.5 * (2 / n) ** 0.5)


def test_a_shrunk_denoiser_and_a_slow_field_leave_too_little_variance():
    grid, exact = uniform_grid(10, end=0.95).numpy(), rate_exact(VARIANCES.numpy(), "linear")
    truth = planted_variances(grid, exact)
    assert (planted_variances(grid, rate_smoothed(VARIANCES.numpy(), "linear", 0.05)) < truth).all()
    # a slow field is behind: nearer to the noise's variance of 1, from whichever side
    slow = planted_variances(grid, rate_scaled(VARIANCES.numpy(), "linear", 0.95))
    assert (np.abs(np.log(slow)) <= np.abs(np.log(truth))).all()


@pytest.mark.parametrize("grid", [[0.0], [0.0, 0.5, 0.5], [0.5, 0.0]])
def test_times_that_do_not_increase_are_refused(grid):
    for variances in (planted_variances, euler_variances):
        with pytest.raises(InputError, match="increasing times"):
            variances(np.array(grid), rate_exact(VARIANCES.numpy(), "linear"))
