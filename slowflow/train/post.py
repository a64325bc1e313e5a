"""Post-training: continue from a pretrained model with a remedy, or plainly as its control arm."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from slowflow.config import canonical
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.families.metadata import describe
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.run import RunFolder
from slowflow.remedies import REMEDIES, TrainingRemedy, make
from slowflow.train.keeping import Keep, keeper, require_room
from slowflow.train.keeping import name as kept_file
from slowflow.train.loop import Progress, TrainConfig, check_data, train
from slowflow.train.pretrain import finish


def make_remedy(
    name: str,
    gamma: float | None = None,
    target_at: str = "m",
    time_law: str | None = None,
    order: str = "released",
) -> TrainingRemedy:
    """The remedy called `name` with the settings it knows.

    Raises:
        InputError: unknown remedy, a gamma for one that has none, or none for one that needs it.
    """
    kind = REMEDIES.get(name)
    known = {f.name for f in fields(kind)}
    settings: dict[str, Any] = {} if time_law is None else {"time_law": time_law}
    if "gamma" in known:
        if gamma is None:
            raise InputError(f"the remedy '{name}' needs a gamma (a number, or auto with --run)")
        settings |= {"gamma": gamma, "target_at": target_at, "order": order}
    elif gamma is not None:
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
    progress: Progress | None = None,
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
        progress: called with (step, steps, note).

    Returns:
        The post-trained model with its averaged weights.
    """
    check_data(model, data)
    dtypes = {p.dtype for p in model.net.parameters() if p.requires_grad}
    if not dtypes:
        raise InputError(
            f"'{model.name}' has no trainable parameters; wrap the torch.nn.Module itself, not a function around it"
        )
    coarse = dtypes - {torch.float32, torch.float64}
    if coarse:
        raise InputError(f"weights in {min(map(str, coarse))} are too coarse to be trained; open the model in float32")
    bound = replace(remedy.bound(model), interpolant=model.interpolant.name)
    described = {"remedy": remedy_name(remedy), **canonical(bound)}
    record = {
        "model": model_id or {"name": model.name},
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "remedy": described,
        "train": config,
    }
    folder = RunFolder(out, "posttrain", record)
    trained = model.with_net(copy.deepcopy(model.net), name or f"{model.name}+{described['remedy']}")
    weights = folder.path / "model.safetensors"
    if folder.finished:
        return _with_weights(trained, weights)
    train_set, held = data.split(heldout)
    keep = (keep or Keep()).checked(config)
    require_room(folder.path, trained.net, keep, config)
    provenance = {"start": canonical(record["model"]), "remedy": described, "train": asdict(config)}
    metadata = {"model": describe(trained), "provenance": provenance}
    state = train(
        trained,
        train_set,
        remedy,
        config,
        folder.path / "state.safetensors",
        heldout=held,
        progress=folder.watched(progress),
        before_save=keeper(folder.path, keep, config, metadata),
    )
    finish(folder, trained, state, train_set, provenance, [kept_file(k) for k in keep.steps(config.steps, config)])
    return _with_weights(trained, weights)


def remedy_name(remedy: TrainingRemedy) -> str:
    """The registered name of a remedy."""
    return next(entry.name for entry in REMEDIES if type(remedy) is entry.value)


def _with_weights(model: FlowModel, weights: Path) -> FlowModel:
    net = copy.deepcopy(model.net)
    net.load_state_dict(checkpoint.load(weights).tensors)
    return model.with_net(net.eval())
