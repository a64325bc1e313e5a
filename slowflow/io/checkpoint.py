"""Checkpoint files, opened safely.

The only place that calls `torch.load`, always with weights_only; nothing here runs code from a file. Weights are
written as safetensors with one JSON string as metadata (one key, because the order of several is not stable); in it is a
hash of everything the file holds, because neither format notices a flipped bit by itself.

A PyTorch file is a zip archive with a pickle inside. Before the pickle is read, the archive must be what torch.save
writes: nothing compressed, nothing outside, no code; and what comes out may not be larger than the file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from slowflow.errors import CheckpointError
from slowflow.io import atomic

PREFIXES = ("module.", "_orig_mod.")
CONTAINERS = ("ema", "model", "state_dict")
METADATA_KEY = "slowflow"
SEAL = "content_sha256"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file, which part of it they are, and what the file says about itself.

    Args:
        tensors: parameter name -> tensor, on the CPU.
        part: `ema`, `model`, `state_dict` or `flat`.
        metadata: SlowFlow's own metadata; empty for foreign files.
    """

    tensors: dict[str, Tensor]
    part: str
    metadata: dict[str, Any]


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata as one safetensors file, atomically."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        held = tensor.detach().cpu().contiguous()
        # tied weights share memory, which the format refuses; each name gets its own copy
        plain[name] = held.clone() if held.untyped_storage().data_ptr() in seen else held
        seen.add(held.untyped_storage().data_ptr())
    text = json.dumps({**metadata, SEAL: _seal(plain, metadata)}, sort_keys=True, allow_nan=False)
    atomic.write_bytes(path, safetensors.torch.save(plain, {METADATA_KEY: text}))


def load(path: str | Path) -> Checkpoint:
    """Open a safetensors or PyTorch file.

    Args:
        path: the file; its content decides the format, not its name.

    Returns:
        The weights: ema before model before the flat file, prefixes of wrappers stripped.

    Raises:
        CheckpointError: missing, empty, truncated, unsafe or not a checkpoint; NaN or infinity in a tensor.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file")
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes), expected a checkpoint")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # a safetensors file begins with the length of its JSON header, whose bytes may look like any other format's
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") + 8 <= path.stat().st_size
    is_torch = not is_safetensors and (zipfile.is_zipfile(path) or start[:2] in (b"\x80\x02", b"PK"))
    content, metadata = (_load_torch(path), {}) if is_torch else _load_safetensors(path)
    part, tensors = _select(content, path)
    _refuse_inflated(tensors, path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(f"{path}: '{name}' holds {bad} NaN or infinite values")
    return Checkpoint(tensors, part, metadata)


def metadata(path: str | Path) -> dict[str, Any]:
    """What a safetensors file of SlowFlow's own says about itself, without its tensors; empty for every other file."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            found = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if key != SEAL} if isinstance(found, dict) else {}


def intact(path: str | Path) -> bool:
    """True when the file opens and is what was written, as far as it carries its hash."""
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes, values and metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():  # an empty one from NumPy has strides that cannot be viewed as bytes
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _refuse_inflated(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tensor may repeat its memory without end (stride 0); every number in a checkpoint stands in the file."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: '{name}' is not a plain tensor ({tensor.layout}, {tensor.device.type})")
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{path}: '{name}' is a {type(tensor).__name__}, expected a plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: '{name}' claims {tensor.numel():,} numbers, but the file holds "
                f"{tensor.untyped_storage().nbytes():,} bytes of it"
            )


def _check_archive(path: Path) -> None:
    """Refuse an archive that torch.save does not write.

    Raises:
        CheckpointError: compressed, overlapping or outside entries, a TorchScript program, or not an archive at all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} ({path.stat().st_size:,} bytes) is a damaged archive: {error}") from error
    reason = ""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        reason = "it is compressed, as torch.save never does"
    elif sum(entry.file_size for entry in entries) > path.stat().st_size:
        reason = "its entries claim more bytes than the file has"
    elif any(entry.filename.startswith("/") or ".." in Path(entry.filename).parts for entry in entries):
        reason = "an entry points outside of it"
    elif any("/code/" in f"/{entry.filename}" or entry.filename.endswith("constants.pkl") for entry in entries):
        reason = "it is a TorchScript program, which is code"
    if reason:
        raise CheckpointError(f"{path} cannot be opened safely: {reason}; export its weights as safetensors")


def save_torch(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a file of PyTorch's own format, for other people's loaders; atomically."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    atomic.write_bytes(path, buffer.getvalue())


def _load_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if not isinstance(metadata, dict):
                raise ValueError(f"its metadata is a {type(metadata).__name__}, not a mapping")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is not a checkpoint, or is damaged: {error}"
        ) from error
    recorded = metadata.pop(SEAL, None)
    if recorded is not None and recorded != _seal(tensors, metadata):
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged: its content differs from the hash it was written with"
        )
    return tensors, metadata


def _load_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        # argparse.Namespace is what SiT, DiT and REPA trainers store beside the weights; it holds plain values
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on kinds of tensors that are refused afterwards
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged container fails in a dozen ways; none of them may look like a bug of ours
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:  # PyTorch's own message goes on to say how to run it
            raise CheckpointError(
                f"{path} cannot be opened safely: it holds '{code[1]}', which is code and no tensor; save its state dict alone"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be opened safely: {reason}; it is truncated or not a checkpoint"
        ) from error


def _select(content: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    part = "flat"
    if isinstance(content, Mapping):
        for key in CONTAINERS:
            if isinstance(content.get(key), Mapping):
                part, content = key, content[key]
                break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a mapping of names to tensors")
    tensors = {_strip(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return part, tensors


def _strip(name: str) -> str:
    for prefix in PREFIXES:
        while name.startswith(prefix):
            name = name[len(prefix) :]
    return name


def load_script(path: str | Path) -> torch.jit.ScriptModule:
    """Open a TorchScript file. It is a program, and opening it runs it: only for files the user vouches for by hash.

    Raises:
        CheckpointError: not a TorchScript file, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of TorchScript as a whole; other people's files remain
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a TorchScript file, or is damaged: {reason}") from error


def script_arguments(net: torch.jit.ScriptModule) -> list[str]:
    """Names of what the program takes."""
    forward: Any = net.forward
    return [argument.name for argument in forward.schema.arguments]


def load_strictly(net: torch.nn.Module, tensors: dict[str, Tensor], path: Path | str, *, assign: bool = False) -> None:
    """Copy tensors into the network; every name and shape must match.

    Args:
        net: the network.
        tensors: by name.
        path: for messages.
        assign: the tensors become the network's own, for one that was built without memory for its weights.

    Raises:
        CheckpointError: counts and the first five of what is missing, unexpected or of another shape.
    """
    own = net.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:5])})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if parts:
        raise CheckpointError(f"{path} does not fit a {type(net).__name__}: " + "; ".join(parts))
    net.load_state_dict(tensors, assign=assign)
