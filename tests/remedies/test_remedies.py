"""Training remedies: laws of the times, targets by hand, and the golden losses of MixFlow on SiT."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from byhand import coefficients
from golden import det, filled
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slowflow.errors import InputError
from slowflow.families import rae
from slowflow.families.rae.backbone import DDT, RAEConfig
from slowflow.families.sit.backbone import SiT, SiTConfig
from slowflow.flow.grids import unwarp, warp
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.remedies import REMEDIES
from slowflow.remedies.base import draw_times
from slowflow.remedies.mixflow import ORDERS, MixFlow
from slowflow.remedies.plain import Plain

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
SHIFT = math.sqrt(48)
NAMES = [
    "empirical",
    "input-perturbation",
    "jitter",
    "mixflow",
    "noise-blind",
    "plain",
    "plain-beta",
    "reflexflow",
    "same-marginal",
    "self-forcing",
    "soar",
    "two-clock",
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(seed=0, shape=(6, 2, 3)):
    draw = seeded(seed)
    return tuple(torch.randn(shape, generator=draw, dtype=DOUBLE) for _ in range(2))


# --- laws of the times


def test_mean_label_under_beta21_is_two_thirds():
    n = 200_000
    t, _, _ = MixFlow(gamma=0.4).times(n, seeded())
    # variance of Beta(2,1) is 1/18; five standard errors
    assert float(t.mean()) == pytest.approx(2 / 3, abs=5 * math.sqrt(1 / 18 / n))


def test_mean_label_under_the_uniform_law_is_one_half():
    n = 200_000
    t, _, _ = Plain().times(n, seeded())
    # variance 1/12; five standard errors
    assert float(t.mean()) == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / n))


def triangle_p_value(gamma, shift):
    """p-value of a chi-square test that (m, t) is uniform over the slowed triangle, on 10 x 10 cells of equal area."""
    t, m, _ = MixFlow(gamma=gamma, shift=shift).times(20_000, seeded(1))
    # t^2 and the share (t - m) / (gamma t) are independent and uniform if and only if (m, t) is
    counts, _, _ = np.histogram2d(t.numpy() ** 2, ((t - m) / (gamma * t)).numpy(), bins=10, range=[[0, 1], [0, 1]])
    return stats.chisquare(counts.ravel()).pvalue


@pytest.mark.parametrize("gamma", [0.4, 0.8, 1.0])
def test_slowed_pairs_are_uniform_before_a_warp(gamma):
    # the seed is fixed; a correct law fails once in a thousand seeds
    assert triangle_p_value(gamma, 1.0) > 1e-3


@pytest.mark.parametrize("gamma", [0.4, 0.8])
def test_slowed_pairs_are_not_uniform_after_a_warp(gamma):
    assert triangle_p_value(gamma, SHIFT) < 1e-6


def test_slowed_pairs_fill_squares_of_the_plane_equally():
    t, m, _ = MixFlow(gamma=1.0).times(40_000, seeded(2))
    counts, _, _ = np.histogram2d(t.numpy(), m.numpy(), bins=8, range=[[0, 1], [0, 1]])
    inside = counts[np.tril_indices(8, -1)]
    assert counts[np.triu_indices(8, 1)].sum() == 0
    # each square below the diagonal has probability 2 / 64
    assert stats.chisquare([*inside, 40_000 - inside.sum()], [1250.0] * 28 + [5000.0]).pvalue > 1e-3


def test_uniform_labels_do_not_fill_the_triangle_equally():
    t, _, _ = MixFlow(gamma=0.8, time_law="uniform").times(20_000, seeded(3))
    counts, _ = np.histogram(t.numpy() ** 2, bins=10, range=(0, 1))
    assert stats.chisquare(counts).pvalue < 1e-6


@given(gamma=st.floats(0.0, 1.0), shift=st.floats(0.2, 20.0), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_m_stays_inside_the_slowed_interval(gamma, shift, seed):
    t, m, target_time = MixFlow(gamma=gamma, shift=shift).times(50, seeded(seed))
    assert bool((m <= t).all())
    # one rounding of the product
    assert bool((m >= (1 - gamma) * t - 1e-15).all())
    assert torch.equal(target_time, m)
    assert bool(((t >= 0) & (t <= 1)).all())


@pytest.mark.parametrize("remedy", [Plain(shift=3.0), MixFlow(shift=3.0)])
def test_the_label_is_warped_and_slowed_afterwards(remedy):
    unwarped = type(remedy)(shift=1.0).times(100, seeded(4))
    warped = remedy.times(100, seeded(4))
    torch.testing.assert_close(warped[0], warp(unwarped[0], 3.0), rtol=0, atol=1e-15)
    torch.testing.assert_close(warped[1] / warped[0], unwarped[1] / unwarped[0], rtol=1e-12, atol=0)


# --- relation to plain training


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target_at", ["m", "t"])
@pytest.mark.parametrize("shift", [1.0, SHIFT])
def test_gamma_zero_under_the_uniform_law_is_plain_training_bit_for_bit(path, target_at, shift):
    noise, data = (part.float() for part in pair())
    none = MixFlow(gamma=0.0, time_law="uniform", interpolant=path, target_at=target_at, shift=shift)
    plain = Plain(interpolant=path, shift=shift)
    for ours, theirs in zip(none.pair(noise, data, seeded(5)), plain.pair(noise, data, seeded(5)), strict=True):
        assert torch.equal(ours, theirs)


def test_positive_gamma_is_not_plain_training():
    noise, data = pair()
    some = MixFlow(gamma=0.1, time_law="uniform").pair(noise, data, seeded(5))
    plain = Plain().pair(noise, data, seeded(5))
    assert torch.equal(some.t, plain.t)
    assert not torch.equal(some.state, plain.state)


def test_both_remedies_draw_the_same_labels_from_one_seed():
    slowed = MixFlow(gamma=0.8).times(64, seeded(6))[0]
    assert torch.equal(slowed, Plain(time_law="beta21").times(64, seeded(6))[0])


# --- states and targets


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target_at", ["m", "t"])
def test_state_and_velocity_target_by_hand(path, target_at):
    noise, data = pair(7)
    remedy = MixFlow(gamma=0.6, interpolant=path, target_at=target_at)
    t, m, _ = remedy.times(6, seeded(8))
    got = remedy.pair(noise, data, seeded(8))
    assert torch.equal(got.t, t)
    for i in range(6):
        alpha, sigma, _, _ = coefficients(path, float(m[i]))
        torch.testing.assert_close(got.state[i], alpha * data[i] + sigma * noise[i], rtol=0, atol=1e-12)
        _, _, alpha_dot, sigma_dot = coefficients(path, float(m[i] if target_at == "m" else t[i]))
        expected = alpha_dot * data[i] + sigma_dot * noise[i]
        # sigma' of vp reaches ten near the data end
        torch.testing.assert_close(got.target[i], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("path", "equal"), [("linear", True), ("gvp", False), ("vp", False)])
def test_both_targets_coincide_on_the_straight_path_only(path, equal):
    noise, data = pair(9)
    at_m, at_t = (MixFlow(gamma=0.6, interpolant=path, target_at=at).pair(noise, data, seeded(10)) for at in "mt")
    assert torch.equal(at_m.state, at_t.state)
    assert torch.equal(at_m.target, at_t.target) is equal


@pytest.mark.parametrize("target_at", ["m", "t"])
@pytest.mark.parametrize(("prediction", "index"), [("noise", 0), ("data", 1)])
def test_noise_and_data_targets_do_not_depend_on_time(prediction, index, target_at):
    noise, data = pair(11)
    got = MixFlow(gamma=0.6, interpolant="gvp", prediction=prediction, target_at=target_at).pair(
        noise, data, seeded(12)
    )
    assert torch.equal(got.target, (noise, data)[index])


def test_plain_puts_state_label_and_target_at_one_time():
    noise, data = pair(13)
    got = Plain(interpolant="gvp").pair(noise, data, seeded(14))
    path = interpolant("gvp")
    torch.testing.assert_close(got.state, path.state(noise, data, got.t), rtol=0, atol=1e-15)
    torch.testing.assert_close(got.target, path.velocity(noise, data, got.t), rtol=0, atol=1e-15)


def test_pairs_come_in_the_dtype_of_the_data():
    noise, data = (part.float() for part in pair(15))
    assert {part.dtype for part in MixFlow().pair(noise, data, seeded())} == {torch.float32}


# --- laws, supports and orders


@pytest.mark.parametrize("law", ["uniform", "beta21", "logit-normal"])
@pytest.mark.parametrize("support", [(0.0, 1.0), (0.001, 1.0), (0.2, 0.7)])
def test_laws_keep_to_their_support(law, support):
    t = draw_times(law, 20_000, seeded(1), support)
    assert support[0] <= float(t.min()) < float(t.max()) <= support[1]
    density = {
        "uniform": stats.uniform().cdf,
        "beta21": stats.beta(2, 1).cdf,
        "logit-normal": lambda x: stats.norm.cdf(np.log(x / (1 - x))) if np.ndim(x) else stats.norm.cdf(logit(x)),
    }[law]
    with np.errstate(divide="ignore"):
        low, high = (float(density(np.float64(end))) for end in support)
        # the seed is fixed; a correct law fails once in a thousand seeds
        assert stats.kstest(t.numpy(), lambda x: (density(x) - low) / (high - low)).pvalue > 1e-3


def logit(x):
    return np.log(x) - np.log1p(-x)


def test_orders_agree_without_a_shift_and_keep_their_own_triangle_with_one():
    for shift, equal in ((1.0, True), (SHIFT, False)):
        released, paper = (MixFlow(gamma=0.4, shift=shift, order=o).times(20_000, seeded(1)) for o in ORDERS)
        assert torch.equal(released[0], paper[0])
        assert torch.equal(released[1], paper[1]) is equal
    t, m, _ = (unwarp(x, SHIFT) for x in MixFlow(gamma=0.4, shift=SHIFT, order="paper").times(20_000, seeded(1)))
    counts, _, _ = np.histogram2d(t.numpy() ** 2, ((t - m) / (0.4 * t)).numpy(), bins=10, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_an_unknown_order_is_refused():
    with pytest.raises(InputError, match="order is 'x', expected one of released, paper"):
        MixFlow(order="x")


@pytest.mark.parametrize("remedy", [Plain(levels=50), MixFlow(gamma=0.4, levels=50, interpolant="table")])
def test_times_on_a_table_are_levels(remedy):
    t, m, _ = (remedy.rounded(x) for x in remedy.times(5000, seeded(2)))
    for times in (t, m):
        levels = times * 50
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-12)
        assert (float(levels.min()), round(float(levels.max()))) == (0.0, 49)
    assert bool((m <= t).all())
    if isinstance(remedy, Plain):
        assert stats.chisquare(np.bincount((t * 50).round().int().numpy(), minlength=50)).pvalue > 1e-3


def bindable(**settings):
    return FlowModel.from_callable(torch.nn.Identity(), shape=(2, 3)), settings


def test_a_remedy_is_bound_to_how_the_model_was_trained():
    model, _ = bindable()
    model = replace(
        model, interpolant=interpolant("gvp"), shift=2.0, training=Training("logit-normal", (0.1, 0.9), levels=10)
    )
    plain = Plain(shift=3.0).bound(model)
    assert (plain.time_law, plain.shift, plain.support, plain.levels) == ("logit-normal", 6.0, (0.1, 0.9), 10)
    assert MixFlow().bound(model).time_law == "beta21"
    assert Plain(time_law="uniform").bound(model).time_law == "uniform"


# --- golden losses


@pytest.fixture(scope="module")
def golden_net():
    return filled(SiT(SiTConfig(8, 2, 4, hidden=32, depth=2, heads=2, classes=10, learn_sigma=True)))


GOLDEN = {
    ("linear", "m"): (5.05281192, 5.30146577, 5.18888247),
    ("linear", "t"): (5.05281192, 5.30146577, 5.18888247),
    ("gvp", "m"): (6.56915818, 6.24530545, 6.66884266),
    ("gvp", "t"): (6.24252626, 6.2295472, 6.57785914),
}


@pytest.mark.parametrize(("path", "target_at"), GOLDEN)
def test_golden_mixflow_losses(path, target_at, golden_net, monkeypatch):
    draws = iter([[0.04, 0.25, 0.81], [0.5, 0.25, 1.0]])
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.tensor(next(draws), dtype=DOUBLE))
    remedy = MixFlow(gamma=0.8, interpolant=path, target_at=target_at)
    state, t, target = remedy.pair(det(3), det(2), seeded())
    assert t.tolist() == pytest.approx([0.2, 0.5, 0.9])
    out = golden_net(state, t, torch.tensor([0, 7, 10]))[:, :4]
    loss = (out - target).square().mean(dim=(1, 2, 3)).detach()
    # the table has nine digits; the official code was seen to round at 1.4e-7
    np.testing.assert_allclose(loss, GOLDEN[path, target_at], rtol=1e-6)


RAE_SHAPE = (3, 8, 4, 4)


@pytest.fixture(scope="module")
def rae_net():
    return filled(DDT(RAEConfig(4, 1, 8, (24, 32), (2, 1), (2, 2), 10)))


def rae_pair(remedy, draws, net, monkeypatch):
    """(t_n, m_n, loss) of a remedy on RAE's network with the given uniform draws, times in n."""
    model = rae.flow_model(net, name="golden", shift=SHIFT)
    drawn = iter(draws)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.tensor(next(drawn), dtype=DOUBLE))
    bound = remedy.bound(model)
    times = bound.times(3, seeded())
    drawn = iter(draws)
    state, t, target = bound.pair(det(3, RAE_SHAPE), det(2, RAE_SHAPE), seeded())
    gap = model.raw(state, t, torch.tensor([0, 7, 3])) - target
    return 1 - times[0], 1 - times[1], gap.square().mean(dim=(1, 2, 3)).detach()


RAE_TRAIN = {
    "uniform": ((0.43469134, 0.87364741, 0.98406015), (0.892607121, 0.923826537, 0.892017923)),
    "logit-normal": ((0.6579223, 0.87386802, 0.96147466), (0.89621641, 0.923829819, 0.891728427)),
}


@pytest.mark.parametrize("law", RAE_TRAIN)
def test_golden_rae_training(law, rae_net, monkeypatch):
    # RAE draws n where SlowFlow draws t = 1 - n, so its draw u is our draw 1 - u
    n, _, loss = rae_pair(Plain(time_law=law), [[0.9, 0.5, 0.1]], rae_net, monkeypatch)
    np.testing.assert_allclose(n, RAE_TRAIN[law][0], rtol=0, atol=5e-9)
    np.testing.assert_allclose(loss, RAE_TRAIN[law][1], rtol=1e-6)


def test_golden_mixflow_rae(rae_net, monkeypatch):
    # the released code draws n in [0, 0.999] before it takes 1 - sqrt(n), so its t0 ends at sqrt(0.999)
    remedy = MixFlow(gamma=0.4, support=(0.0, math.sqrt(0.999)))
    draws = [[0.04, 0.25, 0.81], [0.5, 0.25, 1.0]]
    t, m, loss = rae_pair(remedy, draws, rae_net, monkeypatch)
    np.testing.assert_allclose(t, (0.965193355, 0.873978225, 0.436191621), rtol=0, atol=1e-8)
    np.testing.assert_allclose(m, (0.972154684, 0.886580403, 0.661714973), rtol=0, atol=1e-8)
    np.testing.assert_allclose(loss, (0.90111267, 0.923807905, 0.883636314), rtol=1e-6)


# --- mistakes and randomness


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan, math.inf])
def test_gamma_outside_zero_to_one_is_refused(gamma):
    with pytest.raises(InputError, match=r"gamma is .*, expected a share of t between 0 and 1"):
        MixFlow(gamma=gamma)


@pytest.mark.parametrize("kind", [Plain, MixFlow])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"time_law": "beta12"}, "time_law is 'beta12', expected one of uniform, beta21, logit-normal"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": math.nan}, "shift is nan"),
        ({"prediction": "speed"}, "prediction is 'speed'"),
    ],
)
def test_wrong_settings_are_refused(kind, setting, message):
    with pytest.raises(InputError, match=message):
        kind(**setting)


def test_an_infinite_shift_is_refused():
    with pytest.raises(InputError, match="shift is inf"):
        Plain(shift=math.inf)


def test_wrong_target_is_refused():
    with pytest.raises(InputError, match="target_at is 'x', expected 'm' or 't'"):
        MixFlow(target_at="x")


def test_an_unknown_interpolant_is_refused():
    noise, data = pair()
    with pytest.raises(InputError, match="did you mean 'linear'"):
        Plain(interpolant="linea").pair(noise, data, seeded())


@pytest.mark.parametrize("shape", [(6, 2, 4), (5, 2, 3), (6, 6)])
def test_noise_and_data_of_other_shapes_are_refused(shape):
    noise, data = pair()[0], torch.zeros(shape, dtype=DOUBLE)
    remedy = Plain()
    # past the shape check of the annotations, which is on in tests only
    pair_method = getattr(type(remedy).pair, "__wrapped__", type(remedy).pair)
    with pytest.raises(InputError, match="they must be equal"):
        pair_method(remedy, noise, data, seeded())


@pytest.mark.parametrize("remedy", [Plain(), MixFlow()])
def test_a_given_generator_leaves_the_global_stream_alone(remedy):
    noise, data = pair()
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    first, again = remedy.pair(noise, data, seeded(16)), remedy.pair(noise, data, seeded(16))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(first.state, again.state)
    assert not torch.equal(first.state, remedy.pair(noise, data, seeded(17)).state)


def test_registry_lists_every_remedy_with_its_source():
    assert REMEDIES.names() == NAMES
    assert all(entry.source and entry.summary for entry in REMEDIES)
