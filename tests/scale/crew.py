"""What the tests of several processes start: python crew.py TASK FOLDER, once for every rank."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from slowflow.data.images import ImageSet
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.flow.model import FlowModel
from slowflow.io import launch, ranks
from slowflow.remedies.mixflow import MixFlow
from slowflow.train.loop import TrainConfig, train

SHAPE = SiTConfig(4, 2, 1, hidden=8, depth=2, heads=2, classes=3)
# 13 images a step: no number of ranks divides them, and pieces of 4 leave some ranks with a short one
CONFIG = TrainConfig(steps=50, batch_size=13, lr=1e-3, lr_final=1e-3, warmup=4, ema_decay=0.9, save_every=20, valid_every=25)


def images(n: int = 60) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    values = (labels.float() / 3).view(n, 1, 1, 1) + 0.1 * torch.randn((n, 1, 4, 4), generator=draw)
    return ImageSet("blobs", values, labels, 3)


def tiny(seed: int = 0, dtype: torch.dtype = torch.float64) -> FlowModel:
    net = initialise(SiT(SHAPE), torch.Generator().manual_seed(seed))
    return flow_model(net.to(dtype), path="linear", prediction="velocity", name="tiny")


def trained(file: Path, parallel: str = "ddp", *, seed: int = 0, dtype: torch.dtype = torch.float64, **settings: object):
    """A training state after `train`."""
    data, held = images().split(0.2)
    data = replace(data, data=data.data.to(dtype))
    held = replace(held, data=held.data.to(dtype))
    config = replace(CONFIG, **settings)
    return train(tiny(seed, dtype), data, MixFlow(gamma=0.5), config, file, heldout=held, parallel=parallel)


def numbers(state) -> dict[str, torch.Tensor]:
    """Weights, averages and moments, whole, by name."""
    whole = state.team.whole
    found = {f"net/{name}": whole(p.detach()) for name, p in state.net.named_parameters()}
    found |= {f"ema/{name}": tensor for name, tensor in state.averaged().items()}
    for name, parameter in state.parameters.items():
        found |= {f"{key}/{name}": whole(state.optimizer.state[parameter][key]) for key in ("exp_avg", "exp_avg_sq")}
    found["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    found["validation"] = torch.tensor(state.validation, dtype=torch.float64)
    return {name: tensor.clone() for name, tensor in found.items()}


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of any two numbers."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
