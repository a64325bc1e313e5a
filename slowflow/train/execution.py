"""How a training run is computed: nothing here changes what is learned, beyond rounding where it says so.

    ahead       batches are drawn by another thread while the device works, and copied from pinned memory without waiting:
                the same bits, since every draw of step k is keyed by (seed, purpose, k)
    recompute   a block keeps its input alone and is computed again for the gradient: the same bits
    fused       one kernel for the optimiser's step: rounding
    compile     kernels made for the network: rounding

None of it enters a configuration, so that a run may go on with other settings; what was chosen stands in the result.
Source: recomputation: Chen et al. 2016 (arXiv 1604.06174).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from slowflow.errors import InputError
from slowflow.train.teams import blocks

T = TypeVar("T")
DEPTH = 2
"""Batches that are drawn before they are asked for."""


@dataclass(frozen=True)
class Execution:
    """Settings of how a run is computed.

    Args:
        compile: off or on.
        recompute: keep no activations inside the network's blocks (gradient checkpointing): less memory, a third more time.
        ahead: draw batches in another thread; None = where the network is on a GPU.
        fused: the optimiser's fused kernel; None = where the network is on a GPU.
    """

    compile: str = "off"
    recompute: bool = False
    ahead: bool | None = None
    fused: bool | None = None

    def __post_init__(self) -> None:
        if self.compile not in ("off", "on"):
            raise InputError(f"--compile is '{self.compile}', expected off or on; graphs are for sampling")

    def on(self, device: torch.device) -> Execution:
        """With nothing left to choose on this device."""
        gpu = device.type == "cuda"
        chosen = {name: gpu for name in ("ahead", "fused") if getattr(self, name) is None}
        return Execution(**{**asdict(self), **chosen})

    def record(self) -> dict[str, Any]:
        """What was asked for, for a manifest; empty when nothing was."""
        plain = asdict(Execution())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


class Ahead(Generic[T]):
    """Values of a function of the step, made by another thread before they are asked for.

    Args:
        make: step -> value; called for one step at a time, in order.
        last: no step from here on is made.
    """

    def __init__(self, make: Callable[[int], T], last: int) -> None:
        self._make, self._last = make, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slowflow-ahead")
        self._waiting: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        """The value of a step; those after it are begun."""
        for k in range(step, min(step + DEPTH + 1, self._last)):
            if k not in self._waiting:
                self._waiting[k] = self._pool.submit(self._make, k)
        return self._waiting.pop(step).result()

    def close(self) -> None:
        """Forget what was made for nothing."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def ahead(make: Callable[[int], T], last: int, wanted: bool) -> Iterator[Callable[[int], T]]:
    """`make`, its values made ahead if wanted."""
    if not wanted:
        yield make
        return
    maker = Ahead(make, last)
    try:
        yield maker
    finally:
        maker.close()


@contextlib.contextmanager
def recomputed(net: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, the blocks of a network keep their inputs alone; its tensors keep their names.

    Raises:
        InputError: the network has no list of blocks.
    """
    parts = blocks(net) if wanted else []
    if wanted and not parts:
        raise InputError(
            f"gradient checkpointing computes blocks again, and {type(net).__name__} has no torch.nn.ModuleList of them"
        )
    before = [vars(part).get("forward") for part in parts]
    for part in parts:
        part.forward = partial(_again, part.forward)
    try:
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            del part.forward
            if own is not None:
                part.forward = own


def _again(forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A block's forward pass, done again for the gradient."""
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    return checkpoint(forward, *args, use_reentrant=False, **named)
