"""Sampling remedies by hand, by closed forms, and on planted faults: what each does to signal and noise."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid

from slowflow.data.bank import Bank
from slowflow.data.level import noise_levels
from slowflow.errors import InputError
from slowflow.flow.exact import gaussian
from slowflow.flow.interpolants import interpolant
from slowflow.flow.linear_truth import euler_variances, rate_exact
from slowflow.flow.model import combine, convert
from slowflow.flow.planted import Mislabelled
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.samplers.recombine import Recombine
from slowflow.flow.spectral import SpectralMixture
from slowflow.flow.table import Table
from slowflow.flow.wrapper import Wrapper
from slowflow.records import Estimate
from slowflow.remedies.sampling import Findings, fitted
from slowflow.remedies.sampling.churn import Churn, Churned, renoised
from slowflow.remedies.sampling.dcw import DCW, low_band
from slowflow.remedies.sampling.epsilon_scaling import EpsilonScaling
from slowflow.remedies.sampling.findings import Curve
from slowflow.remedies.sampling.heun_equal_calls import HeunEqualCalls
from slowflow.remedies.sampling.label_correction import LabelCorrection
from slowflow.remedies.sampling.label_correction_per_state import LabelCorrectionPerState
from slowflow.remedies.sampling.restart import Restart
from slowflow.remedies.sampling.score_rescaling import ScoreRescaling
from slowflow.remedies.sampling.time_shift import TimeShift

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
VARIANCES, COUNTS = np.array([0.001, 0.02, 0.3, 2.0]), np.array([40.0, 20.0, 3.0, 1.0])
GRID = np.linspace(0.0, 1.0, 21)


def scalar(t):
    return torch.tensor(t, dtype=DOUBLE)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def zeros(n=1):
    return torch.zeros(n, dtype=torch.int64)


def axes(variances, path):
    """The exact field of Gaussian data with these variances along the axes."""
    variances = torch.as_tensor(variances, dtype=DOUBLE)
    d = len(variances)
    return SpectralMixture(torch.zeros(1, d, dtype=DOUBLE), zeros(), torch.eye(d, dtype=DOUBLE), variances, path)


def along(model, method="euler", grid=GRID, start=None):
    """States at grid[1:] of one walk that starts at 1 on every axis."""
    method = sampler(method)
    start = torch.ones(1, model.shape[0], dtype=DOUBLE) if start is None else start
    states = [x for _, x in walk(model, method, start, zeros(len(start)), torch.from_numpy(grid))]
    return torch.stack(states[1:])[:, 0].numpy()


@dataclass(frozen=True)
class Constant(Wrapper):
    """data_hat and noise_hat that never change."""

    data: float = 1.0
    noise: float = -2.0

    def predict(self, state, t, cond):
        return torch.full_like(state, self.data), torch.full_like(state, self.noise)

    def velocity(self, state, t, cond):
        return combine(self.interpolant, *self.predict(state, t, cond), t)


def constant(path):
    return Constant(gaussian(torch.zeros(1, dtype=DOUBLE), 1.0, path))


@dataclass(frozen=True)
class Loud(Wrapper):
    """A network whose noise is `factor` times what it should be, wherever there is data in the state."""

    factor: float = 1.0

    def predict(self, state, t, cond):
        data, noise = self.model.predict(state, t, cond)
        alpha, sigma = self.interpolant.alpha(t), self.interpolant.sigma(t)
        if float(alpha) < 1e-3:
            return data, noise
        return (state - sigma * self.factor * noise) / alpha, self.factor * noise

    def velocity(self, state, t, cond):
        return combine(self.interpolant, *self.predict(state, t, cond), t)


# --- epsilon scaling


@pytest.mark.parametrize(
    ("path", "alpha", "sigma", "alpha_dot", "sigma_dot"),
    [
        ("linear", 0.5, 0.5, 1.0, -1.0),
        ("gvp", math.sqrt(0.5), math.sqrt(0.5), math.pi / 2 * math.sqrt(0.5), -math.pi / 2 * math.sqrt(0.5)),
        (
            "vp",
            math.exp(-0.25 * 19.9 * 0.25 - 0.025),
            math.sqrt(1 - math.exp(-0.5 * 19.9 * 0.25 - 0.05)),
            (0.5 * 19.9 * 0.5 + 0.05) * math.exp(-0.25 * 19.9 * 0.25 - 0.025),
            None,
        ),
    ],
)
def test_scaled_noise_by_hand(path, alpha, sigma, alpha_dot, sigma_dot):
    # data = 1, noise = -2 whatever the state; lambda(0.5) = 1 + 0.5 * 0.5 = 1.25
    remedy = EpsilonScaling(constant=1.0, slope=0.5)
    if sigma_dot is None:
        sigma_dot = -alpha * alpha_dot / sigma  # alpha^2 + sigma^2 = 1
    state, t = torch.full((1, 1), alpha - 2 * sigma, dtype=DOUBLE), scalar(0.5)
    data, noise = remedy.around(constant(path)).predict(state, t, zeros())
    assert float(noise) == pytest.approx(-2 / 1.25)
    assert float(data) == pytest.approx((alpha - 2 * sigma + sigma * 2 / 1.25) / alpha)
    velocity = remedy.around(constant(path)).velocity(state, t, zeros())
    assert float(velocity) == pytest.approx(alpha_dot * float(data) + sigma_dot * float(noise))


def test_pure_noise_is_left_alone():
    field, state = axes([0.5, 1.0], "linear"), randn(0, 3, 2)
    ours = EpsilonScaling(1.02).around(field).velocity(state, scalar(0.0), zeros(3))
    assert torch.equal(ours, field.velocity(state, scalar(0.0), zeros(3)))


def noise_norm(states, path, t):
    """Root mean square of the exact noise prediction on states along the axes, [times]."""
    alpha, sigma = (f(torch.from_numpy(t)).numpy()[:, None] for f in (path.alpha, path.sigma))
    v = alpha**2 * VARIANCES + sigma**2
    return np.sqrt((COUNTS * (sigma / v * states) ** 2).sum(axis=1))


def findings(path, **known):
    given = {"variances": VARIANCES, "counts": COUNTS, "grid": GRID, "sampler": "euler"} | known
    return Findings(source="run", path=interpolant(path), **given)


def with_doubt(values, seed=0, size=1e-4):
    """The estimate and 40 resamples around it."""
    return np.concatenate(
        [values[None], values + size * np.random.default_rng(seed).standard_normal((40, len(values)))]
    )


@pytest.mark.parametrize(
    ("path", "factor", "method"),
    [
        *((path, factor, "euler") for path in PATHS for factor in (0.985, 1.02)),
        ("linear", 1.0, "euler"),
        ("gvp", 1.02, "heun"),
    ],
)
def test_the_planted_noise_scale_is_recovered_and_undone(path, factor, method):
    field, way = axes(VARIANCES, path), interpolant(path)
    plain, faulty = (along(model, method) for model in (field, Loud(field, factor)))
    columns, t = np.arange(0, 19, 3), GRID[1:20:3]
    ratio = noise_norm(faulty[columns], way, t) / noise_norm(plain[columns], way, t)
    fit = fitted(
        "epsilon-scaling", findings(path, sampler=method, noise_norm=Curve(t, with_doubt(ratio, size=1e-3), 41))
    )
    assert fit.called_for is (factor != 1.0)
    if factor == 1.0:
        assert not fit.remedy.active
        return
    estimate = fit.estimates["constant"]
    # row 0 is free of noise; left is what the sampler's own lag, a few per cent, does to the weights of the axes
    assert estimate.value == pytest.approx(factor, abs=5e-5)
    assert estimate.low <= factor <= estimate.high
    mended = along(fit.remedy.around(Loud(field, factor)), method)
    np.testing.assert_allclose(mended[:-1], plain[:-1], rtol=3e-4)  # log SNR gained times the error above


def test_a_linear_noise_scale_is_recovered():
    field, way, t = axes(VARIANCES, "vp"), interpolant("vp"), GRID[1:20:2]
    faulty = along(Loud(field, 1.01))
    ratio = noise_norm(faulty[0:19:2], way, t) / noise_norm(along(field)[0:19:2], way, t)
    found = fitted(
        "epsilon-scaling", findings("vp", noise_norm=Curve(t, with_doubt(ratio, size=1e-5), 41)), {"form": "linear"}
    )
    assert found.estimates["constant"].value == pytest.approx(1.01, abs=1e-4)
    assert found.estimates["slope"].value == pytest.approx(0.0, abs=1e-4)


# --- temporal score rescaling


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [0.8, 1.3])
def test_a_rescaled_score_is_that_of_narrower_data(path, k):
    mean, width = randn(1, 3), 0.4
    wide, narrow = (gaussian(mean, w, path) for w in (width, width / math.sqrt(k)))
    state, cond = randn(2, 5, 3), zeros(5)
    for t in (0.05, 0.3, 0.9):
        # the score of the centred data is what is rescaled: put the state's mean where the formula has it
        remedied = ScoreRescaling(k, width).around(wide).predict(state, scalar(t), cond)
        for ours, theirs in zip(remedied, narrow.predict(state, scalar(t), cond), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# --- label correction


FINE = np.linspace(0.0, 1.0, 4001)


def law(variance, path, times=FINE):
    """Variance of genuine states, and its rate v' / (2 v), in closed form."""
    way, at = interpolant(path), torch.from_numpy(np.clip(times, 0.0, 1.0 - 1e-6))
    alpha, sigma, alpha_dot, sigma_dot = (f(at).numpy() for f in (way.alpha, way.sigma, way.alpha_dot, way.sigma_dot))
    v = alpha**2 * variance + sigma**2
    return v, (alpha * alpha_dot * variance + sigma * sigma_dot) / v


def deviations(variance, path, rate):
    """Deviation of states solved exactly with this rate over that of genuine ones, at FINE."""
    v, _ = law(variance, path)
    return np.exp(cumulative_trapezoid(rate, FINE, initial=0.0)) * np.sqrt(v[0] / v)


def measured_map(variance, path, ratio):
    """m(t): where genuine states have the variance that the faulty ones have, near t; monotone."""
    v, _ = law(variance, path)
    rows = [np.flatnonzero(np.abs(FINE - t) < 0.15) for t in FINE]
    return np.maximum.accumulate(
        [FINE[r[np.argmin(np.abs(v[r] - x))]] for r, x in zip(rows, v * ratio**2, strict=True)]
    )


def told(m, strength):
    """Labels of `LabelCorrection`, which `test_labels_between_and_beyond_the_knots` holds to the same."""
    return np.clip(FINE + strength * (m - FINE), 0.0, 1.0)


@pytest.mark.parametrize(("variance", "before"), [(25.0, -0.075), (100.0, -0.109)])
def test_the_measured_map_undoes_a_slow_velocity_where_signal_rules(variance, before):
    def rate(t):
        return 0.95 * law(variance, "linear", t)[1]

    ratio = deviations(variance, "linear", rate(FINE))
    mended = deviations(variance, "linear", rate(told(measured_map(variance, "linear", ratio), 1.0)))
    # 0.95 of the growth of the logarithm, log(s^2) / 2 from 0 to 1, is missing a twentieth
    assert ratio[-1] == pytest.approx(variance**-0.025, rel=1e-3)
    assert ratio[-1] - 1 == pytest.approx(before, abs=3e-3)
    # the signal grows as 1 / m instead of 1 / t; to first order that overshoots by half the square of log(range of t)
    assert abs(mended[-1] - 1) < 0.5 * abs(ratio[-1] - 1)


@pytest.mark.parametrize("offset", [0.03, -0.03])
@pytest.mark.parametrize("variance", [0.25, 4.0])
@pytest.mark.parametrize("path", ["gvp", "vp"])
def test_a_mislabelled_network_is_undone_on_the_other_side(path, variance, offset):
    def rate(t):
        return law(variance, path, np.clip(t + offset, 0.0, 1.0))[1]

    half = slice(1500, 2001)
    ratio = deviations(variance, path, rate(FINE))
    m = measured_map(variance, path, ratio)
    # its states are where it was told to be: ahead by the offset
    np.testing.assert_allclose((m - FINE)[half], offset, atol=4e-3)
    untouched, other, same = (
        np.abs(deviations(variance, path, rate(told(m, strength))) - 1)[half].max() for strength in (0.0, -1.0, 1.0)
    )
    # the lag builds up from nothing at t = 0, so that early labels are corrected by less than the offset
    assert other < 0.3 * untouched
    assert same > 1.5 * untouched


@pytest.mark.parametrize("path", PATHS)
def test_a_label_map_that_is_the_planted_offset_gives_the_exact_field_back(path):
    field, offset, grid = axes(VARIANCES, path), 0.04, np.linspace(0.1, 0.9, 41)
    times = tuple(np.linspace(0.1, 1.0, 10).tolist())
    remedy = LabelCorrection(times, tuple(t - offset for t in times))
    mended = along(remedy.around(Mislabelled(field, offset)), grid=grid)
    np.testing.assert_allclose(mended, along(field, grid=grid), rtol=1e-12)
    assert np.abs(along(Mislabelled(field, offset), grid=grid) / along(field, grid=grid) - 1).max() > 0.01


def test_labels_between_and_beyond_the_knots():
    told = LabelCorrection((0.4, 0.8), (0.3, 0.76), 0.5).around(axes([1.0], "linear"))
    times = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.9], dtype=DOUBLE)
    # the lag runs 0, 0.1, 0.04 over 0, 0.4, 0.8 and stays 0.04; half of it is told
    expected = times - 0.5 * torch.tensor([0.0, 0.05, 0.1, 0.07, 0.04, 0.04], dtype=DOUBLE)
    torch.testing.assert_close(told.label(torch.zeros(6, 1), times), expected, rtol=0, atol=1e-12)


# --- a label a state


def spectral_bank(n=600, d=256):
    return Bank({0: randn(3, n, d).numpy() / np.sqrt(np.arange(1, d + 1))}, "bank", "sha")


@pytest.mark.parametrize("path", ["linear", "gvp"])  # on vp single states of this dimension scatter too much to tell
def test_a_late_state_is_told_its_own_level(path):
    bank, way = spectral_bank(), interpolant(path)
    data, noise = (randn(k, 200, 256) for k in (5, 6))
    data = data / torch.arange(1, 257, dtype=DOUBLE).sqrt()
    times = (0.3, 0.5, 0.6, 0.7, 0.9)
    genuine = [
        float(noise_levels(bank.spectrum, way.state(noise, data, scalar(t)).numpy(), way)[0].mean()) for t in times
    ]
    settings = {"null": tuple(genuine), "data": "sha", "spectrum": bank.spectrum}
    late = way.state(noise, data, scalar(0.5))
    field = axes(np.ones(256), path)
    told = LabelCorrectionPerState(times, times, reliability=(1.0,) * 5, **settings).around(field)
    labels = told.label(late, scalar(0.6))
    # a level scatters by 0.03 to 0.1 over states of this dimension (1 / sqrt(2 d) of its own size); the mean does not
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.015)
    blunt = LabelCorrectionPerState(times, times, reliability=(0.0,) * 5, **settings).around(field)
    torch.testing.assert_close(blunt.label(late, scalar(0.6)), torch.full((200,), 0.6, dtype=DOUBLE))


def test_reliability_is_the_share_of_scatter_that_genuine_states_lack():
    t = np.linspace(0.1, 0.9, 9)
    lag = Curve(t, with_doubt(t - 0.05 * t, size=1e-3), 41)
    spread = tuple(Curve(t, with_doubt(np.full(9, v), size=1e-5), 41) for v in (0.004, 0.003))
    given = findings(
        "linear",
        lags={"level": lag},
        excess={"level": {"genuine": Estimate(0.1, 0.08, 0.12, 41), "floor": Estimate(0.01, 0.0, 0.02, 41)}},
        spread=spread,
        level_null=Curve(t, with_doubt(t, size=1e-4), 41),
        spectrum=spectral_bank(60, 4).spectrum,
        fingerprint="sha",
    )
    fit = fitted("label-correction-per-state", given)
    assert fit.called_for
    np.testing.assert_allclose(fit.remedy.reliability, 0.25, atol=1e-3)
    np.testing.assert_allclose(fit.remedy.labels, 0.95 * t, atol=1e-6)
    assert fit.remedy.record()["settings"]["data"] == "sha"
    assert "spectrum" not in fit.remedy.record()["settings"]


# --- time shift


def of_variance(variance, n=3, d=64):
    """States whose pixel variance is exactly this."""
    states = randn(7, n, d)
    states = states - states.mean(dim=1, keepdim=True)
    return states / states.std(dim=1, keepdim=True) * math.sqrt(variance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.4, 0.8])
def test_a_perfect_state_is_shifted_as_published_and_not_with_the_data_s_variance(path, t):
    way, s2 = interpolant(path), 0.25
    alpha, sigma = float(way.alpha(scalar(t))), float(way.sigma(scalar(t)))
    states = of_variance(alpha**2 * s2 + sigma**2)
    corrected, published = TimeShift(1.0, 1.0, (s2,)), TimeShift(1.0, 1.0)
    still = corrected.shifted(way, states, scalar(t), None, 1.0)
    torch.testing.assert_close(still, torch.full((3,), t, dtype=DOUBLE), rtol=0, atol=1e-9)
    moved = published.shifted(way, states, scalar(t), None, 1.0)
    assert bool((moved < t - 1e-4).all())
    # sigma(t')^2 is the whole variance
    torch.testing.assert_close(way.sigma(moved).square(), torch.full((3,), alpha**2 * s2 + sigma**2, dtype=DOUBLE))


def test_the_published_shift_on_the_linear_path_by_hand():
    # var = 0.6^2 + 0.4^2 / 4 = 0.4, t' = 1 - sqrt(0.4) = 0.36754; a window of 0.04 stops it at its edge
    states = of_variance(0.4)
    free, edge = (TimeShift(w, 1.0).shifted(interpolant("linear"), states, scalar(0.4), None, 1.0) for w in (1.0, 0.04))
    assert free.tolist() == pytest.approx([1 - math.sqrt(0.4)] * 3)
    assert edge.tolist() == pytest.approx([0.38] * 3)
    late = TimeShift(1.0, 0.3).shifted(interpolant("linear"), states, scalar(0.4), None, 1.0)
    assert late.tolist() == pytest.approx([0.4] * 3)


@pytest.mark.parametrize(("index", "steps"), [(900, 16), (550, 25), (200, 61), (100, 94)])
def test_the_published_shift_on_ddpms_table(index, steps):
    table = Table()
    t = table.time(scalar(float(index)))
    variance = float(table.sigma(t) ** 2 + 0.25 * table.alpha(t) ** 2)
    moved = TimeShift(1.0, 1.0).shifted(table, of_variance(variance), t, None, 1.0)
    # the known values are whole steps
    assert float(1000 * (t - moved).mean()) == pytest.approx(steps, abs=1.0)


def test_each_class_has_its_own_variance():
    way, t = interpolant("linear"), scalar(0.5)
    states = torch.cat([of_variance(0.25 + 0.25 * s2, n=1) for s2 in (0.1, 0.5)])
    remedy = TimeShift(1.0, 1.0, (0.1, 0.5))
    shifted = remedy.shifted(way, states, t, torch.tensor([0, 1]), 1.0)
    torch.testing.assert_close(shifted, torch.full((2,), 0.5, dtype=DOUBLE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_the_target_variant_puts_the_prediction_together_at_the_shifted_time(path):
    field, remedy = gaussian(randn(8, 2, 4, 4), 0.5, path), TimeShift(0.06, 0.9)
    state, t, s, cond = randn(9, 3, 2, 4, 4), scalar(0.3), scalar(0.4), zeros(3)
    method, _ = remedy.solver(Recombine(), 10)
    found = method.step(remedy.around(field), state, t, s, cond)
    plain = Recombine().step(field, state, t, s, cond)
    to = remedy.shifted(field.interpolant, plain, s, cond, 1.0)
    assert bool((to != 0.4).all())
    data, noise = field.predict(state, t, cond)
    torch.testing.assert_close(found, field.interpolant.state(noise, data, to), rtol=0, atol=1e-12)


# --- dcw


def test_dcw_by_hand():
    # linear, t = 0.5 -> 0.75, Euler: u = 1 - (-2) = 3, state 0.2 + 0.25 * 3 = 0.95; weight sigma = 0.5
    state, t, s = torch.full((1, 1), 0.2, dtype=DOUBLE), scalar(0.5), scalar(0.75)
    for settings, expected in (
        ({}, 0.95 + 0.1 * 0.5 * (0.95 - DATA)),
        ({"weight": "constant"}, 0.95 + 0.1 * (0.95 - DATA)),
        ({"scaled": True}, 0.95 + 0.1 * 0.5 * (0.95 - 0.75 * DATA)),
        ({"weight": "edm"}, 0.95 + 0.1 * (1.0 / 80.0) * (0.95 - DATA)),  # sigma / alpha = 1 at t = 0.5
    ):
        method, _ = DCW(0.1, **settings).solver(sampler("euler"), 4)
        assert float(method.step(constant("linear"), state, t, s, zeros())) == pytest.approx(expected)


DATA = 0.2 + 0.5 * 3.0
"""data_hat that goes with the velocity 3 at the state 0.2: state + (1 - t) u."""


def test_the_published_weight_of_dcw_is_that_of_edms_sigmas():
    # t = 1 / 81 on the linear path is EDM's sigma 80, where its sampling begins; t = 1 / (1 + 1.14) its sigma 1.14
    at = torch.tensor([0.0, 1 / 81, 1 / 2.14], dtype=DOUBLE)
    found = DCW(0.005, weight="edm").share(interpolant("linear"), at)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.14 / 80], dtype=DOUBLE))


def test_the_low_band_is_the_mean_of_four_pixels():
    image = torch.arange(16, dtype=DOUBLE).reshape(1, 1, 4, 4)
    low = low_band(image)
    assert low[0, 0, :2, :2].unique().tolist() == [(0 + 1 + 4 + 5) / 4]
    torch.testing.assert_close(low_band(low), low)
    assert float((low * (image - low)).sum()) == pytest.approx(0.0)


@pytest.mark.parametrize("planted", [0.004, -0.006])
@pytest.mark.parametrize("path", PATHS)
def test_a_planted_drift_is_fitted_and_undone(path, planted):
    variances = np.array([0.3, 0.0])
    field, way, t = axes(variances, path), interpolant(path), GRID[1:20:2]
    euler = sampler("euler")
    plain = along(field)
    faulty = along(field, DCW(planted).solver(euler, 50)[0])
    alpha, sigma = (f(torch.from_numpy(t)).numpy()[:, None] for f in (way.alpha, way.sigma))
    energy = (alpha**2 * variances + sigma**2) * np.stack([np.ones((10, 2)), (faulty / plain)[0:19:2] ** 2])
    (null, model) = ((e[:, 0] - e[:, 1]) / 0.3 for e in energy)
    signal = tuple(Curve(t, with_doubt(a, size=1e-6), 41) for a in (model, null))
    noise = tuple(Curve(t, with_doubt(e[:, 1], size=1e-6), 41) for e in energy[::-1])
    given = findings(path, variances=np.array([0.3]), counts=np.array([1.0]), signal=signal, noise=noise)
    fit = fitted("dcw", given)
    assert fit.called_for
    # row 0 carries no noise and the forward model is the planted one
    assert fit.remedy.strength == pytest.approx(-planted, rel=1e-3)
    both = along(field, fit.remedy.solver(DCW(planted).solver(euler, 50)[0], 50)[0])
    before, after = (np.abs(x / plain - 1)[:-1].max() for x in (faulty, both))
    # what is left is the product of the two strengths
    assert after < 0.05 * before


# --- churn, restart


@pytest.mark.parametrize("path", PATHS)
def test_churned_states_have_the_law_of_an_earlier_time(path):
    way, t, gamma, c2 = interpolant(path), scalar(0.6), 0.2, 0.7
    earlier = way.time_of_log_snr(way.log_snr(t) - 2 * math.log1p(gamma))
    ratio = (way.sigma(earlier) / way.alpha(earlier)) / (way.sigma(t) / way.alpha(t))
    assert float(ratio) == pytest.approx(1.2, rel=1e-9)
    one, zero = torch.ones(1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)
    keep, added = (float(renoised(way, x, t, earlier, z)) for x, z in ((one, zero), (zero, one)))
    v = [float(way.alpha(x) ** 2 * c2 + way.sigma(x) ** 2) for x in (t, earlier)]
    assert keep**2 * v[0] + added**2 == pytest.approx(v[1], rel=1e-9)


def test_churn_shrinks_an_error_of_the_state_and_draws_nothing_at_pure_noise():
    field, method = axes([0.5], "linear"), Churn(5.0).solver(sampler("euler"), 50)[0]
    assert isinstance(method, Churned)
    assert method.gamma == pytest.approx(0.1)
    state, t, s = torch.ones(1, 1, dtype=DOUBLE), scalar(0.5), scalar(0.52)
    plain, churned = (
        m.step(field, state, t, s, zeros(), torch.zeros(1, 1, dtype=DOUBLE)) for m in (sampler("euler"), method)
    )
    assert float(churned) < float(plain)
    start = method.step(field, state, scalar(0.0), scalar(0.02), zeros(), torch.full((1, 1), 9.0, dtype=DOUBLE))
    assert torch.equal(start, sampler("euler").step(field, state, scalar(0.0), scalar(0.02), zeros()))


def test_churn_is_bounded_and_keeps_to_its_window():
    method = Churn(100.0, start=0.4, end=0.6).solver(sampler("euler"), 10)[0]
    assert method.gamma == pytest.approx(math.sqrt(2) - 1)
    field, state, loud = axes([0.5], "gvp"), torch.ones(1, 1, dtype=DOUBLE), torch.full((1, 1), 5.0, dtype=DOUBLE)
    for t, acts in ((0.3, False), (0.5, True), (0.7, False)):
        step = method.step(field, state, scalar(t), scalar(t + 0.1), zeros(), loud)
        assert bool(step == sampler("euler").step(field, state, scalar(t), scalar(t + 0.1), zeros())) is not acts


def test_restart_goes_back_once_and_solves_again():
    asked = []

    @dataclass(frozen=True)
    class Asked(Wrapper):
        def predict(self, state, t, cond):
            return self.model.predict(state, t, cond)

        def velocity(self, state, t, cond):
            asked.append(round(float(t), 6))
            return self.model.velocity(state, t, cond)

    remedy = Restart(again=3, low=0.2, high=0.5)
    method, steps = remedy.solver(sampler("euler"), 5)
    walked = walk(
        Asked(axes([0.5], "linear")),
        method,
        torch.ones(1, 1, dtype=DOUBLE),
        zeros(),
        torch.linspace(0, 1, steps + 1, dtype=DOUBLE),
        lambda step, like: torch.zeros_like(like),
    )
    list(walked)
    # the step from 0.4 to 0.6 crosses 0.5; then 0.2 to 0.6 in three
    assert asked == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.2 + 0.4 / 3, 0.2 + 0.8 / 3, 0.6, 0.8], abs=1e-6)


# --- heun


@pytest.mark.parametrize("steps", [10, 11])
def test_heun_at_equal_calls_is_nearer_to_the_exact_law(steps):
    grid, variances = np.linspace(0, 1, steps + 1), np.array([0.3, 2.0])
    method, count = HeunEqualCalls().solver(sampler("euler"), steps)
    heun = along(axes(variances, "linear"), method, np.linspace(0, 1, count + 1))[-1] ** 2
    euler = euler_variances(grid, rate_exact(variances, "linear"))[-1]
    assert (np.abs(np.log(heun / variances)) < np.abs(np.log(euler / variances))).all()


# --- fits that find nothing, or have nothing to go on


def lagging(value, low, high):
    t = np.linspace(0.1, 0.9, 9)
    excess = {"genuine": Estimate(value, low, high, 41), "floor": Estimate(0.005, 0.0, 0.01, 41)}
    curve = Curve(t, with_doubt(t * (1 - value / 2), size=1e-3), 41)
    return findings(
        "linear", lags={"level": curve}, excess={"level": excess}, pixel_variance=(0.2,), verdict="detected"
    )


@pytest.mark.parametrize("name", ["label-correction", "time-shift", "churn", "restart", "heun-equal-calls"])
def test_no_lag_means_strength_zero(name):
    fit = fitted(name, lagging(0.001, -0.02, 0.02))
    assert not fit.called_for
    assert not fit.remedy.active
    assert fit.reason


@pytest.mark.parametrize("name", ["label-correction", "time-shift", "churn", "restart"])
def test_a_lag_beyond_the_floor_is_acted_on(name):
    fit = fitted(name, lagging(0.1, 0.08, 0.12))
    assert fit.called_for
    assert fit.remedy.active
    assert not fitted(name, lagging(0.004, 0.001, 0.007)).called_for  # clear of 0, but within the floor


def test_time_shift_takes_the_data_s_variance_and_a_window_as_wide_as_the_lag():
    fit = fitted("time-shift", lagging(0.1, 0.08, 0.12), {"until": 0.85})
    assert fit.remedy.variances == (0.2,)
    # the lag is 0.05 t, at most 0.04 before 0.85, on either side
    assert fit.remedy.window == pytest.approx(0.08, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epsilon-scaling", "run does not tell the norms of the predicted noise; measure again with --measure norms"),
        ("score-rescaling", "--measure norms"),
        ("dcw", "run does not tell both clocks; measure again with --reference clocks"),
        ("label-correction", "run holds no reading 'level'; measure again with --reference level"),
        ("label-correction-per-state", "holds no reading 'level'"),
        ("time-shift", "pixel variance of the data"),
    ],
)
def test_what_was_not_measured_is_named(name, message):
    with pytest.raises(InputError, match=message):
        fitted(name, findings("linear"))


def test_a_fitted_constant_cannot_be_given_as_well():
    with pytest.raises(InputError, match="'constant' of 'epsilon-scaling' is what the measurement decides"):
        fitted("epsilon-scaling", findings("linear"), {"constant": 1.1})


def test_convert_and_scaling_agree_with_the_planted_fault():
    field, state, t = axes(VARIANCES, "gvp"), randn(11, 2, 4), scalar(0.4)
    ours = EpsilonScaling(1 / 1.03).around(field).predict(state, t, zeros(2))
    for a, b in zip(ours, Loud(field, 1.03).predict(state, t, zeros(2)), strict=True):
        torch.testing.assert_close(a, b)
    u = EpsilonScaling(1 / 1.03).around(field).velocity(state, t, zeros(2))
    for a, b in zip(convert(field.interpolant, "velocity", state, u, t), ours, strict=True):
        torch.testing.assert_close(a, b)
