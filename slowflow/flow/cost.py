"""What a run costs before it runs: parameters, memory, network calls.

The network is run once on tensors without content (torch's meta device): every storage that comes to life and dies is
counted, so the peak is that of this network, batch and dtype, and nothing is computed. Attention is counted as if its
matrix were stored, which fused kernels avoid: for long sequences the number is an upper bound. What a device adds on top
(its context, workspaces of its kernels, fragmentation) is not in it: leave a tenth.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slowflow.flow.count import network_calls
from slowflow.flow.course import Correction
from slowflow.flow.model import FlowModel, first_output
from slowflow.flow.samplers import Sampler

TRAINED_COPIES = 4
"""Copies of a trained parameter beside itself: gradient, two Adam moments, moving average."""


@dataclass(frozen=True)
class Cost:
    """Bytes and calls.

    Args:
        parameters: of the network; a guide's are counted too.
        weights: bytes they and the network's tables take.
        sampling: peak bytes of one guided network call on a batch, weights and states included; None = cannot be told.
        training: peak bytes of one optimiser step on a batch; None = cannot be told.
        calls: network calls of one sample.
    """

    parameters: int
    weights: int
    sampling: int | None
    training: int | None
    calls: int


def cost(
    model: FlowModel,
    batch: int,
    method: str | Sampler = "euler",
    steps: int = 1,
    *,
    guidance: float = 1.0,
    remedy: Correction | None = None,
) -> Cost:
    """Count parameters, memory and calls of sampling and of post-training on batches of this size.

    Args:
        model: in canonical time; its guide counts when `guidance` uses it.
        batch: samples a batch.
        method: sampler.
        steps: intervals.
        guidance: scale; 1 = none.
        remedy: what corrects sampling.
    """
    guide = model.guiding.guide if guidance != 1.0 else None
    nets = [model.net, *([guide.net] if isinstance(guide, FlowModel) else [])]
    weights = sum(x.numel() * x.element_size() for net in nets for x in net.state_dict().values())
    rows = batch * (2 if guidance != 1.0 and guide is None else 1)
    values = batch * int(torch.Size(model.shape).numel())
    # a state, a velocity and the next state in float64
    forward = peak(model, rows)
    trained_bytes = sum(p.numel() * p.element_size() for p in model.net.parameters() if p.requires_grad)
    backward = peak(model, batch, train=True)
    return Cost(
        parameters=sum(p.numel() for net in nets for p in net.parameters()),
        weights=weights,
        sampling=None if forward is None else weights + forward + 3 * 8 * values,
        # gradients are among what the backward pass leaves behind
        training=None if backward is None else weights + backward + (TRAINED_COPIES - 1) * trained_bytes,
        calls=network_calls(model, method, steps, guidance=guidance, remedy=remedy),
    )


def peak(model: FlowModel, rows: int, *, train: bool = False) -> int | None:
    """Bytes that one call adds to the weights at its worst; None for a network that cannot run without content."""
    held = {name: x.detach().to("meta") for name, x in model.net.state_dict(keep_vars=True).items()}
    if train:
        wanted = {name for name, p in model.net.named_parameters() if p.requires_grad}
        held = {name: x.requires_grad_(name in wanted) for name, x in held.items()}
    state = torch.zeros(rows, *model.shape, dtype=model.dtype, device="meta")
    label = torch.zeros(rows, dtype=torch.promote_types(model.dtype, torch.float32), device="meta")
    cond = torch.zeros(rows, dtype=torch.int64, device="meta")
    live = _Live()
    try:
        with torch.set_grad_enabled(train), live:
            out = first_output(functional_call(model.net, held, (state, label, cond)), model.shape[0])
            if train:
                out.square().mean().backward()
    except Exception:  # a stranger's network may do anything; what cannot be told is not told
        return None
    return live.peak


def size(bytes_: int | None) -> str:
    """Bytes for people."""
    if bytes_ is None:
        return "unknown"
    return f"{bytes_ / 2**30:.2f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.1f} MiB"


class _Live(TorchDispatchMode):
    """Bytes of storages made under it, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in known | self._seen:
                self._born(x.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
