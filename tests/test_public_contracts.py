"""The public contracts pass on everything that ships and notice what breaks them."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

import slowflow.testing
from slowflow.flow.interpolants import Linear, interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import SAMPLERS, sampler
from slowflow.flow.samplers.euler import Euler
from slowflow.testing import check_interpolant, check_model, check_sampler

ON_A_TABLE = ("ancestral",)
"""DDPM's samplers need the variances of its table."""
CLIPPED = "-clipped"
"""Data predictions are clipped to [-1, 1], which is another flow wherever the exact one reaches beyond."""


@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
def test_interpolants_keep_their_contract(name):
    check_interpolant(interpolant(name))


class Backwards(Linear):
    """Time runs from data to noise."""

    def alpha(self, t):
        return 1.0 - t

    def sigma(self, t):
        return t


class Slope(Linear):
    """A derivative of something else."""

    def alpha_dot(self, t):
        return 1.01 * torch.ones_like(t)


class Wrong(Linear):
    """An inverse of something else."""

    def time_of_log_snr(self, log_snr):
        return torch.sigmoid(log_snr)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [(Backwards, "alpha\\(1\\) = 1"), (Slope, "alpha_dot is"), (Wrong, "time_of_log_snr inverts")],
)
def test_a_broken_interpolant_is_noticed(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        check_interpolant(broken())


@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if not name.startswith(ON_A_TABLE)])
def test_samplers_keep_their_contract(name):
    # on the linear path the last step of every sampler is defined and its order is that of the whole run
    check_sampler(sampler(name), path="linear", solves_flow=CLIPPED not in name)


class Half(Euler):
    """Moves half as far."""

    def step(self, model, state, t, s, cond, noise=None):
        return super().step(model, state, t, t + (s - t) / 2, cond, noise)


class Mixing(Euler):
    """A sample moves with its batch."""

    def step(self, model, state, t, s, cond, noise=None):
        return super().step(model, state, t, s, cond, noise) + 1e-6 * state.mean(dim=0)


class Ambitious(Euler):
    order = 2


@pytest.mark.parametrize(
    ("broken", "promise"), [(Half, "order 1"), (Mixing, "its batch"), (Ambitious, "order 2")], ids=lambda v: str(v)
)
def test_a_broken_sampler_is_noticed(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        check_sampler(broken())


@pytest.mark.parametrize("classes", [0, 10])
def test_a_model_keeps_its_contract(tiny_model, classes):
    check_model(tiny_model(classes=classes))


class Batched(nn.Module):
    """What a row gets depends on the others, as with a batch norm left in training mode."""

    def forward(self, state, label, cond):
        return state - state.mean(dim=0)


class Drifting(nn.Module):
    """Counts its calls in a buffer that a checkpoint would carry."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, state, label, cond):
        self.calls += 1
        return 0.1 * state


@pytest.mark.parametrize(
    ("net", "promise"), [(Batched, "its batch"), (Drifting, "weights and buffers"), (lambda: torch.log, "finite")]
)
def test_a_broken_model_is_noticed(net, promise):
    made = net()
    if made is torch.log:
        made = lambda state, label, cond: torch.log(state)  # noqa: E731 - NaN below zero
    with pytest.raises(AssertionError, match=promise):
        check_model(FlowModel.from_callable(made, shape=(3, 2, 2)))


def test_a_label_that_is_not_finite_is_noticed(tiny_model):
    model = dataclasses.replace(tiny_model(), label=lambda t: torch.log(t))
    with pytest.raises(AssertionError, match=r"finite|labels"):
        check_model(model)


def test_every_contract_that_is_named_exists():
    assert all(callable(getattr(slowflow.testing, name)) for name in slowflow.testing.__all__)
    with pytest.raises(AttributeError, match="check_nothing"):
        _ = slowflow.testing.check_nothing
    assert "slowflow.testing" in sys.modules
