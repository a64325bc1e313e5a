"""Checkpoints kept by rule along a training run: the last k, and every one at a multiple of N steps.

    OUT/checkpoints/step-00000500.safetensors    the averaged weights, as in model.safetensors

They are written before the resumable state of the same step, so that a run killed in between writes them again; which
ones there are at the end depends on the rule alone, not on where the run was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from slowflow.errors import InputError
from slowflow.io import checkpoint, ranks, space
from slowflow.train.loop import TrainConfig
from slowflow.train.state import TrainState

COPIES = 4
"""Copies of a trained number in a saved state: itself, its average, two moments."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay.

    Args:
        last: the newest so many; 0 = none for being new.
        every: those at multiples of so many steps, a multiple of `save_every`; 0 = none.
    """

    last: int = 0
    every: int = 0

    def __post_init__(self) -> None:
        for name in ("last", "every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")

    def checked(self, config: TrainConfig) -> Keep:
        """Itself, where it fits the training settings.

        Raises:
            InputError: `every` is no multiple of the steps between saved states.
        """
        if self.every % config.save_every:
            raise InputError(
                f"checkpoints every {self.every} steps, but states are saved every {config.save_every}: name a multiple"
            )
        return self

    def steps(self, reached: int, config: TrainConfig) -> list[int]:
        """Steps whose checkpoints there are once `reached` is."""
        saved = list(range(config.save_every, reached + 1, config.save_every))
        if not self.last and not self.every:
            return []
        return [k for i, k in enumerate(saved) if i >= len(saved) - self.last or (self.every and k % self.every == 0)]


def name(step: int) -> str:
    """File of the checkpoint of a step, in the run folder."""
    return f"checkpoints/step-{step:08d}.safetensors"


def keeper(folder: Path, keep: Keep, config: TrainConfig, metadata: dict[str, Any]) -> Callable[[TrainState], None]:
    """What `train` calls before it saves a state: writes the checkpoint of that step and removes those the rule drops.

    Every rank must call it, because a sharded average is gathered from all; the first one writes.
    """

    def before(state: TrainState) -> None:
        wanted = {folder / name(step) for step in keep.steps(state.step, config)}
        averaged = state.averaged() if folder / name(state.step) in wanted else None
        if not ranks.current().leads:
            return
        if averaged is not None:
            checkpoint.save(folder / name(state.step), averaged, {**metadata, "step": state.step})
        for file in (folder / "checkpoints").glob("step-*.safetensors"):
            if file not in wanted:
                file.unlink()

    return before


def require_room(folder: Path, net: nn.Module, keep: Keep, config: TrainConfig) -> None:
    """Refuse a training run that will not fit; a state is written beside the one before it.

    Raises:
        EnvironmentProblem: too little room.
    """
    here = ranks.current()
    if here.leads:
        space.require(folder, run_bytes(net, keep, config), "this training run", beside=state_bytes(net, config))
    here.meet()  # before any rank waits for the others' gradients


def state_bytes(net: nn.Module, config: TrainConfig) -> int:
    """Bytes of a saved state."""
    trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    return COPIES * trained + sum(b.numel() * b.element_size() for b in net.buffers()) + 8 * config.steps


def run_bytes(net: nn.Module, keep: Keep, config: TrainConfig) -> int:
    """Bytes of a finished training run: the last state, the averaged weights, the checkpoints kept."""
    weights = sum(x.numel() * x.element_size() for x in net.state_dict().values())
    return state_bytes(net, config) + weights * (1 + len(keep.steps(config.steps, config)))
