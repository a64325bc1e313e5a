"""A training step that runs out of memory is cut into smaller pieces and done again; its gradient is the same.

The gradient of a batch is the sum over its pieces, so a step cut in two differs from the whole one by rounding alone
(about 1e-7 of it): activations of fewer images are held at once, which is what training runs out of memory on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from slowflow.memory import fitting, halve, ran_out, used

T = TypeVar("T")


def in_pieces(net: nn.Module, backward: Callable[[int], T], micro_batch: int, batch_size: int) -> T:
    """The loss of one step, its gradients in the network.

    Args:
        net: whose gradients are filled; they are cleared before the step is done again.
        backward: fills the gradients from pieces of at most the given number of images and returns the loss.
        micro_batch: images at once as asked; 0 = the whole batch.
        batch_size: images in a step.

    Raises:
        EnvironmentProblem: one image alone does not fit.
    """
    asked = micro_batch or batch_size
    while True:
        size = min(asked, fitting(net) or asked)
        try:
            loss = backward(size)
            used(net)
            return loss
        except Exception as error:
            if not ran_out(error):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        net.zero_grad(set_to_none=True)
        halve(net, size, reason)
