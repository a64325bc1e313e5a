"""The resumable state of a training run: weights, EMA, Adam moments and the loss curve, in one safetensors file.

Nothing about randomness is stored: every draw of step k is keyed by (seed, purpose, k). A sharded training writes the
same tensors in parts instead (distributed.py); whichever of the two is further is resumed from, by any number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slowflow.errors import InputError
from slowflow.io import checkpoint, ranks
from slowflow.train.distributed import ShardedFile
from slowflow.train.teams import Alone, Team

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainState:
    """A network in training.

    Args:
        net: trained in place.
        ema_decay: decay of the moving average a step, in [0, 1).
        betas, weight_decay: AdamW's.
        ema_ramp: the average forgets faster at first, see `decay`; None = `ema_decay` from the first step.
        team: lays the network and its average out over ranks; None = one process.
        fused: one kernel for the optimiser's step instead of one an operation; they differ by rounding.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        ema_decay: float,
        betas: tuple[float, float],
        weight_decay: float,
        ema_ramp: float | None = None,
        team: Team | None = None,
        fused: bool = False,
    ) -> None:
        self.net, self.team = net, team or Alone()
        self.ema_decay, self.ema_ramp = ema_decay, ema_ramp
        self.ema = AveragedModel(net, multi_avg_fn=self._average)
        if not self.team.sharded:
            _share_frozen(net, self.ema.module)
        self.team.spread(net, self.ema.module)
        self.parameters = dict(_trained(net))
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=0.0,
            betas=betas,
            weight_decay=weight_decay,
            foreach=not fused,
            fused=fused,
        )
        self._fused = fused
        # the average starts at the weights training starts from
        self.ema.update_parameters(net)
        self.step = 0
        self._file: ShardedFile | None = None
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []

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

    @property
    def ema_net(self) -> nn.Module:
        """The averaged network: what is evaluated and shipped."""
        return self.ema.module

    def averaged(self) -> dict[str, Tensor]:
        """The averaged network's tensors, whole; every rank must ask for them, and those of rank 0 are to be used."""
        leads = ranks.current().leads
        found = {name: self.team.whole(tensor.detach()) for name, tensor in self.ema_net.state_dict().items()}
        return {name: tensor.cpu() if self.team.sharded and leads else tensor for name, tensor in found.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is saved, by name."""
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
        return tensors

    def save(self, path: Path, *, last: bool = True) -> None:
        """Write everything as one file, the write being the commit; a sharded training writes parts in the background.

        Args:
            path: of the file; parts lie beside it.
            last: wait until it is on disk.
        """
        if self.team.sharded:
            parts = {name: t.detach() for name, t in self._tensors().items() if t.numel()}
            self._parts(path).save(parts, self.step, wait=last)
        elif ranks.current().leads:
            checkpoint.save(path, self._tensors(), {"step": self.step})

    def settle(self, path: Path) -> None:
        """Commit parts that were written in the background, if they are whole by now."""
        if self.team.sharded:
            self._parts(path).settle(wait=False)

    def _parts(self, path: Path) -> ShardedFile:
        if self._file is None or self._file.place != path.with_suffix(".json"):
            self._file = ShardedFile(path.with_suffix(".json"))
        return self._file

    def resume(self, path: Path) -> None:
        """Go on from whichever saved state is further; from the start when there is none."""
        parts = self._parts(path).step
        if path.exists() and (parts is None or int(checkpoint.metadata(path).get("step", 0)) >= parts):
            self.load(path)
        elif parts is not None:
            self._load_parts(path, parts)

    def _must_fit(self, path: Path, shapes: Mapping[str, torch.Size]) -> None:
        expected = {f"net/{name}": p.shape for name, p in _trained(self.net)}
        expected |= {f"buffer/{name}": b.shape for name, b in self.net.named_buffers()}
        for name, shape in expected.items():
            if shapes.get(name) != shape:
                raise InputError(f"{path} holds the state of another network: '{name}' is missing or of another shape")

    def load(self, path: Path) -> None:
        """Restore what `save` wrote as one file.

        Raises:
            InputError: the file belongs to another network.
        """
        stored = checkpoint.load(path)
        self._must_fit(path, {name: tensor.shape for name, tensor in stored.tensors.items()})
        self._restore(stored.tensors, int(stored.metadata["step"]))

    def _load_parts(self, path: Path, step: int) -> None:
        file = self._parts(path)
        shapes = file.shapes()
        self._must_fit(file.folder(step), shapes)
        known = self._tensors()
        tensors = {name: torch.empty_like(known[name]).detach() for name in shapes if name in known}
        for name in ("losses", "validation"):
            tensors[name] = torch.zeros(shapes.get(name, torch.Size([0])), dtype=torch.float64)
        file.load({name: tensor for name, tensor in tensors.items() if name in shapes})
        self._restore({**tensors, "validation": tensors["validation"].reshape(-1, 2)}, step)

    def _restore(self, stored: Mapping[str, Tensor], step: int) -> None:
        self.step = step
        with torch.no_grad():
            for name, parameter in _trained(self.net):
                _fill(parameter, stored[f"net/{name}"])
            for name, parameter in _trained(self.ema_net):
                _fill(parameter, stored[f"ema/{name}"])
            for name, buffer in self.net.named_buffers():
                buffer.copy_(stored[f"buffer/{name}"])
                self.ema_net.get_buffer(name).copy_(stored[f"buffer/{name}"])
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                # the fused kernel counts where the parameter is
                "step": torch.tensor(float(self.step), device=parameter.device if self._fused else None),
                **{moment: _like(parameter, stored[f"{moment}/{name}"]) for moment in MOMENTS},
            }
        self.losses = stored["losses"].tolist()
        self.validation = [(int(k), float(v)) for k, v in stored["validation"].tolist()]

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


def _share_frozen(net: nn.Module, average: nn.Module) -> None:
    """What is not trained is its own average: beside a LoRA a second copy would be nearly the whole memory."""
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            place, _, leaf = name.rpartition(".")
            setattr(average.get_submodule(place), leaf, parameter)


def _fill(target: Tensor, source: Tensor) -> None:
    """Copy whole values, or parts laid out alike, into a tensor."""
    target.copy_(_like(target, source))


def _like(target: Tensor, source: Tensor) -> Tensor:
    """A copy of `source` on the device and in the layout of `target`."""
    if isinstance(target, DTensor) and not isinstance(source, DTensor):
        return distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    return source.to(target.device, copy=True)
