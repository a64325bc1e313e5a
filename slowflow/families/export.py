"""export: back to the layout of a family's authors, so that their own scripts can sample what was trained here.

The file holds the tensors as they are under the names they came with. It is opened again before it is called done.
Networks of diffusers are written as a folder, which its pipelines take in place of their own transformer/ or unet/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES
from slowflow.families.peer import PeerNet, official
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint, pretrained
from slowflow.io.run import file_sha256

HEAD = ("final_layer.linear.weight", "final_layer.linear.bias")


def export(model: FlowModel, layout: str, out: str | Path, *, drop_sigma: bool = False) -> dict[str, Any]:
    """Write the model in its authors' layout.

    Args:
        model: opened or post-trained.
        layout: the family's name, or diffusers; a model of one family is not a file of another.
        out: a file (a folder for diffusers) that does not exist.
        drop_sigma: leave the unused half of the output channels out. SiT's sampling script builds a network without
            it whenever a checkpoint is given, and refuses the larger head that its own trainer writes.

    Returns:
        file, sha256, layout, tensors.

    Raises:
        InputError: another family's layout, no layout at all, or the file exists.
        CheckpointError: what was written is not what was meant (a failing disk).
    """
    out = Path(out)
    if layout == "diffusers":
        return export_folder(model, out)
    if layout != model.family:
        FAMILIES.get(layout)  # a mistyped name is told first
        raise InputError(
            f"'{model.name}' is a model of the family '{model.family}' and cannot be written as '{layout}'; "
            f"ask for --layout {model.family}"
        )
    if isinstance(model.net, PeerNet):
        raise InputError(f"'{model.name}' is a network of diffusers, whose layout is a folder: --layout diffusers")
    content = FAMILIES.get(layout).official(model)
    if drop_sigma:
        content = without_sigma(content, model.shape[0])
    if out.exists():
        raise InputError(f"{out} exists; choose another name")
    checkpoint.save_torch(out, content)
    expected, found = _tensors(content), checkpoint.load(out).tensors
    if expected.keys() != found.keys() or not all(torch.equal(expected[k].cpu(), found[k]) for k in expected):
        raise CheckpointError(f"{out} does not hold what was written to it")
    return {"file": str(out), "sha256": file_sha256(out), "layout": layout, "tensors": len(found)}


def export_folder(model: FlowModel, out: Path) -> dict[str, Any]:
    """A folder of diffusers with the network, LoRA merged, and its scheduler.

    Raises:
        InputError: not a network of diffusers, or the folder exists.
    """
    if not isinstance(model.net, PeerNet) or not model.net.memory:
        raise InputError(
            f"'{model.name}' is no network of diffusers; --layout takes the name of its family, '{model.family}'"
        )
    if out.exists():
        raise InputError(f"{out} exists; choose another name")
    memory, content = model.net.memory, official(model.net)
    part = out / ("unet" if str(memory["network"]["_class_name"]).startswith("UNet") else "transformer")
    checkpoint.save(part / f"{pretrained.WEIGHTS}.safetensors", content, {})
    atomic.write_json(out / "scheduler" / "scheduler_config.json", memory["scheduler"])
    atomic.write_json(part / "config.json", memory["network"])
    found = pretrained.load_module(part, "export")[0].state_dict()
    if not all(torch.equal(content[k].cpu(), found[k].to(content[k].dtype)) for k in content):
        raise CheckpointError(f"{out} does not hold what was written to it")
    return {"file": str(out), "sha256": pretrained.fingerprint(part), "layout": "diffusers", "tensors": len(found)}


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = content["ema"] if isinstance(content.get("ema"), Mapping) else content
    return dict(inner)


def without_sigma(content: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """A state dict whose head returns `channels` channels and not 2 x channels.

    Raises:
        InputError: there is no second half.
    """
    weight = content.get(HEAD[0])
    patch = content.get("x_embedder.proj.weight")
    if weight is None or patch is None or weight.shape[0] != 2 * channels * patch.shape[-1] ** 2:
        raise InputError("--drop-sigma: the head has no second half to be left out")
    # rows of the head are (row, column, channel) of a patch, channels fastest
    small = {name: content[name].unflatten(0, (-1, 2 * channels))[:, :channels].flatten(0, 1) for name in HEAD}
    return {**content, **{name: tensor.contiguous() for name, tensor in small.items()}}
