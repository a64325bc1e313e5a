"""Guidance as authors apply it: channels, intervals, the moment of decision, guides; and the calls it costs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from slowflow.errors import InputError
from slowflow.flow.count import network_calls
from slowflow.flow.grids import refine, uniform_grid
from slowflow.flow.guidance import Guided, guided
from slowflow.flow.habits import Guiding, Training
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.samplers.euler_maruyama import EulerMaruyama
from slowflow.flow.samplers.stochastic_heun import StochasticHeun

DOUBLE = torch.float64


class Net(nn.Module):
    """Depends on everything it is told, and counts the rows it sees and when."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=DOUBLE))
        self.rows, self.times = 0, []

    def forward(self, state, label, cond):
        self.rows += len(state)
        self.times.append((float(label[0]), len(state)))
        return self.scale * torch.sin(state + label[:, None, None, None]) + 0.1 * cond[:, None, None, None]


def model(scale=1.0, **habits):
    net = Net(scale)
    found = FlowModel.from_callable(net, shape=(4, 2, 2), classes=3)
    return replace(found, guiding=Guiding(**habits))


def start(n=2):
    return torch.randn(n, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


COND, HALF = torch.tensor([0, 2]), torch.tensor(0.5, dtype=DOUBLE)


def run(found, scale, method, steps, cond=COND):
    stepper = sampler(method)
    for _ in walk(guided(found, scale), stepper, start(), cond, stepper.grid(found, steps), lambda k, x: x * 0):
        pass


# --- channels


@pytest.mark.parametrize("kind", ["velocity", "data", "noise"])
def test_unguided_channels_keep_the_conditional_value(kind):
    plain = model()
    three, every = Guided(plain, 2.0, Guiding(channels=3)), Guided(plain, 2.0)
    if kind == "velocity":
        given, masked, whole = (f.velocity(start(), HALF, COND) for f in (plain, three, every))
    else:
        index = 0 if kind == "data" else 1
        given, masked, whole = (f.predict(start(), HALF, COND)[index] for f in (plain, three, every))
    assert torch.equal(masked[:, :3], whole[:, :3])
    assert torch.equal(masked[:, 3:], given[:, 3:])
    assert not torch.equal(masked[:, 3:], whole[:, 3:])


def test_more_channels_than_there_are_is_all_of_them():
    assert torch.equal(
        Guided(model(), 2.0, Guiding(channels=9)).velocity(start(), HALF, COND),
        Guided(model(), 2.0).velocity(start(), HALF, COND),
    )


# --- the moment of decision


def test_a_decision_at_the_start_holds_for_the_whole_step():
    # 4 steps; the interval holds 0.25 and 0.5 only
    each, first = (model(interval=(0.2, 0.6), decide=decide) for decide in ("each", "start"))
    run(each, 2.0, "heun", 4)
    run(first, 2.0, "heun", 4)
    doubled = {t for t, rows in each.net.times if rows == 4}
    assert doubled == {0.25, 0.5}
    assert [(t, rows) for t, rows in first.net.times] == [
        (0.0, 2), (0.25, 2),  # step from 0: not guided, nor its correction at 0.25
        (0.25, 4), (0.5, 4),
        (0.5, 4), (0.75, 4),  # guided at its start, so its correction at 0.75 is too
        (0.75, 2), (1.0, 2),
    ]  # fmt: skip


def test_an_end_of_the_interval_belongs_to_it_whatever_the_rounding():
    inside = Guided(model(), 2.0, Guiding(interval=(1.0 - 0.7, 1.0)))
    inside.velocity(start(), torch.tensor(0.3, dtype=DOUBLE), COND)
    assert inside.model.net.rows == 4


# --- guides


@pytest.mark.parametrize("method", ["euler", "heun", "recombine", "em"])
def test_a_guide_is_called_once_beside_the_model(method):
    guide = model(0.5)
    strong = model(guide=guide)
    run(strong, 1.42, method, 6)
    expected = 6 * 2 * (2 if method == "heun" else 1)
    assert (strong.net.rows, guide.net.rows) == (expected, expected)
    assert network_calls(strong, method, 6, guidance=1.42) == expected
    assert network_calls(strong, method, 6) == expected // 2


def test_autoguidance_pushes_away_from_the_guide():
    guide = model(0.5)
    strong = model(guide=guide)
    given, weak = strong.velocity(start(), HALF, COND), guide.velocity(start(), HALF, COND)
    got = guided(strong, 1.42).velocity(start(), HALF, COND)
    torch.testing.assert_close(got, weak + 1.42 * (given - weak), rtol=0, atol=1e-14)
    data = guided(strong, 1.42).predict(start(), HALF, COND)[0]
    ours, theirs = strong.predict(start(), HALF, COND)[0], guide.predict(start(), HALF, COND)[0]
    torch.testing.assert_close(data, theirs + 1.42 * (ours - theirs), rtol=0, atol=1e-14)


def test_a_guide_needs_no_null_condition():
    alone = replace(model(), null=None)
    with pytest.raises(InputError, match="no null condition"):
        guided(alone, 2.0)
    guided(replace(alone, guiding=Guiding(guide=model(0.5))), 2.0).velocity(start(), HALF, COND)


def test_guides_of_other_shapes_or_paths_are_refused():
    other = replace(model(), shape=(4, 4, 4))
    with pytest.raises(InputError, match=r"the guide makes states of shape \(4, 4, 4\)"):
        guided(replace(model(), guiding=Guiding(guide=other)), 2.0)
    curved = FlowModel.from_callable(Net(), shape=(4, 2, 2), classes=3, interpolant="gvp")
    with pytest.raises(InputError, match="the guide's path is 'gvp', the model's 'linear'"):
        guided(replace(model(), guiding=Guiding(guide=curved)), 2.0)


# --- counting


CALLS = [
    ("euler", 249, 1.0, {}, 249),  # SiT's "250" Euler points
    ("heun", 249, 1.0, {}, 498),  # SiT's "250" Heun points
    ("em-sit", 250, 1.0, {}, 250),  # SiT's and REPA's stochastic sampler: one call a step
    ("heun-last-euler", 250, 1.0, {}, 499),  # REPA: 2 N - 1
    ("euler", 49, 1.0, {}, 49),  # RAE's "50 steps"
    ("sde-heun", 10, 1.0, {}, 19),
    ("euler", 10, 2.0, {}, 20),
    ("euler", 10, 2.0, {"interval": (0.3, 0.6)}, 14),  # t = 0.3, 0.4, 0.5, 0.6
    ("heun", 10, 2.0, {"interval": (0.3, 0.6), "decide": "start"}, 28),
    ("heun", 10, 2.0, {"interval": (0.3, 0.6), "decide": "each"}, 28),
    ("heun-last-euler", 10, 2.0, {"interval": (0.3, 0.6), "decide": "start"}, 27),
]


@pytest.mark.parametrize(("method", "steps", "scale", "habits", "expected"), CALLS, ids=str)
def test_counted_calls_are_the_calls_that_are_made(method, steps, scale, habits, expected):
    found = model(**habits)
    assert network_calls(found, method, steps, guidance=scale) == expected
    assert found.net.rows == 0
    run(found, scale, method, steps)
    assert found.net.rows == 2 * expected


# --- grids and habits


def test_warps_of_model_and_user_multiply():
    shifted = replace(model(), shift=2.0, t_max=0.9)
    torch.testing.assert_close(shifted.grid(7, 3.0), uniform_grid(7, end=0.9, shift=6.0), rtol=0, atol=1e-15)


def test_times_that_a_model_brings_cannot_be_warped():
    own = replace(model(), times=lambda steps: uniform_grid(steps) ** 2)
    assert torch.equal(own.grid(4), uniform_grid(4) ** 2)
    with pytest.raises(InputError, match="brings its own sampling times"):
        own.grid(4, 2.0)


def test_refined_grids_hold_the_old_times():
    grid = uniform_grid(5, shift=3.0)
    fine = refine(grid, 4)
    assert len(fine) == 21
    assert torch.equal(fine[::4], grid)
    assert bool((fine.diff() > 0).all())


@pytest.mark.parametrize("kind", [EulerMaruyama, StochasticHeun])
def test_a_last_step_has_its_length_and_the_others_share_the_rest(kind):
    grid = kind(last_step=0.04).grid(model(), 5)
    torch.testing.assert_close(grid, torch.tensor([0, 0.24, 0.48, 0.72, 0.96, 1.0], dtype=DOUBLE), rtol=0, atol=1e-15)
    assert torch.equal(kind().grid(model(), 5), uniform_grid(5))
    assert torch.equal(kind(last_step=0.04).grid(model(), 1), uniform_grid(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guiding(interval=(0.5, 0.2)), "guidance interval"),
        (lambda: Guiding(interval=(-0.1, 0.2)), "guidance interval"),
        (lambda: Guiding(channels=0), "channels is 0"),
        (lambda: Guiding(decide="later"), "decide is 'later'"),
        (lambda: Training(time_law="gamma"), "time_law is 'gamma'"),
        (lambda: Training(interval=(0.3, 0.3)), "training interval"),
        (lambda: Training(weighting="much"), "weighting is 'much'"),
        (lambda: Training(levels=-1), "levels is -1"),
        (lambda: EulerMaruyama(diffusion="much"), "diffusion is 'much'"),
        (lambda: EulerMaruyama(last="best"), "the last step is 'best'"),
        (lambda: StochasticHeun(last_step=1.5), "last_step is 1.5"),
        (lambda: replace(model(), shift=0.0), "shift is 0.0"),
        (lambda: replace(model(), t_min=1.0), "t_min is 1.0"),
        (lambda: replace(model(), t_min=-0.1), "t_min is -0.1"),
    ],
)
def test_habits_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("diffusion", ["sigma", "linear", "constant", "decreasing", "increasing-decreasing"])
@pytest.mark.parametrize("last", ["mean", "euler", "tweedie"])
def test_every_form_of_noise_stays_finite(diffusion, last):
    for kind in (EulerMaruyama, StochasticHeun):
        method = kind(diffusion=diffusion, last=last, last_step=0.04)
        states = walk(model(), method, start(), COND, method.grid(model(), 6), lambda k, x: torch.ones_like(x))
        assert all(bool(torch.isfinite(state).all()) for _, state in states)
