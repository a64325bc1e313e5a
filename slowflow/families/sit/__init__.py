"""SiT (arXiv 2401.08740): official files, trainer files and the bundled models.

Time runs from noise (0) to data (1) and the network is told t itself, so nothing is converted. The interpolant and
the prediction are not in the file: SlowFlow's own files record them, official ones are linear velocity unless the
user says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.sit.backbone import SiT, SiTConfig
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly
from slowflow.io.run import file_sha256

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads of the published widths (S, B, L, XL)."""

AXES = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 3,
    "y_embedder.embedding_table.weight": 2,
    "final_layer.linear.weight": 2,
}
"""Tensors that every SiT has, and their numbers of axes."""
REQUIRED = tuple(AXES)


def config_from_shapes(tensors: dict[str, Tensor], heads: int | None, path: Path | str) -> SiTConfig:
    """Read width, depth, patch, classes and channels off a state dict.

    Raises:
        CheckpointError: a tensor that every SiT has is missing, or the number of heads cannot be known.
    """
    missing = [name for name in REQUIRED if name not in tensors]
    if missing:
        shown = ", ".join(sorted(tensors)[:3])
        raise CheckpointError(f"{path} is not a SiT checkpoint: '{missing[0]}' is missing (it holds {shown}, ...)")
    for name, axes in AXES.items():
        if tensors[name].ndim != axes:
            raise CheckpointError(f"{path}: '{name}' has {tensors[name].ndim} axes, a SiT has {axes} there")
    hidden, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    blocks = [int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")]
    out_channels = tensors["final_layer.linear.weight"].shape[0] // patch**2
    heads = heads or HEADS.get(hidden)
    if heads is None:
        raise CheckpointError(
            f"{path} is {hidden} wide; the number of attention heads is not in the file, give --heads"
        )
    shape: dict[str, Any] = dict(
        input_size=math.isqrt(tensors["pos_embed"].shape[1]) * patch,
        patch=patch,
        channels=channels,
        hidden=hidden,
        depth=1 + max(blocks, default=-1),
        heads=heads,
        classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
        learn_sigma=out_channels == 2 * channels,
    )
    try:
        return SiTConfig(**shape)
    except InputError as error:
        raise CheckpointError(f"{path} is not a SiT checkpoint: {error}") from error


def flow_model(net: SiT, *, path: str, prediction: str, name: str) -> FlowModel:
    """A SiT network in canonical time."""
    config = net.config
    return FlowModel(
        net=net.eval(),
        interpolant=interpolant(path),
        prediction=prediction,  # type: ignore[arg-type]
        shape=(config.channels, config.input_size, config.input_size),
        classes=config.classes,
        null=config.classes,
        name=name,
    )


class SiTFamily:
    """Opens SiT-S/B/L/XL files, trainer files with ema/model/args, and SlowFlow's own safetensors."""

    def fits(self, names: set[str]) -> bool:
        """A SiT has all required tensors and no projector (that would be REPA)."""
        return set(REQUIRED) <= names and not any(name.startswith("projectors.") for name in names)

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; conventions come from the user, else the file's metadata, else linear velocity."""
        if path is None:
            raise CheckpointError("the family 'sit' opens a file; give its path")
        stored = checkpoint.load(path)
        told = _told(stored.metadata, path)
        config = config_from_shapes(stored.tensors, options.heads or told.get("heads"), path)
        conventions = {
            "interpolant": options.interpolant or told.get("interpolant") or "linear",
            "prediction": options.prediction or told.get("prediction") or "velocity",
        }
        net = SiT(config)
        load_strictly(net, stored.tensors, path)
        notes = [f"weights taken from '{stored.part}'"]
        if not told and options.interpolant is None:
            notes.append(
                "the file does not say its interpolant and prediction; SiT's default, linear velocity, is used"
            )
        model = flow_model(
            net,
            path=conventions["interpolant"],
            prediction=conventions["prediction"],
            name=str(told.get("name", path.stem)),
        )
        return Opened(model, str(path), file_sha256(path), stored.part, {**asdict(config), **conventions}, notes)


def _told(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """What SlowFlow's own files say about the model; refused when it is not of the kind SlowFlow writes."""
    told = metadata.get("model", {})
    kinds = {"heads": int, "interpolant": str, "prediction": str, "name": str}
    if not isinstance(told, dict) or any(key in told and type(told[key]) is not kind for key, kind in kinds.items()):
        raise CheckpointError(f"{path}: its metadata are not those of a SlowFlow model: {str(told)[:80]}")
    return told


def describe(model: FlowModel) -> dict[str, Any]:
    """What SlowFlow's own files record about a SiT, so that nothing has to be guessed when it is opened again."""
    assert isinstance(model.net, SiT)
    return {
        "family": "sit",
        "name": model.name,
        "heads": model.net.config.heads,
        "interpolant": model.interpolant.name,
        "prediction": model.prediction,
    }


FAMILIES.register(
    "sit",
    summary="SiT transformers: official files, trainer files, bundled models",
    source="Ma et al. 2024, SiT (arXiv 2401.08740)",
)(SiTFamily())
