"""Costs are counted without computing: bytes by hand, monotone in the batch, no content needed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from slowflow.flow.cost import Cost, cost, peak, size
from slowflow.flow.habits import Guiding
from slowflow.flow.model import FlowModel

WIDTH = 1000


class Linear(nn.Module):
    """One matrix product: an output of as many values as the input."""

    def __init__(self, trained=True):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)
        self.inner.weight.requires_grad_(trained)

    def forward(self, state, label, cond):
        return self.inner(state)


def model(**more):
    return replace(FlowModel.from_callable(Linear(**more), shape=(WIDTH,), classes=2), name="tiny")


def test_the_peak_of_a_product_is_its_output():
    assert peak(model(), 10) == 10 * WIDTH * 4


def test_the_peak_of_training_holds_the_gradient():
    # gradient of the weights, the output, and its square's and own gradients
    found = peak(model(), 10, train=True)
    assert WIDTH * WIDTH * 4 < found < WIDTH * WIDTH * 4 + 10 * 10 * WIDTH * 4


def test_costs_by_hand():
    found = cost(model(), 10, "heun", 7)
    weights = WIDTH * WIDTH * 4
    assert (found.parameters, found.weights, found.calls) == (WIDTH * WIDTH, weights, 14)
    assert found.sampling == weights + 10 * WIDTH * 4 + 3 * 8 * 10 * WIDTH
    assert 5 * weights < found.training < 5.2 * weights
    assert cost(model(trained=False), 10).training is None


def test_guidance_doubles_the_rows_and_a_guide_brings_its_weights():
    plain = model()
    own = cost(plain, 10, "euler", 5, guidance=2.0)
    assert own.calls == 10
    assert own.sampling - cost(plain, 10).sampling == 10 * WIDTH * 4
    strong = replace(plain, guiding=Guiding(guide=model()))
    guided = cost(strong, 10, "euler", 5, guidance=2.0)
    assert guided.calls == 10
    assert guided.parameters == 2 * WIDTH * WIDTH
    assert cost(strong, 10, "euler", 5) == cost(plain, 10, "euler", 5)


def test_half_precision_takes_half():
    half = model()
    half.net.to(torch.bfloat16)
    assert cost(half, 4).weights == WIDTH * WIDTH * 2


def test_a_network_that_needs_content_is_unknown():
    found = FlowModel.from_callable(lambda s, t, c: s * float(s.sum()), shape=(3,))
    assert cost(found, 4) == Cost(0, 0, None, None, 1)
    assert (size(None), size(5 * 2**20), size(3 * 2**30)) == ("unknown", "5.0 MiB", "3.00 GiB")


@pytest.mark.parametrize("rows", [1, 7])
def test_nothing_is_computed_or_changed(rows):
    found = model()
    before = found.net.inner.weight.clone()
    peak(found, rows, train=True)
    assert torch.equal(found.net.inner.weight, before)
    assert found.net.inner.weight.grad is None
