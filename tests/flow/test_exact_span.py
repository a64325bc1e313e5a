"""The exact flow in coordinates is the exact flow."""

import pytest
import torch

from slowflow.errors import InputError
from slowflow.flow import exact_span
from slowflow.flow.exact import ExactMixture
from slowflow.flow.grids import uniform_grid
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.samplers.heun import Heun

SHAPE = (1, 5, 5)
COND = torch.tensor([2, 0, 2, 1, 0, 2, 2])


def field(path="linear", width=0.0, counts=(3, 6, 4)):
    """Classes of different sizes, so that slots are padded."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ExactMixture(torch.randn(len(labels), *SHAPE, generator=draw, dtype=torch.float64), labels, width, path)


def noise():
    return torch.randn(len(COND), *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("method", [Heun(last_euler=True), sampler("euler")], ids=["heun", "euler"])
def test_states_are_those_of_the_field_itself(path, width, method):
    """Rounding: 1e-16 of each of 40 steps, magnified where the field is stiff."""
    model, grid = field(path, width), uniform_grid(40)
    plain = [x for k, x in walk(model, method, noise(), COND, grid) if k and k % 4 == 0]
    ours = list(exact_span.trajectory(model, method, noise(), COND, grid, every=4))
    assert len(ours) == len(plain) == 10
    assert torch.allclose(torch.stack(ours), torch.stack(plain), rtol=0, atol=1e-9)


def test_a_trajectory_may_begin_late():
    model, grid = field(), uniform_grid(20, start=0.3)
    start = 0.3 * model.centres[:7] + 0.7 * noise()
    plain = [x for k, x in walk(model, Heun(last_euler=True), start, COND, grid) if k]
    ours = list(exact_span.trajectory(model, Heun(last_euler=True), start, COND, grid))
    assert torch.allclose(torch.stack(ours), torch.stack(plain), rtol=0, atol=1e-9)


@pytest.mark.parametrize("why", ["more centres than dimensions", "matrices too large"])
def test_where_coordinates_gain_nothing_the_field_is_walked(monkeypatch, why):
    model = field(counts=(40, 2, 2)) if "dimensions" in why else field()
    if "large" in why:
        monkeypatch.setattr(exact_span, "MOST", 10)
    monkeypatch.setattr(exact_span.Span, "predict", lambda *rest: pytest.fail("coordinates were walked"))
    grid = uniform_grid(4)
    plain = [x for k, x in walk(model, Heun(last_euler=True), noise(), COND, grid) if k]
    for a, b in zip(exact_span.trajectory(model, Heun(last_euler=True), noise(), COND, grid), plain, strict=True):
        assert torch.equal(a, b)


def test_a_class_without_centres_is_refused():
    with pytest.raises(InputError, match="no centre of class 3"):
        list(exact_span.trajectory(field(), Heun(), noise(), COND + 3, uniform_grid(2)))
