"""Put a model where it shall run: device, dtype, memory format, and compiled if asked.

States stay in float32 or better whatever the network's dtype (generate.py). Convolutions on a GPU in 16 bits run on its
matrix units with channels last, and would be transposed back and forth otherwise; transformers have none to speak of:
their patches do not overlap.
"""

from __future__ import annotations

import torch
from torch import nn

from slowflow.errors import EnvironmentProblem, InputError
from slowflow.flow import compiling
from slowflow.flow.model import FlowModel
from slowflow.memory import ran_out


def place(net: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Move a network, in place."""
    net.to(device=device, dtype=dtype)
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        channels_last(net)


def convolutional(net: nn.Module) -> bool:
    """True where windows overlap: a U-Net; not where patches are cut out by a strided convolution."""
    return any(isinstance(m, nn.Conv2d) and m.kernel_size > m.stride for m in net.modules())


def channels_last(net: nn.Module) -> None:
    """The memory format for convolutions, in place; other networks stay as they are."""
    if convolutional(net):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compiled(model: FlowModel, choice: str, rows: int = 0, backend: str = compiling.INDUCTOR) -> FlowModel:
    """The model; its network and that of its guide are compiled in place.

    Args:
        model: where it shall run.
        choice: off, on or graphs.
        rows: states a call will have: it is compiled for them now, and a network that cannot be is refused. 0 = on first use.
        backend: of torch.compile.

    Raises:
        InputError: a choice that cannot be served here, or a network that cannot be compiled.
        EnvironmentProblem: no compiler that works.
    """
    compiling.checked(choice, model.device)
    for one in (model, model.guiding.guide):
        if isinstance(one, FlowModel) and choice != compiling.OFF:
            compiling.compile_in_place(one.net, one.device, choice, backend)
            if rows:
                _first_call(one, rows)
    return model


def _first_call(model: FlowModel, rows: int) -> None:
    model.net.eval()
    state = torch.zeros(rows, *model.shape, device=model.device)
    try:
        with torch.no_grad():
            model.raw(state, torch.tensor(0.5), torch.zeros(rows, dtype=torch.int64, device=model.device))
    except Exception as error:
        if ran_out(error) or isinstance(error, InputError | EnvironmentProblem):
            raise
        raise InputError(
            f"the network of '{model.name}' cannot be compiled ({compiling.reason(error)}); leave --compile out"
        ) from error
