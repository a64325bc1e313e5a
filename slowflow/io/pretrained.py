"""Folders in the layout of diffusers, opened strictly and offline.

    FOLDER/model_index.json    transformer/ | unet/    vae/    scheduler/    text_encoder*/    tokenizer*/
    each part: config.json (names its class) and diffusion_pytorch_model.safetensors, whole or in shards with an index

The class is looked up in diffusers, built from its config and filled by name and shape through `checkpoint`, so that a
missing key or shard is an error and never a random layer. Nothing is downloaded. diffusers is optional and imported
only here and in the code that uses its objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slowflow.errors import CheckpointError, InputError, MissingExtraError
from slowflow.io import checkpoint
from slowflow.io.run import read_json

WEIGHTS = "diffusion_pytorch_model"
EXTRA = "diffusers"


def require(package: str, needed_for: str) -> Any:
    """Import an optional package of the extra `diffusers`.

    Raises:
        MissingExtraError: it is not installed, or its own requirements are not.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, EXTRA, needed_for) from error


def find_part(folder: Path, names: Sequence[str]) -> Path:
    """The part of a pipeline's folder called one of `names`, or the folder itself when it is such a part.

    Raises:
        CheckpointError: no folder, or nothing in it that could be the part.
    """
    if not folder.exists():
        raise CheckpointError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file, expected a folder in the layout of diffusers")
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    if (folder / "config.json").is_file():
        return folder
    listed = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    raise CheckpointError(f"{folder} has no {' or '.join(f'{n}/' for n in names)} (it holds {listed})")


def read_config(folder: Path, file: str = "config.json") -> dict[str, Any]:
    """The config of a part; its key `_class_name` names a class of diffusers.

    Raises:
        CheckpointError: missing, not JSON, or without a class name.
    """
    path = folder / file
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {file}; is it a folder in the layout of diffusers?")
    try:
        config = read_json(path)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise CheckpointError(f"{path} does not say which class it configures ('_class_name' is missing)")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Files that together hold a part's weights.

    Raises:
        CheckpointError: none, several without an index, or an index that names a missing shard.
    """
    whole = [folder / f"{WEIGHTS}.safetensors", folder / "model.safetensors"]
    found = [p for p in whole if p.is_file()]
    # a plain index before those of variants such as fp16
    indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda p: (len(p.name), p.name))
    if indices and not found:
        return _shards(folder, indices[0])
    found = found or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not found:
        raise CheckpointError(f"{folder} holds no weights (expected {WEIGHTS}.safetensors)")
    if len(found) > 1 and found[0] not in whole:
        raise CheckpointError(f"{folder} holds {len(found)} weight files and no index that says which belong together")
    return found[:1]


def _shards(folder: Path, index: Path) -> list[Path]:
    """Files that an index names, all present."""
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index} is not an index of shards ('weight_map' is missing)")
    names = sorted(set(map(str, shards.values())))
    gone = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if gone:
        raise CheckpointError(
            f"{folder} lacks {len(gone)} of the {len(names)} shards that {index.name} names (first: {gone[0]}); "
            "the download is incomplete"
        )
    return [folder / name for name in names]


def build(config: dict[str, Any], needed_for: str, where: Path | str = "the config") -> Any:
    """The object of diffusers that a config describes, freshly initialised.

    Raises:
        CheckpointError: no such class in the installed diffusers, or a config it does not take.
    """
    diffusers = require("diffusers", needed_for)
    name = str(config.get("_class_name"))[:80]
    kind = getattr(diffusers, name, None)
    if not inspect.isclass(kind) or not hasattr(kind, "from_config"):
        raise CheckpointError(
            f"{where} asks for the class '{name}', which diffusers {diffusers.__version__} does not have"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation notes of diffusers to its own callers
            return kind.from_config({key: value for key, value in config.items() if key != "_name_or_path"})
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{where} does not describe a '{name}': {str(error).splitlines()[0]}") from error


def load_module(folder: Path, needed_for: str, parent: str = "ModelMixin") -> tuple[Any, dict[str, Any]]:
    """(network in float32 and eval mode, its config) of a part's folder, filled strictly.

    Args:
        folder: the part.
        needed_for: what is being opened, for the message when diffusers is missing.
        parent: class of diffusers that the part must derive from.

    Raises:
        CheckpointError: damaged, incomplete, or of another kind.
        MissingExtraError: diffusers is not installed.
    """
    config = read_config(folder)
    diffusers = require("diffusers", needed_for)
    files = weight_files(folder)
    with without_weights():
        net = build(config, needed_for, folder / "config.json")
    if not isinstance(net, nn.Module) or not isinstance(net, getattr(diffusers, parent)):
        raise CheckpointError(f"{folder} holds a '{config['_class_name']}', expected a network ({parent})")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= checkpoint.load(file).tensors
    fill(net, _in_todays_names(net, tensors), folder)
    return net.eval(), config


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Networks made inside hold no memory for their weights and draw no random ones; `fill` gives them both.

    Buffers are real, because a class computes some of them and no file holds those.
    """
    with require("accelerate", "building a network of diffusers").init_empty_weights(include_buffers=False):
        yield


def fill(net: nn.Module, tensors: dict[str, Tensor], where: Path | str) -> None:
    """Give a network made `without_weights` its tensors, strictly, in float32.

    Raises:
        CheckpointError: counts and the first five of what is missing, unexpected or of another shape.
    """
    wide = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    checkpoint.load_strictly(net, wide, where, assign=True)


OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names that attention layers of autoencoders had before diffusers 0.15; sd-vae files still carry them."""


def _in_todays_names(net: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename old attention layers, and leave out what the class itself says it ignores."""
    own, renamed = net.state_dict(), {}
    for name, value in tensors.items():
        if name not in own:
            for old, new in OLD_ATTENTION.items():
                name = name.replace(old, new) if name.replace(old, new) in own else name
        renamed[name] = value
    ignored = getattr(net, "_keys_to_ignore_on_load_unexpected", None) or []
    return {k: v for k, v in renamed.items() if k in own or not any(re.search(pattern, k) for pattern in ignored)}


def load_scheduler(folder: Path, needed_for: str) -> tuple[Any, dict[str, Any]]:
    """(scheduler, its config) of a pipeline's folder.

    Raises:
        CheckpointError: there is none, or diffusers does not know it.
    """
    part = folder / "scheduler"
    if not part.is_dir():
        raise CheckpointError(f"{folder} has no scheduler/, which says the noise levels and the times of sampling")
    config = read_config(part, "scheduler_config.json")
    return build(config, needed_for, part / "scheduler_config.json"), config


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weight files of a part, in order."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
