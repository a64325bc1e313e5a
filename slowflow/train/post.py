"""Post-training: continue from a pretrained model with a remedy, or plainly as its control arm."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from slowflow.config import canonical, digest
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.families.metadata import describe
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint
from slowflow.io.run import RunFolder
from slowflow.remedies import REMEDIES, TrainingRemedy, make, name_of
from slowflow.train.execution import Execution
from slowflow.train.keeping import Keep, keeper, require_room
from slowflow.train.keeping import name as kept_file
from slowflow.train.logs import check as check_logs
from slowflow.train.logs import open_logs
from slowflow.train.loop import Progress, TrainConfig, check_data, train
from slowflow.train.pretrain import finish

ARRAYS = "remedy.json"
"""File of the run folder with the measured arrays a remedy was given."""


def make_remedy(
    name: str,
    gamma: float | None = None,
    target_at: str | None = None,
    time_law: str | None = None,
    order: str | None = None,
    **more: Any,
) -> TrainingRemedy:
    """The remedy called `name` with the settings that are given.

    Args:
        name: as `slowflow ls remedies` has it.
        gamma: width or strength; a remedy that slows its inputs does not go without.
        target_at, time_law, order: where None is not given, the remedy's own.
        more: any other settings by name.

    Raises:
        InputError: unknown remedy, a setting that it does not have, or no gamma for one that slows its inputs.
    """
    kind = REMEDIES.get(name)
    given = {"gamma": gamma, "target_at": target_at, "time_law": time_law, "order": order}
    settings = {key: value for key, value in given.items() if value is not None} | more
    if kind.measured == "gamma" and "gamma" not in settings:
        raise InputError(f"the remedy '{name}' needs a gamma (a number, or auto with --run)")
    if gamma is not None and "gamma" not in kind.settings():
        raise InputError(f"the remedy '{name}' has no gamma, but {gamma} was given")
    return make(name, settings)


def post_train(
    model: FlowModel,
    data: ImageSet,
    remedy: TrainingRemedy,
    config: TrainConfig,
    out: str | Path,
    *,
    heldout: float = 0.2,
    model_id: dict[str, Any] | None = None,
    name: str | None = None,
    keep: Keep | None = None,
    snapshots: Sequence[int] = (),
    progress: Progress | None = None,
    parallel: str = "ddp",
    device: torch.device | None = None,
    logs: Sequence[str] = (),
    execution: Execution | None = None,
) -> FlowModel:
    """Post-train a copy of the model into the folder `out`, resuming when it is unfinished.

    Args:
        model: the pretrained model; its weights are not changed.
        data: real images; the held-out share is never trained on.
        remedy: decides state, label and target of every step.
        config: settings; the same seed gives every arm the same images and noise.
        out: run folder; ends with model.safetensors (the averaged weights).
        heldout: share of each class that is held out.
        model_id: what identifies the starting point.
        name: of the result.
        keep: checkpoints that stay beside the last; none but it when None. No part of the configuration.
        snapshots: steps whose averaged weights are also kept, in `snapshot_file(out, step)`.
        progress: called with (step, steps, note).
        parallel: how joined ranks share the network: ddp or fsdp; it enters no configuration, a run may go on with the other.
        device: for fsdp: where the parts go, when the model was opened elsewhere.
        logs: where the numbers of every few steps go too (`train/logs`), in OUT/logs; no part of the configuration.
        execution: how it is computed; it enters no configuration either.

    Returns:
        The post-trained model with its averaged weights.
    """
    check_data(model, data)
    check_logs(logs)
    dtypes = {p.dtype for p in model.net.parameters() if p.requires_grad}
    if not dtypes:
        raise InputError(
            f"'{model.name}' has no trainable parameters; wrap the torch.nn.Module itself, not a function around it"
        )
    coarse = dtypes - {torch.float32, torch.float64}
    if coarse:
        raise InputError(f"weights in {min(map(str, coarse))} are too coarse to be trained; open the model in float32")
    bound = remedy.bound(model)
    described, arrays = described_remedy(bound)
    record = {
        "model": model_id or {"name": model.name},
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "remedy": described,
        "train": config,
    }
    folder = RunFolder(out, "posttrain", record)
    # what is frozen stays as it is and need not be held twice
    frozen = {id(p): p for p in model.net.parameters() if not p.requires_grad}
    trained = model.with_net(copy.deepcopy(model.net, dict(frozen)), name or f"{model.name}+{described['remedy']}")
    weights = folder.path / "model.safetensors"
    if folder.finished:
        return with_weights(model, weights, trained.name)
    if arrays:
        atomic.write_json(folder.path / ARRAYS, arrays)
    train_set, held = data.split(heldout)
    keep = (keep or Keep()).checked(config)
    require_room(folder.path, trained.net, keep, config)
    provenance = {"start": canonical(record["model"]), "remedy": described, "train": asdict(config)}
    with open_logs(logs, folder.path, trained.name, provenance) as log:
        state = train(
            trained,
            train_set,
            remedy,
            config,
            folder.path / "state.safetensors",
            heldout=held,
            snapshots={step: snapshot_file(folder.path, step) for step in snapshots},
            progress=folder.watched(progress),
            before_save=keeper(folder.path, keep, config, {"model": describe(trained), "provenance": provenance}),
            parallel=parallel,
            device=device,
            log=log,
            execution=execution,
        )
    calls = {"trained": state.step * config.batch_size, "extra": state.step * bound.calls(config.batch_size)}
    files = [*([ARRAYS] if arrays else []), *(kept_file(step) for step in keep.steps(config.steps, config))]
    computed = execution.record() if execution else {}
    more = {"network_calls": calls, **({"execution": computed} if computed else {})}
    finish(folder, trained, state, train_set, provenance, files=files, **more)
    return with_weights(model, weights, trained.name)


def snapshot_file(folder: str | Path, step: int) -> Path:
    """File of the averaged weights at one step of a post-training."""
    return Path(folder) / "snapshots" / f"{step:07d}.safetensors"


def described_remedy(bound: TrainingRemedy) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what a record says of a remedy, its measured arrays): arrays stand in the record by their hash."""
    whole = bound.record()
    arrays = {name: whole[name] for name in bound.needed()}
    short = {name: {"sha256": digest(value), "file": ARRAYS} for name, value in arrays.items()}
    return {"remedy": name_of(bound), **whole, **short}, arrays


def with_weights(model: FlowModel, weights: Path, name: str | None = None) -> FlowModel:
    """The same conventions around the weights of a file."""
    net = copy.deepcopy(model.net)
    net.load_state_dict(checkpoint.load(weights).tensors)
    return model.with_net(net.eval(), name)
