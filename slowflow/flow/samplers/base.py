"""The interface of a sampler and the loop over a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow.errors import NonFiniteError
from slowflow.flow.model import FlowModel, Predictor
from slowflow.registry import Registry

Noise = Callable[[int, Tensor], Tensor]
"""`noise(step, like)`: fresh standard normal noise for a stochastic step, keyed by sample and step."""


class Sampler(ABC):
    """One update from t to s.

    order: of convergence of the deterministic part. stochastic: whether `step` uses `noise`.
    """

    name: str
    order: int = 1
    stochastic: bool = False

    def grid(self, model: FlowModel, steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
        """The times of a run with this many intervals: the model's own grid, unless a sampler has its own last step."""
        return model.grid(steps, shift)

    @abstractmethod
    def step(
        self,
        model: Predictor,
        state: Float[Tensor, "sample *data"],
        t: Float[Tensor, ""],
        s: Float[Tensor, ""],
        cond: Int[Tensor, " sample"],
        noise: Tensor | None = None,
    ) -> Float[Tensor, "sample *data"]:
        """The state at s, from the state at t < s."""


SAMPLERS: Registry[Callable[[], Sampler]] = Registry("sampler", "slowflow.flow.samplers")


def sampler(name: str | Sampler) -> Sampler:
    """The sampler called `name`; a sampler is returned as it is."""
    return name if isinstance(name, Sampler) else SAMPLERS.get(name)()


def walk(
    model: Predictor,
    method: Sampler,
    start: Float[Tensor, "sample *data"],
    cond: Int[Tensor, " sample"],
    grid: Float[Tensor, " times"],
    noise: Noise | None = None,
    ids: Sequence[int] | np.ndarray | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (k, state at grid[k]) for every time of the grid, the start included.

    Args:
        model: network, guided model or exact field.
        method: the sampler.
        start: states at grid[0], in the dtype the trajectory is kept in.
        cond: class of each sample.
        grid: increasing times, float64.
        noise: source of fresh noise; required by stochastic samplers.
        ids: of the samples, for messages.

    Raises:
        NonFiniteError: a state is not finite; names the sample, the step and the time.
    """
    state, times = start, grid.cpu()  # times decide what is done; on the CPU no decision waits for the device
    health = _Health(start)
    yield 0, state
    for k in range(len(times) - 1):
        fresh = noise(k, state) if method.stochastic and noise is not None else None
        with torch.no_grad():
            state = method.step(_for_step(model, times[k]), state, times[k], times[k + 1], cond, fresh)
        health.see(k, state)
        if state.device.type == "cpu" or k == len(times) - 2:
            health.require(times, ids)
        yield k + 1, state


class _Health:
    """The step in which each sample first stopped being finite, kept where the states are.

    Asking after every step would make the host wait for the device; a device is asked once, after the last step.
    """

    def __init__(self, like: Tensor) -> None:
        self._first = torch.full((len(like),), -1, dtype=torch.int64, device=like.device)

    def see(self, step: int, state: Tensor) -> None:
        """Note the samples that are no longer finite after `step`."""
        broken = ~torch.isfinite(state).flatten(1).all(dim=1)
        self._first = torch.where(broken & (self._first < 0), step, self._first)

    def require(self, times: Tensor, ids: Sequence[int] | np.ndarray | None = None) -> None:
        """Raise NonFiniteError for the first sample that broke first."""
        first = self._first.cpu()
        if not bool((first >= 0).any()):
            return
        step = int(first[first >= 0].min())
        bad = int((first == step).nonzero()[0])
        who = f"sample {bad} of the batch" if ids is None else f"sample {int(ids[bad])}"
        raise NonFiniteError(
            f"{who} became NaN or infinite in step {step + 1} of {len(times) - 1}, between t = {times[step]:.4f} and "
            f"{times[step + 1]:.4f}; the network's weights, dtype or guidance are to blame, more steps rarely help"
        )


def _for_step(model: Predictor, t: Tensor) -> Predictor:
    """A guided model may decide once a step whether it guides."""
    decide = getattr(model, "for_step", None)
    return model if decide is None else decide(t)
