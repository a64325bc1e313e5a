"""Train a bundled-size SiT from a recorded recipe (a TOML file with [model], [data] and [train])."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from slowflow import rng
from slowflow.config import from_mapping, read_toml
from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.families.metadata import describe
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint, ranks
from slowflow.io.run import RunFolder
from slowflow.remedies.plain import Plain
from slowflow.train.keeping import Keep, require_room
from slowflow.train.logs import check as check_logs
from slowflow.train.logs import open_logs
from slowflow.train.loop import Progress, TrainConfig, check_data, train
from slowflow.train.state import TrainState


@dataclass(frozen=True)
class DataRecipe:
    """Which data: `name` as for `--data`, and the share of each class that is held out."""

    name: str
    heldout: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: the network, its conventions, the data and the training settings."""

    name: str
    model: SiTConfig
    data: DataRecipe
    train: TrainConfig
    interpolant: str = "linear"
    prediction: str = "velocity"


def read_recipe(path: str | Path) -> Recipe:
    """Parse a recipe file strictly.

    Raises:
        InputError: not TOML, a section is missing, or a setting is unknown, missing or of the wrong type.
    """
    content = read_toml(path)
    for section in ("model", "data", "train"):
        if not isinstance(content.get(section), dict):
            raise InputError(f"{path} lacks the section [{section}]")
    unknown = sorted(content.keys() - {"name", "interpolant", "prediction", "model", "data", "train"})
    if unknown:
        raise InputError(f"unknown setting '{unknown[0]}' in {path}")
    return Recipe(
        name=str(content.get("name", Path(path).stem)),
        model=from_mapping(SiTConfig, content["model"], f"[model] of {path}"),
        data=from_mapping(DataRecipe, content["data"], f"[data] of {path}"),
        train=from_mapping(TrainConfig, content["train"], f"[train] of {path}"),
        interpolant=str(content.get("interpolant", "linear")),
        prediction=str(content.get("prediction", "velocity")),
    )


def fresh_model(recipe: Recipe) -> FlowModel:
    """The recipe's network with its initial weights, a function of the seed alone."""
    net = initialise(SiT(recipe.model), rng.torch_generator(recipe.train.seed, "weights"))
    return flow_model(net, path=recipe.interpolant, prediction=recipe.prediction, name=recipe.name)


def pretrain(
    recipe: Recipe,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    logs: Sequence[str] = (),
) -> Path:
    """Train the recipe into the folder `out`, resuming when it is unfinished; returns the checkpoint's path."""
    check_logs(logs)
    model = fresh_model(recipe)
    model.net.to(device)
    train_set, heldout = open_data(recipe.data.name, classes=recipe.model.classes).split(recipe.data.heldout)
    check_data(model, train_set)
    folder = RunFolder(out, "pretrain", {"recipe": recipe, "data_sha256": train_set.fingerprint})
    weights = folder.path / "model.safetensors"
    if folder.finished:
        return weights
    require_room(folder.path, model.net, Keep(), recipe.train)
    with open_logs(logs, folder.path, recipe.name, asdict(recipe)) as log:
        state = train(
            model,
            train_set,
            Plain(),
            recipe.train,
            folder.path / "state.safetensors",
            heldout=heldout,
            progress=folder.watched(progress),
            log=log,
        )
    finish(folder, model, state, train_set, {"recipe": asdict(recipe)})
    return weights


def finish(
    folder: RunFolder,
    model: FlowModel,
    state: TrainState,
    data: ImageSet,
    provenance: dict[str, Any],
    *,
    files: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write the averaged weights, the loss curve and, last, the manifest; `files` are further ones of the run, `more` goes
    into its result."""
    averaged = state.averaged()
    here = ranks.current()
    if not here.leads:
        return here.meet()
    metadata = {"model": describe(model), "provenance": provenance}
    checkpoint.save(folder.path / "model.safetensors", averaged, metadata)
    history, content = folder.path / "history.json", state.history_json()
    # not written twice: a run that is killed here again and again must get on to its manifest
    if not history.is_file() or history.read_text(encoding="utf-8") != content:
        atomic.write_text(history, content)
    tail = state.losses[-100:]
    result = {
        "checkpoint": "model.safetensors",
        "steps": state.step,
        "loss": sum(tail) / len(tail),
        "heldout_loss": state.validation[-1][1] if state.validation else None,
        "data": {"name": data.name, "sha256": data.fingerprint, "n": len(data)},
        **more,
    }
    folder.finish(["model.safetensors", "history.json", *files], result)
    here.meet()
