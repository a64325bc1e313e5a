"""The nine properties every interpolant must have, and agreement with an independent transcription."""

import math

import pytest
import torch
from byhand import coefficients
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.flow.interpolants import INTERPOLANTS, Interpolant, interpolant
from slowflow.flow.model import PREDICTIONS, FlowModel, convert, regression_target
from slowflow.measuring.closest import closest_time

PATHS = ("linear", "gvp", "vp")
COEFFICIENTS = ("alpha", "sigma", "alpha_dot", "sigma_dot")
inner_times = st.floats(0.02, 0.98)


def pair(seed, shape=(5, 3, 2, 2)):
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))


def scalar(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_coefficients_equal_an_independent_transcription(name):
    path = interpolant(name)
    times = torch.linspace(0.0, 0.999, 400, dtype=torch.float64)
    expected = torch.tensor([coefficients(name, float(t)) for t in times], dtype=torch.float64)
    for column, coefficient in enumerate(COEFFICIENTS):
        # 1e-12 relative: two float64 evaluations of one formula, sigma' of vp reaches -50
        torch.testing.assert_close(getattr(path, coefficient)(times), expected[:, column], rtol=1e-12, atol=1e-12)


GOLDEN = {
    ("gvp", "alpha"): (0.0784590957, 0.4539905, 0.951056516),
    ("gvp", "alpha_dot"): (1.56595409, 1.39958977, 0.48540276),
    ("gvp", "sigma"): (0.996917334, 0.891006524, 0.309016994),
    ("gvp", "sigma_dot"): (-0.123243259, -0.713126609, -1.49391608),
    ("vp", "alpha"): (0.0107007922, 0.0843525702, 0.811395236),
    ("vp", "alpha_dot"): (0.101684278, 0.59173328, 1.65524628),
    ("vp", "sigma"): (0.999942745, 0.996435971, 0.58449788),
    ("vp", "sigma_dot"): (-0.00108816464, -0.0500927551, -2.29779952),
}


@pytest.mark.parametrize(("name", "coefficient"), GOLDEN, ids=lambda value: str(value))
def test_golden_path_table(name, coefficient):
    times = torch.tensor([0.05, 0.3, 0.8], dtype=torch.float64)
    expected = torch.tensor(GOLDEN[name, coefficient], dtype=torch.float64)
    # the table was printed with nine digits from the official float32-friendly code
    torch.testing.assert_close(getattr(interpolant(name), coefficient)(times), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_ends_are_noise_and_data(name):
    path, (noise, data) = interpolant(name), pair(0)
    torch.testing.assert_close(path.state(noise, data, scalar(1.0)), data, rtol=0, atol=1e-15)
    # vp keeps exp(-5.025) = 0.66 % of the data at t = 0 by definition
    kept = math.exp(-5.025) if name == "vp" else 0.0
    expected = kept * data + math.sqrt(1 - kept**2) * noise
    torch.testing.assert_close(path.state(noise, data, scalar(0.0)), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", PATHS)
@given(t=inner_times)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_derivatives_equal_central_differences(name, t):
    path, h = interpolant(name), 1e-5
    for value, derivative in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        slope = (value(scalar(t + h)) - value(scalar(t - h))) / (2 * h)
        # h^2 f'''/6 is at most 4e-8 here (sigma of vp at 0.98), rounding 1e-11
        assert abs(float(slope - derivative(scalar(t)))) < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_log_snr_strictly_increases(name):
    values = interpolant(name).log_snr(torch.linspace(0.001, 0.999, 2001, dtype=torch.float64))
    assert bool((values.diff() > 0).all())


@pytest.mark.parametrize("name", PATHS)
@given(t=inner_times)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_log_snr_is_inverted(name, t):
    path = interpolant(name)
    assert float(path.time_of_log_snr(path.log_snr(scalar(t)))) == pytest.approx(t, abs=1e-9)


def kinds_of(name):
    """Salimans' v needs alpha^2 + sigma^2 = 1, so it exists on gvp and vp only."""
    return [kind for kind in PREDICTIONS if kind != "v" or name != "linear"]


@pytest.mark.parametrize("name", PATHS)
@given(t=inner_times, seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_predictions_convert_into_each_other(name, t, seed):
    path, (noise, data) = interpolant(name), pair(seed)
    time, kinds = scalar(t), kinds_of(name)
    state = path.state(noise, data, time)
    got_data, got_noise = data, noise
    for kind in [*kinds, *reversed(kinds)]:
        out = regression_target(path, kind, got_noise, got_data, time)
        got_data, got_noise = convert(path, kind, state, out, time)
    # 1e-9: rounding is amplified by 1 / alpha <= 100 at each of ten conversions
    torch.testing.assert_close(got_data, data, rtol=0, atol=1e-9)
    torch.testing.assert_close(got_noise, noise, rtol=0, atol=1e-9)


def test_v_prediction_on_a_path_without_unit_norm_is_refused_or_right():
    path, (noise, data) = interpolant("linear"), pair(1)
    time = scalar(0.5)
    state = path.state(noise, data, time)

    def network(state, label, cond):
        return regression_target(path, "v", noise, data, time)

    try:
        model = FlowModel.from_callable(network, shape=(3, 2, 2), interpolant="linear", prediction="v")
        got, _ = model.predict(state, time, torch.zeros(5, dtype=torch.int64))
    except InputError:
        return
    # the default network dtype is float32
    torch.testing.assert_close(got, data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "t"), [("linear", 0.0), ("linear", 1.0), ("gvp", 0.0), ("gvp", 1.0), ("vp", 0.0)])
def test_conversions_stay_finite_at_the_ends(name, t):
    path, (state, out) = interpolant(name), pair(2)
    for kind in PREDICTIONS:
        for part in convert(path, kind, state, out, scalar(t)):
            assert bool(torch.isfinite(part).all()), kind


@pytest.mark.parametrize("name", PATHS)
@given(t=inner_times, a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_state_and_velocity_are_linear_in_the_pair(name, t, a, b):
    path, time = interpolant(name), scalar(t)
    (noise1, data1), (noise2, data2) = pair(3), pair(4)
    for function in (path.state, path.velocity):
        mixed = function(a * noise1 + b * noise2, a * data1 + b * data2, time)
        expected = a * function(noise1, data1, time) + b * function(noise2, data2, time)
        torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_variance_is_preserved(name):
    path, times = interpolant(name), torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    total = path.alpha(times) ** 2 + path.sigma(times) ** 2
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


def test_linear_does_not_preserve_variance():
    path, half = interpolant("linear"), scalar(0.5)
    assert float(path.alpha(half) ** 2 + path.sigma(half) ** 2) == 0.5


@pytest.mark.parametrize("name", PATHS)
@given(t=inner_times, seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_nearest_time_of_an_own_interpolation_is_t(name, t, seed):
    path, (noise, data) = interpolant(name), pair(seed)
    found = closest_time(path.state(noise, data, scalar(t)), noise, data, path)
    assert found.m == pytest.approx(t, abs=1e-9)
    assert found.distance == pytest.approx(0.0, abs=1e-7)
    assert not found.boundary.any()


@pytest.mark.parametrize("name", PATHS)
def test_per_sample_times_equal_one_sample_at_a_time(name):
    path, (noise, data) = interpolant(name), pair(5)
    times = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    for function in (path.state, path.velocity):
        together = function(noise, data, times)
        alone = torch.stack([function(noise[i], data[i], times[i]) for i in range(5)])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("name", PATHS)
def test_shape_of_the_data_does_not_matter(name):
    path, (noise, data) = interpolant(name), pair(6)
    times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    flat = path.state(noise.flatten(1), data.flatten(1), times)
    assert torch.equal(path.state(noise, data, times).flatten(1), flat)


@pytest.mark.parametrize("name", PATHS)
def test_coefficients_keep_shape_and_dtype(name):
    path = interpolant(name)
    for times in (torch.tensor(0.3), torch.rand(2, 3, generator=torch.Generator().manual_seed(0)), scalar(0.3)):
        for coefficient in COEFFICIENTS:
            value = getattr(path, coefficient)(times)
            assert value.shape == times.shape
            assert value.dtype == times.dtype


def test_registry_knows_exactly_the_tested_paths():
    assert set(INTERPOLANTS.names()) == {*PATHS, "table"}  # test_table.py


def test_an_interpolant_is_passed_through():
    path = interpolant("gvp")
    assert isinstance(path, Interpolant)
    assert interpolant(path) is path


def test_unknown_interpolant_suggests_the_closest():
    with pytest.raises(InputError, match="did you mean 'linear'"):
        interpolant("lineer")


@pytest.mark.parametrize("rest", [1e-6, 1e-9, 1e-12])
def test_the_noise_of_vp_keeps_its_digits_near_the_data(rest):
    """1 - exp(2 L) would lose as many digits as 1 - t has zeros; the series -2 L - 2 L^2 does not."""
    t = torch.tensor(1.0 - rest, dtype=torch.float64)
    u = 1.0 - float(t)
    log_alpha = -0.25 * (20.0 - 0.1) * u**2 - 0.5 * 0.1 * u
    expected = math.sqrt(-2.0 * log_alpha - 2.0 * log_alpha**2)
    assert float(interpolant("vp").sigma(t)) == pytest.approx(expected, rel=1e-12, abs=0.0)
