"""The training loop, one page.

Each step k draws everything from (seed, purpose, k): the batch, the noise, the dropped labels and the remedy's
times. The loop therefore resumes bit for bit on one CPU thread from weights, EMA and Adam moments alone, and two arms
with the same seed see the same images and the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.errors import InputError, NonFiniteError
from slowflow.flow import compiling
from slowflow.flow.model import FlowModel, conditions
from slowflow.flow.weighting import loss_weight
from slowflow.io import checkpoint, ranks, stopping
from slowflow.memory import undivided
from slowflow.remedies.base import TrainingRemedy
from slowflow.train.batches import Batch, Drawn, drawn
from slowflow.train.batches import batch_rows as batch_rows
from slowflow.train.batches import step_batch as step_batch
from slowflow.train.execution import Execution, ahead, recomputed
from slowflow.train.fitting import in_pieces
from slowflow.train.logs import EVERY, Numbers
from slowflow.train.settings import TrainConfig as TrainConfig
from slowflow.train.state import TrainState
from slowflow.train.teams import Team, team

Progress = Callable[[int, int, str], None]


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


def _backward(model: FlowModel, batch: Batch, config: TrainConfig, team: Team, size: int) -> Tensor:
    """Add the gradient of the whole batch, one piece of at most `size` images after the other.

    Returns the loss, float64, where it was computed: reading it would make the host wait for every piece.
    """
    total = torch.zeros((), dtype=torch.float64, device=batch.state.device)
    cuts = team.cuts(len(batch.state), size)
    for k, (rows, share) in enumerate(cuts):
        with team.exchanging(k == len(cuts) - 1):
            loss = batch_loss(model, batch.at(rows), config.mixed)
            total += share * loss.detach().double()
            (loss if share == 1.0 else share * loss).backward()
    return team.mean(total)


def _step(model: FlowModel, batch: Batch, config: TrainConfig, team: Team) -> Tensor:
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
    execution: Execution | None = None,
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
        execution: how it is computed.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the state of the last step is saved.
        InputError: data of another shape or with more classes than the model.
        NonFiniteError: the loss is not finite; the last good state stays on disk.
    """
    check_data(model, data)
    how = (execution or Execution()).on(device or model.device)
    if how.compile != compiling.OFF and parallel == "fsdp":
        raise InputError("--compile goes with one process or with --parallel ddp, not with fsdp")
    remedy = remedy.bound(in_parts(model, config.micro_batch))
    state = _state(model, remedy, data, config, parallel, device, fused=bool(how.fused))
    state.resume(state_file)
    compiling.compile_in_place(model.net, model.device, how.compile)  # after its average was copied from it

    def make(step: int) -> Drawn:
        found = drawn(model, data, config, step)
        return found.pinned() if model.device.type == "cuda" else found

    with recomputed(model.net, how.recompute), ahead(make, config.steps, bool(how.ahead)) as made:
        step = _Step(model, remedy, data, config, state, state_file, made if how.ahead else None)
        while state.step < config.steps:
            norm = step()
            last = state.step == config.steps
            if heldout is not None and config.valid_every and (last or state.step % config.valid_every == 0):
                with undivided(state.team.sharded):
                    value = heldout_loss(model.with_net(state.ema_net), heldout, config.seed)
                state.validation.append((state.step, value))
            # before the state: a run that is cut between the two makes the snapshot again, never misses it
            if snapshots is not None and state.step in snapshots:
                averaged = state.averaged()
                if ranks.current().leads:
                    checkpoint.save(snapshots[state.step], averaged, {"step": state.step})
            state.settle(state_file)
            asked = state.team.anywhere(stopping.asked())
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


class _Step:
    """One optimiser step of a run.

    Args:
        model, remedy, data, config: as for `train`, the remedy bound.
        state: what is trained.
        file: where the last good state is kept, for messages.
        made: draws of a step that are made ahead; None = made here.
    """

    def __init__(
        self,
        model: FlowModel,
        remedy: TrainingRemedy,
        data: ImageSet,
        config: TrainConfig,
        state: TrainState,
        file: Path,
        made: Callable[[int], Drawn] | None,
    ) -> None:
        self.asked = (model, remedy, data, config)
        self.state, self.file = state, file
        self.made = (made,) if made is not None else ()
        self.trained = state.team.training(model)
        model.net.train()

    def __call__(self) -> float:
        """Make it and return the norm of its gradient; the host waits for the device once, when everything has been asked of it."""
        config, state, ours = self.asked[3], self.state, self.state.team
        for group in state.optimizer.param_groups:
            group["lr"] = config.learning_rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with undivided(ours.sharded):
            batch = step_batch(*self.asked, state.step, *self.made)
        loss = _step(self.trained, batch, config, ours)
        norm = ours.clipped(list(state.parameters.values()), config.clip)
        seen = torch.stack([loss, norm.to(loss)]).tolist()
        for what, value in zip(("loss", "gradient norm"), seen, strict=True):
            if not math.isfinite(value):
                raise _diverged(what, value, state.step, self.file)
        state.optimizer.step()
        state.ema.update_parameters(state.net)
        state.step += 1
        state.losses.append(seen[0])
        return float(seen[1])


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
    fused: bool,
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
        fused=fused,
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
