"""The contract of a training remedy.

from slowflow.testing import check_training_remedy
check_training_remedy(MyRemedy(strength=0.3), model)
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slowflow.flow.interpolants import INTERPOLANTS
from slowflow.flow.model import FlowModel
from slowflow.remedies import REMEDIES, TrainingRemedy, make, name_of
from slowflow.testing.promises import require


def check_training_remedy(remedy: TrainingRemedy, model: FlowModel, *, n: int = 8, seed: int = 0) -> None:
    """The contract of a training remedy, on random data.

    A pair has the data's shape and dtype, is finite, carries no gradient, and its labels are times of the path; it is
    a function of the generator alone and leaves its inputs, the network and torch's global stream as they were; the
    remedy makes the network calls it says, and a record of plain values from which it can be made again.

    Args:
        remedy: not bound to a model yet.
        model: one it can train, conditional or not.
        n: rows of the batch.
        seed: of data and draws.

    Raises:
        AssertionError: a promise is broken; says which.
        InputError: the remedy refuses this model.
    """
    before = copy.deepcopy(remedy)
    counted, calls = _counted(model)
    bound = remedy.bound(counted)
    require(type(bound) is type(remedy) and remedy == before, "bound() returns a remedy of its kind and leaves itself")
    draw = torch.Generator().manual_seed(seed)
    noise, data = (torch.randn((n, *model.shape), generator=draw) for _ in range(2))
    cond = torch.arange(n) % max(model.classes, 1)
    noise_before, data_before, cond_before = noise.clone(), data.clone(), cond.clone()
    weights = {name: value.clone() for name, value in counted.net.state_dict().items()}
    counted.net.train()
    stream = torch.get_rng_state()

    def pair(at: int) -> Any:
        return bound.pair(noise, data, torch.Generator().manual_seed(at), cond)

    first = pair(seed)
    require(calls() == bound.calls(n), f"calls({n}) says {bound.calls(n)} network calls, {calls()} were made")
    inputs = ((noise, noise_before), (data, data_before), (cond, cond_before))
    require(all(torch.equal(a, b) for a, b in inputs), "noise, data and conditions are not changed")
    again, other = pair(seed), pair(seed + 1)
    require(_same(first, again), "the same generator gives the same pair")
    require(not torch.equal(first.t, other.t), "another generator gives other times")
    require(torch.equal(torch.get_rng_state(), stream), "nothing is drawn from torch's global stream")
    kept = all(torch.equal(value, weights[name]) for name, value in counted.net.state_dict().items())
    require(kept and counted.net.training, "the network keeps its weights, buffers and training mode")
    _check_pair(first, data)
    record = bound.record()
    require(json.loads(json.dumps(record)) == record, "record() is plain JSON")
    if any(type(remedy) is entry.value for entry in REMEDIES):
        _check_record(bound, record)


def _check_pair(pair: Any, data: Tensor) -> None:
    """Shapes, dtypes, range and gradients of what a step sees."""
    for name, part in (("state", pair.state), ("target", pair.target)):
        require(part.shape == data.shape, f"the {name} has shape {tuple(part.shape)}, the data {tuple(data.shape)}")
        require(part.dtype == data.dtype, f"the {name} is {part.dtype}, the data are {data.dtype}")
        require(bool(torch.isfinite(part).all()), f"the {name} holds NaN or infinite values")
    require(pair.t.shape == data.shape[:1], f"labels have shape {tuple(pair.t.shape)}, expected one a row")
    require(bool(((pair.t >= 0) & (pair.t <= 1)).all()), "labels lie in [0, 1]")
    require(not any(part.requires_grad for part in pair), "no gradient flows through a pair")


def _check_record(bound: TrainingRemedy, record: dict[str, Any]) -> None:
    """A record of a registered remedy makes it again."""
    if record["interpolant"] in INTERPOLANTS.names():  # a table that a model brought is not made from its name
        same = replace(bound, interpolant=record["interpolant"], model=None)
        require(make(name_of(bound), record) == same, "the remedy can be made again from its name and its record")


def _counted(model: FlowModel) -> tuple[FlowModel, Any]:
    """(the model around a copy of its network that counts rows, how many calls a prediction were made so far)."""
    rows = 0

    def count(module: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal rows
        rows += len(inputs[0])

    net = copy.deepcopy(model.net)
    net.register_forward_pre_hook(count)
    return model.with_net(net), lambda: rows * model.calls


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
