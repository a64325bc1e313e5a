"""The training loop, one page.

Each step k draws everything from (seed, purpose, k): the batch, the noise, the dropped labels and the remedy's
times. The loop therefore resumes bit for bit on one CPU thread from weights, EMA and Adam moments alone, and two arms
with the same seed see the same images and the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.errors import InputError, NonFiniteError
from slowflow.flow.model import FlowModel, conditions
from slowflow.flow.weighting import loss_weight
from slowflow.io import stopping
from slowflow.remedies.base import TrainingRemedy
from slowflow.train.fitting import in_pieces
from slowflow.train.state import TrainState

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    Args:
        steps: optimiser steps, at least 1.
        batch_size: images a step.
        lr: peak learning rate, reached after `warmup` steps.
        lr_final: learning rate at the last step; cosine between. Equal to `lr` it is constant.
        warmup: steps of linear warm-up.
        weight_decay, betas: AdamW's.
        ema_decay: of the moving average.
        clip: largest gradient norm.
        label_dropout: share of labels replaced by the null class.
        seed: of every draw.
        save_every: steps between saved states.
        valid_every: steps between held-out losses; 0 = never.
        micro_batch: images that go through the network at once; the gradient is that of the whole batch. 0 = all.
        mixed: compute in bfloat16 where that is safe (autocast); weights, averages and the loss stay as they are.
    """

    steps: int
    batch_size: int = 64
    lr: float = 2e-4
    lr_final: float = 2e-4
    warmup: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    ema_decay: float = 0.999
    clip: float = 1.0
    label_dropout: float = 0.1
    seed: int = 0
    save_every: int = 250
    valid_every: int = 500
    micro_batch: int = 0
    mixed: bool = False

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "warmup": 0, "save_every": 1, "valid_every": 0, "micro_batch": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if len(self.betas) != 2 or any(not 0.0 <= b < 1.0 for b in self.betas):
            raise InputError(f"betas is {self.betas}, expected two numbers in [0, 1)")
        if not 0.0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")
        for name in ("ema_decay", "label_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a share in [0, 1)")
        for name in ("lr", "lr_final", "clip"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine from lr to lr_final over the remaining steps."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr_final + 0.5 * (self.lr - self.lr_final) * (1.0 + math.cos(math.pi * share))


def batch_rows(seed: int, step: int, batch_size: int, n: int) -> Tensor:
    """Rows of step `step`: the data in a new random order every epoch, without gaps or repeats inside one."""
    first = step * batch_size
    orders = {e: rng.permutation(seed, "epoch", n, e) for e in range(first // n, (first + batch_size - 1) // n + 1)}
    return torch.tensor([int(orders[p // n][p % n]) for p in range(first, first + batch_size)])


class Batch(NamedTuple):
    """What the network sees in one step: states, time labels, targets, conditions, and features where the data have some."""

    state: Tensor
    t: Tensor
    target: Tensor
    cond: Tensor
    features: Tensor | None = None

    def parts(self, size: int) -> Iterator[Batch]:
        """Pieces of at most `size` rows; 0 = in one piece."""
        for i in range(0, len(self.state), size or len(self.state)):
            rows = slice(i, i + (size or len(self.state)))
            features = None if self.features is None else self.features[rows]
            yield Batch(self.state[rows], self.t[rows], self.target[rows], self.cond[rows], features)


def step_batch(model: FlowModel, remedy: TrainingRemedy, data: ImageSet, config: TrainConfig, step: int) -> Batch:
    """Everything step `step` draws: images, noise, dropped labels, and the remedy's state, label and target."""
    rows = batch_rows(config.seed, step, config.batch_size, len(data))
    clean = data.data[rows].to(model.device)
    noise = torch.randn(clean.shape, generator=rng.torch_generator(config.seed, "noise", step)).to(clean)
    cond = conditions(model, data.labels[rows])
    if model.null is not None:
        dropped = (
            torch.rand(len(rows), generator=rng.torch_generator(config.seed, "dropout", step)) < config.label_dropout
        )
        cond = torch.where(dropped, model.null, cond)
    state, t, target = remedy.pair(noise, clean, rng.torch_generator(config.seed, "times", step))
    known = data.features is not None and model.training.second_loss is not None
    features = data.features[rows].to(clean) if known and data.features is not None else None
    return Batch(state, t, target, cond.to(model.device), features)


def batch_loss(model: FlowModel, batch: Batch, mixed: bool = False) -> Tensor:
    """Mean squared error, weighted as the model's authors do, and their second loss where there are features for it."""
    habits = model.training
    with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
        out, answer = model.answer(batch.state, batch.t, batch.cond)
        weight = loss_weight(model.interpolant, model.prediction, habits.weighting, batch.t.to(torch.float64))
        if weight is None:
            loss = nn.functional.mse_loss(out, batch.target)
        else:
            loss = ((out - batch.target).square().flatten(1).mean(dim=1) * weight.to(out)).mean()
        if batch.features is not None and habits.second_loss is not None:
            loss = loss + habits.second_loss(answer, batch.features)
        return loss


def step_loss(model: FlowModel, remedy: TrainingRemedy, data: ImageSet, config: TrainConfig, step: int) -> Tensor:
    """The loss of one step."""
    return batch_loss(model, step_batch(model, remedy, data, config, step), config.mixed)


def _backward(model: FlowModel, batch: Batch, config: TrainConfig, size: int) -> float:
    """Add the gradient of the whole batch, one piece after the other; returns the loss, without a gradient if not finite."""
    total = 0.0
    for part in batch.parts(size):
        loss = batch_loss(model, part, config.mixed)
        share = len(part.state) / len(batch.state)
        total += share * loss.item()
        if not math.isfinite(total):
            break
        (loss if share == 1.0 else share * loss).backward()
    return total


@torch.no_grad()
def heldout_loss(model: FlowModel, heldout: ImageSet, seed: int, limit: int = 512) -> float:
    """Plain loss on held-out data at fixed noise and uniform times: rises when the network starts to memorise."""
    n = min(limit, len(heldout))
    rows = torch.from_numpy(rng.permutation(seed, "validation", len(heldout))[:n].copy())
    data = heldout.data[rows].to(model.device)
    draw = rng.torch_generator(seed, "validation")
    noise = torch.randn(data.shape, generator=draw).to(data)
    t = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).to(data)
    out = model.raw(
        model.interpolant.state(noise, data, t), t, conditions(model, heldout.labels[rows]).to(model.device)
    )
    return float(nn.functional.mse_loss(out, model.target(noise, data, t)))


@stopping.deferred()
def train(
    model: FlowModel,
    data: ImageSet,
    remedy: TrainingRemedy,
    config: TrainConfig,
    state_file: Path,
    *,
    heldout: ImageSet | None = None,
    progress: Progress | None = None,
    before_save: Callable[[TrainState], None] | None = None,
) -> TrainState:
    """Train `model.net` in place and return the state; resumes from `state_file` when it exists.

    Args:
        model: conventions and network; the network's weights are the starting point.
        data: training images, the shape the model expects.
        remedy: decides state, label and target; bound to the model's path and prediction here.
        config: settings.
        state_file: where the resumable state is kept.
        heldout: images for the held-out loss; none when None.
        progress: called with (step, steps, note).
        before_save: called with the state each time before it is saved.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the state of the last step is saved.
        InputError: data of another shape or with more classes than the model.
        NonFiniteError: the loss is not finite; the last good state stays on disk.
    """
    check_data(model, data)
    remedy = remedy.bound(model)
    state = TrainState(
        model.net,
        ema_decay=config.ema_decay,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
    )
    if state_file.exists():
        state.load(state_file)
    model.net.train()
    while state.step < config.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = config.learning_rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        batch = step_batch(model, remedy, data, config, state.step)
        loss = in_pieces(model.net, partial(_backward, model, batch, config), config.micro_batch, config.batch_size)
        if not math.isfinite(loss):
            raise _diverged("loss", loss, state.step, state_file)
        norm = nn.utils.clip_grad_norm_(state.parameters.values(), config.clip)
        if not math.isfinite(float(norm)):
            raise _diverged("gradient norm", float(norm), state.step, state_file)
        state.optimizer.step()
        state.ema.update_parameters(state.net)
        state.step += 1
        state.losses.append(loss)
        last = state.step == config.steps
        if heldout is not None and config.valid_every and (last or state.step % config.valid_every == 0):
            value = heldout_loss(model.with_net(state.ema_net), heldout, config.seed)
            state.validation.append((state.step, value))
        if last or stopping.asked() or state.step % config.save_every == 0:
            if before_save is not None:
                before_save(state)
            state.save(state_file)
            stopping.obey()
        if progress is not None:
            recent = state.losses[-100:]
            progress(state.step, config.steps, f"loss {sum(recent) / len(recent):.4f}")
    model.net.eval()
    return state


def _diverged(what: str, value: float, step: int, state_file: Path) -> NonFiniteError:
    kept = f"the last good state is kept in {state_file}" if state_file.exists() else "nothing was saved yet"
    return NonFiniteError(f"the {what} became {value} at step {step}; {kept}; a smaller learning rate usually helps")


def check_data(model: FlowModel, data: ImageSet) -> None:
    """Refuse data that the model cannot take."""
    if data.shape != model.shape:
        raise InputError(f"'{data.name}' has items of shape {data.shape}, the model expects {model.shape}")
    if model.classes and data.classes > model.classes:
        raise InputError(f"'{data.name}' has {data.classes} classes, the model knows {model.classes}")
