"""Network rows of one sample over those of the official scripts, on a network that only counts.

    sde_rows_over_official           SiT: its script evaluates drift and score apart, so each step calls the network twice
    autoguidance_rows_over_official  RAE: its script doubles the batch of the model and of the guide and drops half of both

The loops of the scripts are set down here as published, so that both sides are counted by the same network.
Source: SiT (arXiv 2401.08740) and RAE (arXiv 2510.11690), sampling scripts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from slowflow.flow.count import network_calls
from slowflow.flow.habits import Guiding
from slowflow.flow.model import FlowModel
from speed.machine import Machine
from speed.timing import AT_MOST, Ratio

STEPS_SDE, STEPS_RAE, SAMPLES = 250, 49, 2


class _Counter(nn.Module):
    """Zero for an answer; counts the rows it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.rows += len(state)
        return torch.zeros_like(state)


def _official_sde() -> int:
    """Rows a sample: drift and score are two closures, each calling the network, in every step and in the last."""
    net, state = _Counter(), torch.zeros(1, 1)
    for t in torch.linspace(0.0, 1.0, STEPS_SDE):
        drift, score = net(state, t, t), net(state, t, t)
        state = state + drift + score
    return net.rows


def _official_autoguidance() -> int:
    """Rows a sample of model and guide: both see [x, x], the second half is thrown away."""
    net, guide = _Counter(), _Counter()
    state = torch.zeros(SAMPLES, 1)
    for t in torch.linspace(1.0, 0.0, STEPS_RAE):
        doubled = torch.cat([state, state])
        strong, weak = net(doubled, t, t), guide(doubled, t, t)
        state = (weak + 1.42 * (strong - weak)).chunk(2)[0]
    return (net.rows + guide.rows) // SAMPLES


def run(machine: Machine) -> list[Ratio]:
    """Counts, exact: no noise, and the floor is the value."""
    model = FlowModel.from_callable(_Counter(), shape=(1,), classes=2)
    sde = network_calls(model, "em-sit", STEPS_SDE) / _official_sde()
    guided = replace(model, guiding=Guiding(guide=replace(model, net=_Counter())))
    autoguidance = network_calls(guided, "euler", STEPS_RAE, guidance=1.42) / _official_autoguidance()
    return [
        Ratio("sde_rows_over_official", sde, sde, sde, AT_MOST, 0.5, sde),
        Ratio("autoguidance_rows_over_official", autoguidance, autoguidance, autoguidance, AT_MOST, 0.5, autoguidance),
    ]
