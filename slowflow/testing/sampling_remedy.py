"""The contract of a sampling remedy.

from slowflow.testing import check_sampling_remedy
check_sampling_remedy(MyRemedy(), MyRemedy(strength=0.1), model)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from slowflow.flow.count import network_calls
from slowflow.flow.course import course
from slowflow.flow.generate import final_states, fresh_noise, noise_of
from slowflow.flow.model import FlowModel
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import sampler, walk
from slowflow.remedies.sampling import make
from slowflow.remedies.sampling.base import SamplingRemedy
from slowflow.testing.promises import require, require_close

IDS = np.arange(3)


def check_sampling_remedy(
    zero: SamplingRemedy, active: SamplingRemedy, model: FlowModel, *, method: str = "euler", steps: int = 6
) -> None:
    """Run a remedy through its contract.

    Args:
        zero: the remedy at strength 0.
        active: the same remedy at another strength.
        model: something to sample from, in float64 on the CPU.
        method, steps: how.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    require(not zero.active and active.active, "the first remedy is given at strength 0 and the second is not")
    for remedy in (zero, active):
        again = make(remedy.name, remedy.settings())
        require(again.record() == remedy.record(), "its settings are plain, hold all of it, and make it again")
    _check_zero(zero, model, method, steps)
    _check_wrapper(active, model)
    _check_sampling(active, model, method, steps)


def _check_zero(remedy: SamplingRemedy, model: FlowModel, method: str, steps: int) -> None:
    stepper = sampler(method)
    require(remedy.around(model) is model, "at strength 0 the model is handed back itself")
    require(remedy.solver(stepper, steps) == (stepper, steps), "at strength 0 the sampler is handed back itself")
    ours, theirs = (final_states(model, IDS, steps=steps, method=method, remedy=one) for one in (remedy, None))
    require(torch.equal(ours, theirs), "at strength 0 samples are those of the untouched model, bit for bit")
    calls = network_calls(model, method, steps)
    require(network_calls(model, method, steps, remedy=remedy) == calls, "at strength 0 it costs no network call")


def _check_wrapper(remedy: SamplingRemedy, model: FlowModel) -> None:
    wrapped = remedy.around(model)
    require(isinstance(wrapped, Predictor), "a remedied model is a model")
    for name in ("shape", "classes", "calls", "t_max"):
        require(getattr(wrapped, name) == getattr(model, name), f"a remedied model keeps the model's {name}")
    t = torch.tensor(0.4, dtype=torch.float64)
    state, cond = noise_of(1, IDS, model.shape), torch.zeros(len(IDS), dtype=torch.int64)
    before = state.clone()
    data, noise = wrapped.predict(state, t, cond)
    require(torch.equal(state, before), "predict leaves the state as it was")
    require(data.shape == noise.shape == state.shape and data.dtype == state.dtype, "predictions are like the state")
    path = model.interpolant
    require_close(path.alpha(t) * data + path.sigma(t) * noise, state, "predicted data and noise add up to the state")
    alone = wrapped.predict(state[1:2], t, cond[1:2])[0]
    require_close(alone, data[1:2], "the answer for a state does not depend on its batch")


def _check_sampling(remedy: SamplingRemedy, model: FlowModel, method: str, steps: int) -> None:
    first, again = (final_states(model, IDS, steps=steps, method=method, remedy=remedy) for _ in range(2))
    require(bool(torch.isfinite(first).all()), "remedied samples are finite")
    require(torch.equal(first, again), "the same command makes the same samples")
    alone = final_states(model, IDS, steps=steps, method=method, remedy=remedy, batch_size=1)
    require_close(alone.double(), first.double(), "a sample does not depend on its batch", 1e-5)
    counted = network_calls(model, method, steps, remedy=remedy)
    require(counted == _asked(remedy, model, method, steps), "the number of network calls is what is recorded")
    if remedy.equal_calls:
        require(counted == network_calls(model, method, steps), "it keeps its promise of equal network calls")


def _asked(remedy: SamplingRemedy, model: FlowModel, method: str, steps: int) -> int:
    """Rows the network is really asked for in a run of one sample."""
    net = _Asked(model.net)
    way = course(replace(model, net=net), method, steps, remedy=remedy)
    noise = fresh_noise(0, IDS[:1], model.shape)
    for _ in walk(
        way.field, way.method, noise_of(0, IDS[:1], model.shape), torch.zeros(1, dtype=torch.int64), way.grid, noise
    ):
        pass
    return net.rows * model.calls


class _Asked(nn.Module):
    """A network that counts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rows = net, 0

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Tensor:
        self.rows += len(state)
        answer: Tensor = self.net(state, label, cond)
        return answer
