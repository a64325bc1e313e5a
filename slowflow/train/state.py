"""The resumable state of a training run: weights, EMA, Adam moments and the loss curve, in one safetensors file.

Nothing about randomness is stored: every draw of step k is keyed by (seed, purpose, k).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slowflow.errors import InputError
from slowflow.io import checkpoint

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainState:
    """A network in training.

    Args:
        net: trained in place.
        ema_decay: decay of the moving average a step, in [0, 1).
        betas, weight_decay: AdamW's.
        ema_ramp: the average forgets faster at first, see `decay`; None = `ema_decay` from the first step.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        ema_decay: float,
        betas: tuple[float, float],
        weight_decay: float,
        ema_ramp: float | None = None,
    ) -> None:
        self.net = net
        self.ema_decay, self.ema_ramp = ema_decay, ema_ramp
        self.parameters = dict(_trained(net))
        self.ema = AveragedModel(net, multi_avg_fn=self._average)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=0.0, betas=betas, weight_decay=weight_decay, foreach=True
        )
        # the average starts at the weights training starts from
        self.ema.update_parameters(net)
        self.step = 0
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.rows = 0

    @property
    def decay(self) -> float:
        """Decay of this step: ema_decay, or (k + 1) / (k + 1 + ramp) where that is smaller.

        Under a ramp the mean age of the averaged weights is a fixed share of the run, 1 / (ramp + 1), until ema_decay
        takes over; a run stopped early is then averaged as a short run should be.
        """
        if self.ema_ramp is None:
            return self.ema_decay
        return min(self.ema_decay, (self.step + 1) / (self.step + 1 + self.ema_ramp))

    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        get_ema_multi_avg_fn(self.decay)(averaged, current, _)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the rows the network is asked for in `rows`: those of batches, and those a remedy rolls out itself."""

        def count(net: nn.Module, arguments: tuple[Any, ...], out: Any) -> None:
            self.rows += len(arguments[0])

        handle = self.net.register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()

    @property
    def ema_net(self) -> nn.Module:
        """The averaged network: what is evaluated and shipped."""
        return self.ema.module

    def save(self, path: Path) -> None:
        """Write everything as one file; the write is the commit."""
        # frozen weights are those of the start: beside a LoRA they would be nearly the whole file
        tensors: dict[str, Tensor] = {f"net/{name}": p for name, p in _trained(self.net)}
        tensors |= {f"ema/{name}": p for name, p in _trained(self.ema_net)}
        tensors |= {f"buffer/{name}": b for name, b in self.net.named_buffers()}
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                value = self.optimizer.state.get(parameter, {}).get(moment)
                tensors[f"{moment}/{name}"] = torch.zeros_like(parameter) if value is None else value
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["validation"] = torch.tensor(self.validation, dtype=torch.float64).reshape(-1, 2)
        checkpoint.save(path, tensors, {"step": self.step, "rows": self.rows})

    def load(self, path: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            InputError: the file belongs to another network.
        """
        stored = checkpoint.load(path)
        expected = {f"net/{name}": p.shape for name, p in _trained(self.net)}
        expected |= {f"buffer/{name}": b.shape for name, b in self.net.named_buffers()}
        for name, shape in expected.items():
            if name not in stored.tensors or stored.tensors[name].shape != shape:
                raise InputError(f"{path} holds the state of another network: '{name}' is missing or of another shape")
        self.step, self.rows = int(stored.metadata["step"]), int(stored.metadata.get("rows", 0))
        with torch.no_grad():
            for name, parameter in _trained(self.net):
                parameter.copy_(stored.tensors[f"net/{name}"])
            for name, parameter in _trained(self.ema_net):
                parameter.copy_(stored.tensors[f"ema/{name}"])
            for name, buffer in self.net.named_buffers():
                buffer.copy_(stored.tensors[f"buffer/{name}"])
                self.ema_net.get_buffer(name).copy_(stored.tensors[f"buffer/{name}"])
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                **{moment: stored.tensors[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in MOMENTS},
            }
        self.losses = stored.tensors["losses"].tolist()
        self.validation = [(int(k), float(v)) for k, v in stored.tensors["validation"].tolist()]

    def history_json(self) -> str:
        """Loss curve as JSON text, thinned to at most 2,000 points of running means."""
        width = max(len(self.losses) // 2000, 1)
        curve = [
            [i + width, sum(self.losses[i : i + width]) / width] for i in range(0, len(self.losses) - width + 1, width)
        ]
        return json.dumps({"loss": curve, "validation": self.validation})


def _trained(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that training changes, by name."""
    return [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
