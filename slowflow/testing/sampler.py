"""The contract of a sampler.

from slowflow.testing import check_sampler
check_sampler(MySampler())
"""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from slowflow.errors import NonFiniteError
from slowflow.flow.count import network_calls
from slowflow.flow.exact import ExactMixture
from slowflow.flow.generate import fresh_noise, noise_of
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler, sampler, walk
from slowflow.testing.promises import require, require_close

COUNTS = (24, 32, 48, 64, 96, 128)
FINE = 768
"""Intervals of the run of Heun's method that stands for the exact solution: its error is a 36th of that at 128 intervals."""
ORDER = 0.2
"""How far the measured order of convergence may be from the announced one."""
IDS = np.arange(6)


def check_sampler(method: Sampler, *, path: str = "gvp", solves_flow: bool = True) -> None:
    """The contract of a sampler, on exact fields of two dimensions.

    One that solves the flow converges to its solution with the order it announces; it makes the network calls that are
    counted for it; a sample depends on its id and not on its batch; states stay float64, and one that stops being finite is
    reported.

    Args:
        method: the sampler.
        path: interpolant of the field.
        solves_flow: False for one that changes the field on purpose, as clipping does; a stochastic one never does.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    field = _mixture(path)
    start = noise_of(0, IDS, (2,))
    whole = _end(method, field, start, IDS)
    require(whole.dtype == torch.float64, "states keep their dtype")
    require(torch.equal(whole, _end(method, field, start, IDS)), "the same ids end in the same states, bit for bit")
    some = np.array([4, 1])
    require_close(_end(method, field, start[some], some), whole[some], "a sample does not depend on its batch")
    if solves_flow and not method.stochastic:
        _check_order(method, path, start)
    _check_calls(method, path)
    _check_report(method, path)


def _check_order(method: Sampler, path: str, start: Tensor) -> None:
    """Slope of log error against log step size."""
    field, truth = _mixture(path), _solution(path)
    errors = [float((_end(method, field, start, IDS, count) - truth).norm()) for count in COUNTS]
    slope = float(np.polyfit(-np.log(COUNTS), np.log(errors), 1)[0])
    require(abs(slope - method.order) < ORDER, f"it converges with order {method.order} (measured: {slope:.2f})")


def _check_calls(method: Sampler, path: str) -> None:
    model = _model(path)
    for _ in walk(model, method, noise_of(0, IDS, (2,)), _cond(IDS), uniform_grid(7), fresh_noise(0, IDS, (2,))):
        pass
    net = model.net
    made = getattr(net, "rows", 0) / len(IDS)
    require(made == network_calls(model, method, 7), "the network calls it makes are those that are counted for it")


def _check_report(method: Sampler, path: str) -> None:
    model = _model(path, broken=True)
    try:
        for _ in walk(
            model, method, noise_of(0, IDS, (2,)), _cond(IDS), uniform_grid(7), fresh_noise(0, IDS, (2,)), IDS
        ):
            pass
    except NonFiniteError:
        return
    require(False, "a state that stops being finite is reported")


def _mixture(path: str) -> ExactMixture:
    """Three bumps in two dimensions: a nonlinear field that is smooth up to the end."""
    centres = torch.tensor([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]], dtype=torch.float64)
    return ExactMixture(centres, torch.zeros(3, dtype=torch.int64), 0.6, path)


@cache
def _solution(path: str) -> Tensor:
    """Where the flow takes the starting noise of IDS."""
    return _end(sampler("heun"), _mixture(path), noise_of(0, IDS, (2,)), IDS, FINE)


def _cond(ids: np.ndarray) -> Tensor:
    return torch.zeros(len(ids), dtype=torch.int64)


def _end(method: Sampler, field: Predictor, start: Tensor, ids: np.ndarray, steps: int = 16) -> Tensor:
    """The last state."""
    noise = fresh_noise(0, ids, (2,))
    return deque(walk(field, method, start, _cond(ids), uniform_grid(steps), noise, ids), maxlen=1)[0][1]


def _model(path: str, *, broken: bool = False) -> FlowModel:
    net = _Network(broken)
    return FlowModel(net=net, interpolant=interpolant(path), prediction="velocity", shape=(2,))


class _Network(nn.Module):
    """A float64 network that counts the rows it sees, and returns NaN after t = 0.55 where it is to break."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        self.broken, self.rows = broken, 0

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Tensor:
        self.rows += len(state)
        out = self.weight * state
        return out * torch.nan if self.broken and float(label.max()) > 0.55 else out
