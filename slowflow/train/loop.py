"""The training loop, one page.

Each step k draws everything from (seed, purpose, k): the batch, the noise, the dropped labels and the remedy's
times. The loop therefore resumes bit for bit on one CPU thread from weights, EMA and Adam moments alone, and two arms
with the same seed see the same images and the same noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.errors import InputError, NonFiniteError
from slowflow.flow.model import FlowModel, conditions
from slowflow.flow.weighting import loss_weight
from slowflow.io import checkpoint, ranks, stopping
from slowflow.memory import undivided
from slowflow.remedies.base import TrainingRemedy
from slowflow.train.fitting import in_pieces
from slowflow.train.logs import EVERY, Numbers
from slowflow.train.state import TrainState
from slowflow.train.teams import Team, team

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
        ema_ramp: the average forgets faster at first, so that its mean age is at most 1 / (ramp + 1) of the steps so far;
            None = ema_decay from the first step.
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
    ema_ramp: float | None = None

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
        if self.ema_ramp is not None and not 0.0 < self.ema_ramp < math.inf:
            raise InputError(f"ema_ramp is {self.ema_ramp}, expected a finite number above 0")
        for name in ("lr", "lr_final", "clip"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine from lr to lr_final over the remaining steps."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr_final + 0.5 * (self.lr - self.lr_final) * (1.0 + math.cos(math.pi * share))


@functools.lru_cache(maxsize=2)
def _order(seed: int, n: int, epoch: int) -> np.ndarray:
    """The order of an epoch; kept, because shuffling a million images takes as long as a small step."""
    return rng.permutation(seed, "epoch", n, epoch)


def batch_rows(seed: int, step: int, batch_size: int, n: int) -> Tensor:
    """Rows of step `step`: the data in a new random order every epoch, without gaps or repeats inside one."""
    first = step * batch_size
    orders = {e: _order(seed, n, e) for e in range(first // n, (first + batch_size - 1) // n + 1)}
    return torch.tensor([int(orders[p // n][p % n]) for p in range(first, first + batch_size)])


class Batch(NamedTuple):
    """What the network sees in one step: states, time labels, targets, conditions, and features where the data have some."""

    state: Tensor
    t: Tensor
    target: Tensor
    cond: Tensor
    features: Tensor | None = None

    def at(self, rows: slice) -> Batch:
        """Some of its rows."""
        features = None if self.features is None else self.features[rows]
        return Batch(self.state[rows], self.t[rows], self.target[rows], self.cond[rows], features)


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
    state, t, target = remedy.pair(noise, clean, rng.torch_generator(config.seed, "times", step), cond)
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


def _backward(model: FlowModel, batch: Batch, config: TrainConfig, team: Team, size: int) -> float:
    """Add the gradient of the whole batch, one piece of at most `size` images after the other.

    Returns the loss, without a gradient if not finite.
    """
    total = 0.0
    cuts = team.cuts(len(batch.state), size)
    for k, (rows, share) in enumerate(cuts):
        with team.exchanging(k == len(cuts) - 1):
            loss = batch_loss(model, batch.at(rows), config.mixed)
            total += share * loss.item()
            if team.alone and not math.isfinite(total):
                break  # ranks must not stop one by one: the others would wait for the gradient
            (loss if share == 1.0 else share * loss).backward()
    return team.mean(total)


def _step(model: FlowModel, batch: Batch, config: TrainConfig, team: Team) -> float:
    """`_backward`, in smaller pieces where memory runs out; ranks cannot change the number of theirs one by one."""
    if not team.alone:
        return _backward(model, batch, config, team, config.micro_batch)
    return in_pieces(model.net, partial(_backward, model, batch, config, team), config.micro_batch, config.batch_size)


def _idle(model: FlowModel, batch: Batch) -> bool:
    """Are there trained parameters that get no gradient? Replicas must not wait for theirs."""
    batch_loss(model, batch.at(slice(0, 1))).backward()
    idle = any(p.grad is None for p in model.net.parameters() if p.requires_grad)
    model.net.zero_grad(set_to_none=True)
    return idle


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
    snapshots: Mapping[int, Path] | None = None,
    progress: Progress | None = None,
    before_save: Callable[[TrainState], None] | None = None,
    parallel: str = "ddp",
    device: torch.device | None = None,
    log: Numbers | None = None,
) -> TrainState:
    """Train `model.net` in place and return the state; resumes from `state_file` when it exists.

    Joined ranks share every step (teams.py); how many there are changes nothing but the order of sums.

    Args:
        model: conventions and network; the network's weights are the starting point.
        data: training images, the shape the model expects.
        remedy: decides state, label and target; bound to the model here.
        config: settings.
        state_file: where the resumable state is kept.
        heldout: images for the held-out loss; none when None.
        snapshots: step -> file that the averaged weights of that step are written to.
        progress: called with (step, steps, note).
        before_save: called with the state, on every rank, each time before it is saved.
        parallel: how joined ranks share the network: ddp (each has all of it) or fsdp (each has a part).
        device: for fsdp: where the parts go, when the whole network is too large for it and was opened elsewhere.
        log: called now and then with the number of steps and what is known after them, by name.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the state of the last step is saved.
        InputError: data of another shape or with more classes than the model.
        NonFiniteError: the loss is not finite; the last good state stays on disk.
    """
    check_data(model, data)
    remedy = remedy.bound(in_parts(model, config.micro_batch))
    state = _state(model, remedy, data, config, parallel, device)
    state.resume(state_file)
    ours, trained = state.team, state.team.training(model)
    model.net.train()
    while state.step < config.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = config.learning_rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with undivided(ours.sharded):
            batch = step_batch(model, remedy, data, config, state.step)
        loss = _step(trained, batch, config, ours)
        if not math.isfinite(loss):
            raise _diverged("loss", loss, state.step, state_file)
        norm = ours.clipped(list(state.parameters.values()), config.clip)
        if not math.isfinite(norm):
            raise _diverged("gradient norm", norm, state.step, state_file)
        state.optimizer.step()
        state.ema.update_parameters(state.net)
        state.step += 1
        state.losses.append(loss)
        last = state.step == config.steps
        if heldout is not None and config.valid_every and (last or state.step % config.valid_every == 0):
            with undivided(ours.sharded):
                value = heldout_loss(model.with_net(state.ema_net), heldout, config.seed)
            state.validation.append((state.step, value))
        # before the state: a run that is cut between the two makes the snapshot again, never misses it
        if snapshots is not None and state.step in snapshots:
            averaged = state.averaged()
            if ranks.current().leads:
                checkpoint.save(snapshots[state.step], averaged, {"step": state.step})
        state.settle(state_file)
        asked = ours.anywhere(stopping.asked())
        if last or asked or state.step % config.save_every == 0:
            if before_save is not None:
                before_save(state)
            state.save(state_file, last=last or asked)
            stopping.obey(asked)
        _tell(log, state, config, norm)
        if progress is not None:
            recent = state.losses[-100:]
            progress(state.step, config.steps, f"loss {sum(recent) / len(recent):.4f}")
    model.net.eval()
    return state


def _tell(log: Numbers | None, state: TrainState, config: TrainConfig, norm: float) -> None:
    """Loss (mean since the last entry), gradient norm, learning rate, and the held-out loss where it was just taken."""
    taken, value = (state.validation or [(0, 0.0)])[-1]
    held = {"loss/held out": value} if taken == state.step else {}
    if log is None or not (held or state.step % EVERY == 0 or state.step == config.steps):
        return
    recent = state.losses[-((state.step - 1) % EVERY + 1) :]
    told = {"loss/training": sum(recent) / len(recent), "gradient norm": norm}
    log(state.step, {**told, "learning rate": config.learning_rate(state.step - 1), **held})


class _InParts(nn.Module):
    """A network that sees at most `size` rows at once; same weights, same answers."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Tensor:
        parts = zip(*(whole.split(self.size) for whole in (state, label, cond)), strict=True)
        return torch.cat([out[0] if isinstance(out := self.net(*part), tuple | list) else out for part in parts])


def in_parts(model: FlowModel, size: int) -> FlowModel:
    """The model as a rollout sees it, `size` rows at once; 0 = all."""
    return model.with_net(_InParts(model.net, size)) if size else model


def _state(
    model: FlowModel,
    remedy: TrainingRemedy,
    data: ImageSet,
    config: TrainConfig,
    parallel: str,
    device: torch.device | None,
) -> TrainState:
    """The state before the first step, laid out over the ranks."""
    model.net.train()
    several = ranks.current().link is not None
    idle = several and parallel == "ddp" and _idle(model, step_batch(model, remedy, data, config, 0))
    return TrainState(
        model.net,
        ema_decay=config.ema_decay,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
        ema_ramp=config.ema_ramp,
        team=team(parallel, (device if parallel == "fsdp" else None) or model.device, idle=idle),
    )


def _diverged(what: str, value: float, step: int, state_file: Path) -> NonFiniteError:
    kept = f"the last good state is kept in {state_file}" if state_file.exists() else "nothing was saved yet"
    return NonFiniteError(
        f"the {what} became {value} at step {step}; {kept}; a smaller learning rate usually helps", step=step
    )


def check_data(model: FlowModel, data: ImageSet) -> None:
    """Refuse data that the model cannot take."""
    if data.shape != model.shape:
        raise InputError(f"'{data.name}' has items of shape {data.shape}, the model expects {model.shape}")
    if model.classes and data.classes > model.classes:
        raise InputError(f"'{data.name}' has {data.classes} classes, the model knows {model.classes}")
