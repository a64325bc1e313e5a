"""What the tests of several processes start: python crew.py TASK FOLDER, once for every rank."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import open_features
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint, launch, ranks, stopping
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.remedies.mixflow import MixFlow
from slowflow.train.keeping import Keep, keeper
from slowflow.train.loop import TrainConfig, train

SHAPE = SiTConfig(4, 2, 1, hidden=8, depth=2, heads=2, classes=3)
# 13 images a step: no number of ranks divides them, and pieces of 4 leave some ranks with a short one
CONFIG = TrainConfig(
    steps=50, batch_size=13, lr=1e-3, lr_final=1e-3, warmup=4, ema_decay=0.9, save_every=20, valid_every=25
)
PROBE = Probe(samples=24, steps=(3,), references=("own",), nulls=("genuine",), shard=5)
SAMPLING = Sampling(samples=24, steps=(2, 3))


def images(n: int = 60) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    values = (labels.float() / 3).view(n, 1, 1, 1) + 0.1 * torch.randn((n, 1, 4, 4), generator=draw)
    return ImageSet("blobs", values, labels, 3)


def tiny(seed: int = 0, dtype: torch.dtype = torch.float64) -> FlowModel:
    net = initialise(SiT(SHAPE), torch.Generator().manual_seed(seed))
    return flow_model(net.to(dtype), path="linear", prediction="velocity", name="tiny")


def trained(file, parallel="ddp", *, seed=0, dtype=torch.float64, progress=None, before_save=None, **settings):
    """A training state after `train`."""
    data, held = images().split(0.2)
    data = replace(data, data=data.data.to(dtype))
    held = replace(held, data=held.data.to(dtype))
    config = replace(CONFIG, **settings)
    return train(
        tiny(seed, dtype),
        data,
        MixFlow(gamma=0.5),
        config,
        file,
        heldout=held,
        parallel=parallel,
        progress=progress,
        before_save=before_save,
    )


def numbers(state) -> dict[str, torch.Tensor]:
    """Weights, averages and moments, whole, by name."""
    whole = state.team.whole
    found = {f"net/{name}": whole(p.detach()) for name, p in state.net.named_parameters()}
    found |= {f"ema/{name}": tensor for name, tensor in state.averaged().items()}
    for name, parameter in state.parameters.items():
        found |= {f"{key}/{name}": whole(state.optimizer.state[parameter][key]) for key in ("exp_avg", "exp_avg_sq")}
    found["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    found["validation"] = torch.tensor(state.validation, dtype=torch.float64)
    return {name: tensor.clone() for name, tensor in found.items()}


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of any two numbers."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


class Stop(Exception):
    """What cuts a run."""


def cut(file: Path, parallel: str, at: int = 30) -> None:
    """Train, and stop at a step between two saved states."""

    def progress(step: int, steps: int, note: str) -> None:
        if step == at:
            raise Stop

    try:
        trained(file, parallel, progress=progress)
    except Stop:
        return


def save(state, out: Path) -> None:
    """The numbers of a state, written by rank 0; every rank must call it."""
    found = numbers(state)
    if ranks.current().leads:
        checkpoint.save(out, found, {})


def share_everything(out: Path) -> None:
    """A measurement and an evaluation of a tiny model."""
    model, data = tiny(), images()
    draw = torch.Generator().manual_seed(1)
    for parameter in model.net.parameters():  # a fresh network answers zero, and its states never leave the noise
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    measure(model, data, PROBE, out / "measure", heldout=0.5)
    evaluate(model, data, open_features("pixels", model.shape), SAMPLING, out / "evaluate", heldout=0.5)


def two(out: Path) -> None:
    """Two ranks: the whole way with each kind of team in pieces of 4, and half the way."""
    for parallel in ("ddp", "fsdp"):
        save(trained(out / parallel / "state.safetensors", parallel, micro_batch=4), out / f"{parallel}.safetensors")
        cut(out / f"cut-{parallel}" / "state.safetensors", parallel)
    share_everything(out)


def three(out: Path) -> None:
    """Three ranks go on with what two have begun, each kind of team with what the other saved."""
    for begun, parallel in (("ddp", "fsdp"), ("fsdp", "ddp")):
        state = trained(out / f"cut-{begun}" / "state.safetensors", parallel, seed=9)
        save(state, out / f"resumed-{begun}.safetensors")
    share_everything(out)


def single(out: Path) -> None:
    """float32, as networks are trained by default."""
    for parallel in ("ddp", "fsdp"):
        state = trained(out / parallel / "state.safetensors", parallel, dtype=torch.float32, lr=2e-4, lr_final=2e-4)
        save(state, out / f"{parallel}.safetensors")


def stopped(out: Path) -> None:
    """The last rank is told to stop during step 7; every rank must end, and what step 7 made must be saved."""
    here = ranks.current()

    def progress(step: int, steps: int, note: str) -> None:
        if here.rank == here.world - 1 and step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    for parallel in ("ddp", "fsdp"):
        folder, config = out / parallel, replace(CONFIG, save_every=5)
        kept = keeper(folder, Keep(last=1), config, {})
        with stopping.listening():
            try:
                trained(folder / "state.safetensors", parallel, progress=progress, before_save=kept, save_every=5)
            except KeyboardInterrupt:
                (folder / f"stopped-{here.rank}").touch()
        here.meet()


def failing(out: Path) -> None:
    """The last rank cannot go on while the others wait for it."""
    here = ranks.current()
    if here.rank == here.world - 1:
        raise InputError("the disk is full")
    here.meet()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with launch.joined():
        globals()[sys.argv[1]](Path(sys.argv[2]))
