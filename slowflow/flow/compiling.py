"""Compile a network by option: the same weights, names and identity; fewer and larger kernels.

    on      torch.compile: kernels are fused, each batch size has its own
    graphs  and the calls of one forward pass are replayed as one (CUDA graphs), for sampling; needs a CUDA device

The network is compiled in place (`nn.Module.compile`): its tensors keep their names, a copy of it is not compiled, and
nothing that identifies a checkpoint changes. What it computes differs by rounding, because sums are taken in another
order: in float32 about 1e-6 of a prediction. Whatever records a precision says that the network was compiled.
Source: Ansel et al. 2024, PyTorch 2 (10.1145/3620665.3640366).
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slowflow.errors import EnvironmentProblem, InputError

OFF = "off"
MODES = {"on": "default", "graphs": "reduce-overhead"}
CHOICES = (OFF, *MODES)
INDUCTOR = "inductor"
_how: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def how(net: nn.Module) -> str:
    """How a network is compiled: off, on or graphs."""
    return _how.get(net, OFF)


def said(net: nn.Module) -> str:
    """The same behind a precision in a record; empty for a network that is not compiled."""
    return "" if how(net) == OFF else ", compiled" if how(net) == "on" else ", compiled with CUDA graphs"


def checked(choice: str, device: torch.device) -> str:
    """The choice, if it can be served on this device.

    Raises:
        InputError: an unknown choice, or CUDA graphs without a CUDA device.
    """
    if choice not in CHOICES:
        raise InputError(f"--compile is '{choice}', expected one of {', '.join(CHOICES)}")
    if choice == "graphs" and device.type != "cuda":
        raise InputError(
            f"--compile graphs needs a CUDA device, and the network is on '{device.type}'; use --compile on"
        )
    return choice


def compile_in_place(net: nn.Module, device: torch.device, choice: str, backend: str = INDUCTOR) -> None:
    """Compile one network; a network that is compiled already stays as it is.

    Args:
        net: the network.
        device: where it runs.
        choice: off, on or graphs.
        backend: of torch.compile; the others of torch fuse nothing and need no compiler.

    Raises:
        InputError: a choice that cannot be served here.
        EnvironmentProblem: no compiler that works.
    """
    if checked(choice, device) == OFF or how(net) != OFF:
        return
    if backend == INDUCTOR:
        must_work(device)
        net.compile(dynamic=False, mode=MODES[choice])
    else:
        net.compile(dynamic=False, backend=backend)
    _how[net] = choice


def must_work(device: torch.device) -> None:
    """Compile one operation: what is missing is said at once, not in the middle of a run.

    Raises:
        EnvironmentProblem: it fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing the compiler uses what torch itself deprecates
            torch.compile(_doubled)(torch.ones(8, device=device))
    except Exception as error:  # a missing compiler, Triton or Python header: each has an error of its own
        needed = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler such as g++"
        raise EnvironmentProblem(
            f"--compile needs {needed}, and compiling does not work here ({reason(error)}); leave --compile out"
        ) from error


def _doubled(x: Tensor) -> Tensor:
    return x + x


def reason(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def kept(net: nn.Module, out: Any) -> Any:
    """What a network returned, to be kept: replayed graphs write their next answer over the last."""
    return tree_map_only(Tensor, Tensor.clone, out) if how(net) == "graphs" else out
