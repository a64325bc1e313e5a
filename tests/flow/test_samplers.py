"""Samplers: order of convergence, equality with torchdiffeq, counted network calls, noise and independence of batching."""

from collections import deque

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import nn

from slowflow.errors import InputError, NonFiniteError
from slowflow.flow.count import network_calls
from slowflow.flow.exact import ExactMixture, gaussian
from slowflow.flow.generate import final_states, fresh_noise, labels_of, noise_of
from slowflow.flow.grids import uniform_grid
from slowflow.flow.guidance import guided
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import SAMPLERS, sampler, walk
from slowflow.flow.samplers.heun import Heun

DOUBLE = torch.float64


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def classes(n):
    return torch.zeros(n, dtype=torch.int64)


def mixture(path, end=1.0):
    """Three bumps in two dimensions: a nonlinear field that is smooth up to the end."""
    centres = torch.tensor([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]], dtype=DOUBLE)
    return ExactMixture(centres, classes(3), 0.6, path, t_max=end)


def silent(step, like):
    return torch.zeros_like(like)


def end_state(model, method, start, steps, noise=None):
    grid = uniform_grid(steps, end=model.t_max)
    return deque(walk(model, sampler(method), start, classes(len(start)), grid, noise), maxlen=1)[0][1]


def reference(model, start, drift):
    """The ODE d state = drift dt by SciPy at 1e-12, from 0 to t_max."""

    def slope(t, flat):
        state = torch.from_numpy(flat.copy()).view_as(start)
        return drift(model, state, torch.tensor(t, dtype=DOUBLE)).flatten().numpy()

    found = solve_ivp(slope, (0.0, model.t_max), start.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(found.y[:, -1]).view_as(start)


def flow_drift(model, state, t):
    return model.velocity(state, t, classes(len(state)))


def em_drift(model, state, t):
    _, noise = model.predict(state, t, classes(len(state)))
    return model.velocity(state, t, classes(len(state))) - noise


ORDERS = [
    ("euler", "linear", 1, flow_drift),
    ("euler", "gvp", 1, flow_drift),
    ("heun", "linear", 2, flow_drift),
    ("heun", "gvp", 2, flow_drift),
    ("recombine", "linear", 1, flow_drift),
    ("recombine", "gvp", 1, flow_drift),
    ("em", "linear", 1, em_drift),
    ("em", "gvp", 1, em_drift),
]


@pytest.mark.parametrize(("method", "path", "order", "drift"), ORDERS)
def test_order_of_convergence(method, path, order, drift):
    model, start = mixture(path), randn(0, 6, 2)
    truth = reference(model, start, drift)
    counts = np.array([24, 32, 48, 64, 96, 128])
    noise = silent if method == "em" else None
    errors = [float((end_state(model, method, start, int(n), noise) - truth).norm()) for n in counts]
    slope = np.polyfit(np.log(1.0 / counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2
    assert sampler(method).order == order


def test_recombine_on_vp_converges_to_the_flow():
    # sigma' of vp is infinite at 1, so the order is measured before it
    model, start = mixture("vp", end=0.95), randn(0, 6, 2)
    truth = reference(model, start, flow_drift)
    counts = np.array([48, 64, 96, 128, 192, 256])
    errors = [float((end_state(model, "recombine", start, int(n)) - truth).norm()) for n in counts]
    assert abs(np.polyfit(np.log(1.0 / counts), np.log(errors), 1)[0] - 1) < 0.2


def test_recombine_differs_from_euler_on_gvp_and_equals_it_on_linear():
    start = randn(1, 4, 2)
    for path, equal in (("linear", True), ("gvp", False)):
        model = mixture(path)
        gap = float((end_state(model, "recombine", start, 10) - end_state(model, "euler", start, 10)).abs().max())
        assert (gap < 1e-12) is equal


@pytest.mark.parametrize("method", ["euler", "heun", "recombine"])
def test_constant_velocity_is_exact(method):
    arrow = randn(2, 3)
    model = FlowModel.from_callable(Constant(arrow), shape=(3,))
    start = randn(3, 5, 3)
    end = end_state(model, method, start, 7)
    torch.testing.assert_close(end, start + arrow, rtol=0, atol=1e-14)


class Constant(nn.Module):
    """A float64 network that always returns the same arrow."""

    def __init__(self, arrow):
        super().__init__()
        self.arrow = nn.Parameter(arrow)

    def forward(self, state, label, cond):
        return self.arrow.expand_as(state)


@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize(("ours", "theirs"), [("euler", "euler"), ("heun", "heun2")])
def test_fixed_solvers_of_torchdiffeq_agree(ours, theirs, path):
    model, start = mixture(path), randn(4, 6, 2)
    grid = uniform_grid(9, shift=2.0)
    states = torch.stack([state for _, state in walk(model, sampler(ours), start, classes(6), grid)])
    expected = torchdiffeq.odeint(lambda t, x: flow_drift(model, x, t), start, grid, method=theirs)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)


class Counting(nn.Module):
    """A float64 network that counts the rows it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-0.5, dtype=DOUBLE))
        self.rows = 0

    def forward(self, state, label, cond):
        self.rows += len(state)
        return self.weight * state


CALLS = [
    ("euler", "linear", 1.0, 1.0, 7),
    ("euler", "vp", 1.0, 1.0, 7),
    ("recombine", "gvp", 1.0, 1.0, 7),
    ("em", "linear", 1.0, 1.0, 7),
    ("heun", "linear", 1.0, 1.0, 14),
    ("heun", "gvp", 1.0, 1.0, 14),
    ("heun", "vp", 1.0, 1.0, 13),
    ("heun", "vp", 1.0, 0.9, 14),
    (Heun(last_euler=True), "linear", 1.0, 1.0, 13),
    (Heun(last_euler=True), "linear", 1.0, 0.9, 13),
    ("euler", "linear", 1.5, 1.0, 14),
    ("heun", "linear", 1.5, 1.0, 28),
    (Heun(last_euler=True), "linear", 1.5, 1.0, 26),
    ("heun", "vp", 1.5, 1.0, 26),
]


@pytest.mark.parametrize(("method", "path", "scale", "end", "expected"), CALLS, ids=str)
def test_network_calls_are_the_ones_announced(method, path, scale, end, expected):
    net = Counting()
    plain = FlowModel(
        net=net, interpolant=interpolant(path), prediction="velocity", shape=(2,), classes=3, null=3, t_max=end
    )
    model, stepper = guided(plain, scale), sampler(method)
    for _ in walk(model, stepper, randn(5, 4, 2), classes(4), uniform_grid(7, end=end), silent):
        pass
    assert net.rows == 4 * expected
    assert network_calls(plain, stepper, 7, guidance=scale) == expected


def test_walk_yields_the_start_and_every_grid_time_once():
    start = randn(6, 2, 2)
    seen = list(walk(mixture("linear"), sampler("euler"), start, classes(2), uniform_grid(5)))
    assert [k for k, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert torch.equal(seen[0][1], start)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_em_reaches_the_variance_of_an_exact_gaussian(path):
    width, n = 0.5, 40_000
    model = gaussian(torch.zeros(n // 4, dtype=DOUBLE), width, path)
    draw = torch.Generator().manual_seed(7)

    def noise(step, like):
        return torch.randn(like.shape, generator=draw, dtype=like.dtype)

    gaps = {}
    for steps in (10, 40, 160):
        end = end_state(model, "em", torch.randn((4, n // 4), generator=draw, dtype=DOUBLE), steps, noise)
        gaps[steps] = abs(float(end.var()) / width**2 - 1)
    # standard error of a variance is sqrt(2/n) = 0.7 %; four of them, and about 1 % of discretisation at 160 steps
    assert gaps[160] < 0.04
    assert gaps[160] < gaps[40] < gaps[10]


def test_em_keeps_the_marginal_variance_half_way():
    width, n = 0.5, 40_000
    model = gaussian(torch.zeros(n // 4, dtype=DOUBLE), width)
    draw = torch.Generator().manual_seed(8)
    start = torch.randn((4, n // 4), generator=draw, dtype=DOUBLE)
    grid = uniform_grid(100, end=0.5)

    def noise(step, like):
        return torch.randn(like.shape, generator=draw, dtype=like.dtype)

    _, state = deque(walk(model, sampler("em"), start, classes(4), grid, noise), maxlen=1)[0]
    expected = 0.5**2 + (0.5 * width) ** 2
    # four standard errors of a variance from 40,000 draws, plus 1 % of discretisation
    assert float(state.var()) == pytest.approx(expected, rel=0.04)


def test_em_without_a_noise_source_raises():
    with pytest.raises(InputError, match="'em' is stochastic"):
        end_state(mixture("linear"), "em", randn(9, 2, 2), 4)


def test_em_adds_no_noise_on_the_step_that_ends_at_t_max():
    model, start = mixture("linear"), randn(9, 2, 2)
    assert torch.equal(
        end_state(model, "em", start, 1), end_state(model, "em", start, 1, lambda k, x: torch.ones_like(x))
    )


class Poisoned(Constant):
    """Returns NaN for sample 1 after t = 0.55."""

    def forward(self, state, label, cond):
        out = self.arrow.expand_as(state).clone()
        if float(label[1].detach()) > 0.55:
            out[1] = torch.nan
        return out


@pytest.mark.parametrize("method", ["euler", "heun", "recombine"])
def test_nan_is_reported_with_sample_and_time(method):
    model = FlowModel.from_callable(Poisoned(torch.ones(2, dtype=DOUBLE)), shape=(2,))
    # heun looks at the end of a step, so it meets the fault one step earlier
    first = "0.5000" if method == "heun" else "0.6000"
    with pytest.raises(NonFiniteError, match=rf"sample 1 .* t = {first}"):
        end_state(model, method, randn(10, 3, 2), 10)


class Tiny(nn.Module):
    """A small float64 network that mixes all inputs."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(11)
        self.inner = nn.Parameter(0.5 * torch.randn(8, 16, generator=draw, dtype=DOUBLE))
        self.outer = nn.Parameter(0.5 * torch.randn(16, 6, generator=draw, dtype=DOUBLE))

    def forward(self, state, label, cond):
        features = torch.cat([state.flatten(1), label[:, None], cond[:, None].to(DOUBLE)], dim=1)
        return (torch.tanh(features @ self.inner) @ self.outer).view_as(state)


@pytest.fixture(scope="module")
def tiny():
    return FlowModel.from_callable(Tiny(), shape=(1, 2, 3), classes=4)


@pytest.mark.parametrize(("method", "scale"), [("euler", 1.0), ("heun", 1.5), ("recombine", 1.0), ("em", 1.0)])
def test_samples_do_not_depend_on_the_batch_size(tiny, method, scale):
    ids = np.arange(8)
    runs = [
        final_states(tiny, ids, steps=6, method=method, guidance=scale, seed=3, batch_size=size) for size in (1, 3, 8)
    ]
    for other in runs[1:]:
        # BLAS may block a batch differently; nothing else may differ
        torch.testing.assert_close(other, runs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "em"])
def test_a_sample_belongs_to_its_id(tiny, method):
    some = final_states(tiny, np.array([5, 2]), steps=4, method=method, seed=3)
    every = final_states(tiny, np.arange(8), steps=4, method=method, seed=3)
    torch.testing.assert_close(some, every[[5, 2]], rtol=0, atol=1e-12)


def test_noise_is_bit_equal_however_it_is_asked_for():
    together = noise_of(4, np.arange(6), (2, 3))
    alone = torch.cat([noise_of(4, np.array([i]), (2, 3)) for i in range(6)])
    assert torch.equal(together, alone)
    fresh = fresh_noise(4, np.arange(6), (2, 3))(2, together)
    assert torch.equal(fresh[3:4], fresh_noise(4, np.array([3]), (2, 3))(2, together[:1]))
    assert not torch.equal(fresh, fresh_noise(4, np.arange(6), (2, 3))(3, together))
    assert not torch.equal(together, noise_of(5, np.arange(6), (2, 3)))


def test_the_seed_decides_the_samples(tiny):
    first, again, other = (final_states(tiny, np.arange(3), steps=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_are_balanced_over_any_prefix():
    assert labels_of(np.arange(7), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert labels_of(np.arange(4), 0).tolist() == [0, 0, 0, 0]


def test_states_between_steps_are_float64_for_a_float32_network():
    net = nn.Linear(3, 3)
    seen = []

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, state, label, cond):
            seen.append(state.dtype)
            return 0.1 * self.net(state)

    model = FlowModel.from_callable(Wrapped(), shape=(3,))
    start = randn(12, 2, 3)
    states = [state for _, state in walk(model, sampler("heun"), start, classes(2), uniform_grid(3))]
    assert {state.dtype for state in states} == {DOUBLE}
    assert set(seen) == {torch.float32}


def test_every_registered_sampler_is_tested_here():
    here = {"euler", "heun", "heun-last-euler", "recombine", "em", "em-sit", "sde-heun"}
    there = {"ancestral", "ancestral-large", "recombine-clipped", "ancestral-clipped", "ancestral-large-clipped"}
    assert set(SAMPLERS.names()) == here | there  # families/test_ddpm.py
