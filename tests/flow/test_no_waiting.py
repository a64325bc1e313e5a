"""The sampling loop never waits for the device: on the meta device, where no value can be read, it runs to the last step."""

import itertools

import pytest
import torch

from slowflow.errors import NonFiniteError
from slowflow.families.open import open_model
from slowflow.flow.guidance import guided
from slowflow.flow.samplers import SAMPLERS, sampler, walk
from slowflow.flow.samplers.base import _Health

STEPS = 4


@pytest.fixture(scope="module")
def model():
    found = open_model("digits-sit").model
    found.net.to("meta")
    return found


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_no_value_is_read_before_the_last_step(model, name, guidance):
    state = torch.empty(3, *model.shape, device="meta")
    cond = torch.zeros(3, dtype=torch.int64, device="meta")
    method = sampler(name)
    steps = walk(
        guided(model, guidance), method, state, cond, method.grid(model, STEPS), lambda k, like: torch.empty_like(like)
    )
    reached = list(itertools.islice(steps, STEPS))
    assert [k for k, _ in reached] == list(range(STEPS))
    assert all(x.shape == state.shape and x.device.type == "meta" for _, x in reached)
    with pytest.raises(NotImplementedError, match="meta"):  # the one question asked: is everything finite?
        next(steps)


def test_the_first_broken_sample_is_named_after_the_fact():
    times, state = torch.linspace(0.0, 1.0, 5), torch.zeros(3, 2)
    health = _Health(state)
    health.see(0, state)
    health.require(times)
    for step in (1, 2, 3):
        state[2 if step == 1 else 0] = torch.nan
        health.see(step, state)
    with pytest.raises(NonFiniteError, match=r"sample 2 of the batch .* between t = 0.2500 and 0.5000"):
        health.require(times)
