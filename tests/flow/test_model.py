"""FlowModel: conventions around a network, and guidance around a FlowModel."""

import pytest
import torch
from torch import nn

from slowflow.errors import InputError
from slowflow.flow.exact import gaussian
from slowflow.flow.guidance import Guided, guided
from slowflow.flow.habits import Guiding
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel, Predictor, convert, first_output, regression_target, score

DOUBLE = torch.float64


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def scalar(t):
    return torch.tensor(t, dtype=DOUBLE)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


class Net(nn.Module):
    """A float64 module around a function of (state, label, cond) that records what it was told."""

    def __init__(self, function):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros((), dtype=DOUBLE))
        self.function = function
        self.labels, self.conds = [], []

    def forward(self, state, label, cond):
        self.labels.append(label.detach().clone())
        self.conds.append(cond.clone())
        return self.function(state, label, cond)


def model_of(function, **settings):
    settings = {"interpolant": interpolant("linear"), "prediction": "velocity", "shape": (2,), **settings}
    return FlowModel(net=Net(function), **settings)


def table(state, label, cond):
    """A network whose answer depends on state, label and class."""
    return torch.sin(state) + label[:, None] + 0.1 * cond[:, None]


def test_unknown_prediction_is_refused():
    model = model_of(table)
    # set past the constructor, whose type check (on in tests only) would speak first
    object.__setattr__(model, "prediction", "speed")
    with pytest.raises(InputError, match="prediction is 'speed', expected one of velocity, noise, data, score, v"):
        model.__post_init__()


@pytest.mark.parametrize("end", [0.0, -1.0, 1.5, float("nan")])
def test_t_max_outside_its_range_is_refused(end):
    with pytest.raises(InputError, match="t_max is"):
        model_of(table, t_max=end)


def test_sign_minus_one_turns_a_noise_ward_velocity():
    state, time = randn(0, 3, 2), scalar(0.3)
    forward = model_of(table)
    backward = model_of(lambda s, label, c: -table(s, label, c), sign=-1.0)
    for call in ("raw", "velocity"):
        assert torch.equal(
            getattr(forward, call)(state, time, zeros(3)), getattr(backward, call)(state, time, zeros(3))
        )
    for ours, theirs in zip(
        forward.predict(state, time, zeros(3)), backward.predict(state, time, zeros(3)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_network_is_told_the_mapped_label():
    model = model_of(table, label=lambda t: 1000 * (1 - t))
    model.velocity(randn(1, 3, 2), scalar(0.25), zeros(3))
    model.velocity(randn(1, 3, 2), torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE), zeros(3))
    assert model.net.labels[0].tolist() == [750.0, 750.0, 750.0]
    assert model.net.labels[1].tolist() == [1000.0, 500.0, 0.0]


def test_the_label_is_mapped_before_it_is_rounded_to_the_networks_dtype():
    seen = []

    def network(state, label, cond):
        seen.append(label.clone())
        return state

    # a plain function counts as float32; 1000 (1 - t) near t = 1 keeps its digits only when computed in float64
    model = FlowModel.from_callable(network, shape=(2,), label=lambda t: 1000 * (1 - t))
    model.velocity(randn(1, 1, 2), scalar(1 - 1e-6), zeros(1))
    assert seen[0].dtype == torch.float32
    assert float(seen[0][0]) == pytest.approx(1e-3, rel=1e-6)


def test_the_first_of_a_tuple_is_taken():
    state, time = randn(2, 3, 2), scalar(0.3)
    plain, tupled = model_of(table), model_of(lambda s, label, c: (table(s, label, c), ["extras"]))
    assert torch.equal(plain.velocity(state, time, zeros(3)), tupled.velocity(state, time, zeros(3)))


def test_the_first_half_of_doubled_channels_is_taken():
    state, time = randn(3, 3, 2), scalar(0.3)
    doubled = model_of(lambda s, label, c: torch.cat([table(s, label, c), torch.full_like(s, 99.0)], dim=1))
    assert torch.equal(doubled.velocity(state, time, zeros(3)), model_of(table).velocity(state, time, zeros(3)))


@pytest.mark.parametrize("bad", [{"out": 1}, "text", (1, 2)])
def test_a_network_that_returns_no_tensor_is_refused(bad):
    with pytest.raises(InputError, match="expected a tensor or a tuple"):
        first_output(bad, 2)


# v needs alpha^2 + sigma^2 = 1, which linear has not
KINDS = [
    (p, k)
    for p in ("linear", "gvp", "vp")
    for k in ("velocity", "noise", "data", "score", "v")
    if (p, k) != ("linear", "v")
]


@pytest.mark.parametrize(("path", "kind"), KINDS)
def test_a_perfect_network_of_any_kind_gives_pair_velocity_and_score(path, kind):
    noise, data, time = randn(4, 3, 2), randn(5, 3, 2), scalar(0.4)
    curve = interpolant(path)
    target = regression_target(curve, kind, noise, data, time)
    model = model_of(lambda s, label, c: target, interpolant=curve, prediction=kind)
    state = curve.state(noise, data, time)
    got_data, got_noise = model.predict(state, time, zeros(3))
    # 1 / alpha is at most 7 here
    torch.testing.assert_close(got_data, data, rtol=0, atol=1e-12)
    torch.testing.assert_close(got_noise, noise, rtol=0, atol=1e-12)
    velocity = curve.velocity(noise, data, time)
    torch.testing.assert_close(model.velocity(state, time, zeros(3)), velocity, rtol=0, atol=1e-11)
    torch.testing.assert_close(score(model, state, time, zeros(3)), -noise / curve.sigma(time), rtol=0, atol=1e-11)
    torch.testing.assert_close(model.target(noise, data, time), target)


def test_predictions_keep_the_dtype_of_the_state():
    model = FlowModel.from_callable(nn_linear_like, shape=(2,))
    for dtype in (torch.float32, DOUBLE):
        state = randn(6, 3, 2).to(dtype)
        assert model.velocity(state, scalar(0.3), zeros(3)).dtype == dtype
        assert {part.dtype for part in model.predict(state, scalar(0.3), zeros(3))} == {dtype}


def nn_linear_like(state, label, cond):
    assert state.dtype == torch.float32
    return 0.5 * state


def test_from_callable_fills_the_conventions():
    model = FlowModel.from_callable(nn_linear_like, shape=[1, 2, 2], interpolant="gvp", classes=3, name="mine")
    assert (model.shape, model.classes, model.null, model.name) == ((1, 2, 2), 3, 3, "mine")
    assert model.interpolant.name == "gvp"
    assert isinstance(model, Predictor)
    assert FlowModel.from_callable(nn_linear_like, shape=(2,)).null is None
    assert FlowModel.from_callable(nn_linear_like, shape=(2,), classes=3, null=7).null == 7


def test_from_callable_keeps_a_module():
    net = nn.Identity()
    assert FlowModel.from_callable(net, shape=(2,)).net is net


def test_with_net_changes_the_network_only():
    model = model_of(table, classes=2, null=2, sign=-1.0)
    other = model.with_net(nn.Identity(), "other")
    assert (other.name, other.sign, other.null) == ("other", -1.0, 2)
    assert isinstance(other.net, nn.Identity)
    assert model.with_net(nn.Identity()).name == model.name


def test_gradients_flow_through_raw():
    net = nn.Linear(2, 2).double()
    model = FlowModel.from_callable(Wrapper(net), shape=(2,))
    model.raw(randn(7, 3, 2), scalar(0.2), zeros(3)).sum().backward()
    assert net.weight.grad is not None


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, state, label, cond):
        return self.net(state)


def test_convert_holds_vanishing_coefficients_at_the_floor():
    state, out = randn(8, 3, 2), randn(9, 3, 2)
    data, noise = convert(interpolant("linear"), "noise", state, out, scalar(0.0))
    torch.testing.assert_close(data, (state - out) / 1e-3)
    assert torch.equal(noise, out)


# --- guidance


@pytest.fixture
def conditional():
    return model_of(table, classes=3, null=3)


COND = torch.tensor([0, 1, 2])


def test_scale_one_is_the_model_itself(conditional):
    assert guided(conditional, 1.0) is conditional


def test_guided_at_scale_one_agrees_with_the_model(conditional):
    state, time = randn(10, 3, 2), scalar(0.3)
    expected = conditional.velocity(state, time, COND)
    torch.testing.assert_close(Guided(conditional, 1.0).velocity(state, time, COND), expected, rtol=0, atol=1e-14)


def test_scale_zero_is_the_null_condition(conditional):
    state, time = randn(10, 3, 2), scalar(0.3)
    expected = conditional.velocity(state, time, torch.full((3,), 3))
    assert torch.equal(guided(conditional, 0.0).velocity(state, time, COND), expected)


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_guidance_is_linear_in_the_scale(conditional, scale):
    state, time = randn(11, 3, 2), scalar(0.3)
    given = conditional.velocity(state, time, COND)
    null = conditional.velocity(state, time, torch.full((3,), 3))
    got = guided(conditional, scale).velocity(state, time, COND)
    torch.testing.assert_close(got, (1 - scale) * null + scale * given, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "score"])
def test_guiding_predictions_or_velocities_is_the_same(kind):
    model = model_of(table, classes=3, null=3, prediction=kind, interpolant=interpolant("gvp"))
    strong, state, time = guided(model, 2.5), randn(12, 3, 2), scalar(0.4)
    data, noise = strong.predict(state, time, COND)
    expected = strong.velocity(state, time, COND)
    torch.testing.assert_close(model.interpolant.velocity(noise, data, time), expected, rtol=0, atol=1e-12)


def test_both_conditions_go_through_the_network_at_once(conditional):
    guided(conditional, 2.0).velocity(randn(13, 3, 2), scalar(0.3), COND)
    assert [cond.tolist() for cond in conditional.net.conds] == [[0, 1, 2, 3, 3, 3]]
    assert guided(conditional, 2.0).calls == 2


@pytest.mark.parametrize(("t", "acts"), [(0.1, False), (0.2, True), (0.5, True), (0.8, True), (0.9, False)])
def test_guidance_acts_inside_its_closed_interval(conditional, t, acts):
    strong, state = Guided(conditional, 3.0, Guiding((0.2, 0.8))), randn(14, 3, 2)
    plain = conditional.velocity(state, scalar(t), COND)
    assert torch.equal(strong.velocity(state, scalar(t), COND), plain) is not acts
    same = torch.equal(strong.predict(state, scalar(t), COND)[0], conditional.predict(state, scalar(t), COND)[0])
    assert same is not acts


def test_the_interval_is_decided_for_each_sample(conditional):
    strong, state = Guided(conditional, 3.0, Guiding((0.2, 0.8))), randn(15, 3, 2)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    together = strong.velocity(state, times, COND)
    alone = torch.cat([strong.velocity(state[i : i + 1], times[i], COND[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


def test_per_sample_times_inside_the_interval_are_guided(conditional):
    strong, state = guided(conditional, 3.0), randn(15, 3, 2)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    alone = torch.cat([strong.velocity(state[i : i + 1], times[i], COND[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(strong.velocity(state, times, COND), alone, rtol=0, atol=1e-13)


def test_guidance_needs_a_null_condition():
    with pytest.raises(InputError, match="no null condition"):
        guided(model_of(table), 2.0)


@pytest.mark.parametrize("scale", [-0.5, 101.0, float("nan"), float("inf")])
def test_scales_out_of_range_are_refused(conditional, scale):
    with pytest.raises(InputError, match="guidance is"):
        guided(conditional, scale)


def test_a_guided_model_looks_like_its_model(conditional):
    strong = guided(conditional, 2.0)
    for name in ("interpolant", "shape", "classes", "t_max"):
        assert getattr(strong, name) == getattr(conditional, name)
    assert isinstance(strong, Predictor)


def test_exact_fields_are_predictors_too():
    assert isinstance(gaussian(torch.zeros(2, dtype=DOUBLE), 0.5), Predictor)
