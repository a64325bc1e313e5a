"""Teams: how the ranks of a training share one step.

Every rank draws the randomness of the whole batch, which is keyed by (seed, purpose, step), and takes its rows. Gradients
are then averaged over ranks, so a rank's pieces are weighted by world * rows / batch: the step is that of one process with
the same batch, up to the order in which numbers are added.

    Alone       one process; nothing is exchanged
    Replicas    every rank has the whole network: torch's DistributedDataParallel
    Shards      every rank has a part of every tensor, its average and its moments: torch's FSDP2 (fully_shard)
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.flow.model import FlowModel
from slowflow.io import launch, ranks

PARALLEL = ("ddp", "fsdp")


class Team(ABC):
    """What training asks of the ranks it runs on."""

    alone = False
    sharded = False

    @abstractmethod
    def spread(self, *nets: nn.Module) -> None:
        """Lay networks out over the ranks, in place, before anything refers to their parameters."""

    @abstractmethod
    def training(self, model: FlowModel) -> FlowModel:
        """The model whose gradients reach every rank."""

    @abstractmethod
    def cuts(self, rows: int, most: int) -> list[tuple[slice, float]]:
        """This rank's pieces of a batch and the weight of each one's mean loss.

        Args:
            rows: of the whole batch.
            most: rows of a piece; 0 = any number.
        """

    @abstractmethod
    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of a piece; gradients need to be exchanged after the last one only."""

    @abstractmethod
    def mean(self, value: Tensor) -> Tensor:
        """Mean of a number over ranks, float64."""

    @abstractmethod
    def anywhere(self, flag: bool) -> bool:
        """True on every rank when true on one."""

    def clipped(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients down to at most `limit` in norm; the norm before, where it was computed."""
        return nn.utils.clip_grad_norm_(parameters, limit)

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor with nothing missing; every rank must ask for it."""
        return tensor


class Alone(Team):
    """One process."""

    alone = True

    def spread(self, *nets: nn.Module) -> None:
        """Nothing to lay out."""

    def training(self, model: FlowModel) -> FlowModel:
        """The model itself."""
        return model

    def cuts(self, rows: int, most: int) -> list[tuple[slice, float]]:
        """Pieces of at most `most` rows."""
        size = most or rows
        return [(slice(i, i + size), min(size, rows - i) / rows) for i in range(0, rows, size)]

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Nothing to exchange."""
        return contextlib.nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def anywhere(self, flag: bool) -> bool:
        """The flag itself."""
        return flag


class Joined(Team):
    """What both kinds of team share.

    Args:
        here: joined ranks.
        device: where the networks live; its process group is started.

    Raises:
        InputError: fewer images in a batch than ranks.
    """

    def __init__(self, here: ranks.Ranks, device: torch.device) -> None:
        launch.group()
        self.here, self.device = here, device

    def cuts(self, rows: int, most: int) -> list[tuple[slice, float]]:
        """Equally many pieces on every rank, because all of them exchange something in each."""
        world, rank = self.here.world, self.here.rank
        if rows < world:
            raise InputError(f"a batch of {rows} images cannot be shared by {world} ranks; each needs one at least")
        first, last = rank * rows // world, (rank + 1) * rows // world
        largest = -(-rows // world)
        count = -(-largest // (most or largest))
        edges = [first + k * (last - first) // count for k in range(count + 1)]
        pieces = []
        for low, high in itertools.pairwise(edges):
            # a rank with one row less than another may have nothing in a piece: a row that weighs nothing stands in
            pieces.append((slice(low, max(high, low + 1)) if low < last else slice(first, first + 1), high - low))
        return [(piece, world * n / rows) for piece, n in pieces]

    def mean(self, value: Tensor) -> Tensor:
        """Mean over ranks, on the CPU."""
        total = self._reduced(float(value), torch.distributed.ReduceOp.SUM)
        return torch.tensor(total / self.here.world, dtype=torch.float64)

    def anywhere(self, flag: bool) -> bool:
        """True on every rank when true on one."""
        return self._reduced(float(flag), torch.distributed.ReduceOp.MAX) > 0.0

    def _reduced(self, value: float, how: torch.distributed.ReduceOp.RedOpType) -> float:
        held = torch.tensor(value, dtype=torch.float64)  # on the CPU: gloo is there on GPU runs too
        torch.distributed.all_reduce(held, how)
        return float(held)


class Replicas(Joined):
    """Every rank has the whole network.

    Args:
        here, device: as for every team.
        idle: some trained parameters get no gradient in a step, so that nobody must wait for theirs.
    """

    def __init__(self, here: ranks.Ranks, device: torch.device, idle: bool = False) -> None:
        super().__init__(here, device)
        self.idle = idle
        self._net: nn.parallel.DistributedDataParallel | None = None

    def spread(self, *nets: nn.Module) -> None:
        """Every rank has opened the same weights already."""

    def training(self, model: FlowModel) -> FlowModel:
        """The model around a network that averages gradients while they are computed."""
        self._net = nn.parallel.DistributedDataParallel(
            model.net,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=self.idle,
        )
        return model.with_net(self._net)

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients add up on each rank until the last piece."""
        return contextlib.nullcontext() if last or self._net is None else self._net.no_sync()


class Shards(Joined):
    """Every rank has a part of every tensor; whole ones exist for one block at a time, while it computes.

    Gradients are exchanged after every piece: kept back until the last one they would be whole on every rank.
    """

    sharded = True

    def spread(self, *nets: nn.Module) -> None:
        """Shard each block of a network, then what is left of it."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.here.world,))
        for net in nets:
            for block in blocks(net):
                fully_shard(block, mesh=mesh)
            # the average is looked through between steps, when no backward pass puts its outer tensors away again
            fully_shard(net, mesh=mesh, reshard_after_forward=True)

    def training(self, model: FlowModel) -> FlowModel:
        """The model itself: its network is sharded in place."""
        return model

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Always."""
        return contextlib.nullcontext()

    def clipped(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """The norm is that of the whole gradient."""
        return self.whole(nn.utils.clip_grad_norm_(parameters, limit))

    def whole(self, tensor: Tensor) -> Tensor:
        """Gathered from all ranks."""
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def blocks(net: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: members of its outermost module lists that have parameters."""
    found: list[nn.Module] = []
    for child in net.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if next(block.parameters(), None) is not None]
        else:
            found += blocks(child)
    return found


def team(parallel: str, device: torch.device, *, idle: bool = False) -> Team:
    """The team of this process's ranks.

    Args:
        parallel: ddp or fsdp; one process alone needs neither.
        device: where the network shall train.
        idle: for ddp: some trained parameters get no gradient.

    Raises:
        InputError: an unknown kind, or a job array, whose tasks cannot exchange gradients.
    """
    if parallel not in PARALLEL:
        raise InputError(f"parallel is '{parallel}', expected one of {', '.join(PARALLEL)}")
    here = ranks.current()
    if here.array:
        raise InputError("tasks of a job array cannot train together; start the ranks with torchrun or srun")
    if here.link is None:
        return Alone()
    return Shards(here, device) if parallel == "fsdp" else Replicas(here, device, idle)
