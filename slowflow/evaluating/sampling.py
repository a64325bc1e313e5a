"""sample: images to a file, in shards, resumable; the file is what the usual evaluators read (`arr_0`, uint8 NHWC)."""

from __future__ import annotations

import io
import math
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowflow.codecs.decoding import Decoder
from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.flow.count import network_calls
from slowflow.flow.generate import final_states, labels_of, quantise
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint, space
from slowflow.io.run import RunFolder, read_json

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Every member of the file carries this date, so that equal samples make equal bytes."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How samples are made: number, intervals, sampler, guidance, seed, warp of the grid, samples a shard."""

    n: int
    steps: int = 50
    sampler: str = "euler"
    guidance: float = 1.0
    seed: int = 0
    shift: float = 1.0
    shard: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 10_000_000:
            raise InputError(f"n is {self.n}, expected between 1 and 10,000,000")
        if not 1 <= self.steps <= 100_000:
            raise InputError(f"steps is {self.steps}, expected intervals between 1 and 100,000")
        if self.shard < 1:
            raise InputError(f"the batch size is {self.shard}, expected at least 1")


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """An uncompressed .npz whose bytes depend on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), member.getvalue())
    return buffer.getvalue()


def sample(
    model: FlowModel,
    config: SampleConfig,
    file: str | Path,
    *,
    pixels: bool = True,
    decoder: Decoder | None = None,
    model_id: dict[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Make samples and write them to `file`; a folder `FILE.parts` holds them until all are there.

    Args:
        model: in canonical time.
        config: how.
        file: ends in .npz; refused when it exists and was made by another command.
        pixels: states are images: written as uint8 `arr_0`; otherwise as float32 `data`.
        decoder: turns states into the images that are written, whatever `pixels` says.
        model_id: what identifies the checkpoint.
        progress: called with (samples done, samples in all, note).

    Returns:
        file, nfe and protocol.
    """
    file = Path(file)
    if file.suffix != ".npz":
        raise InputError(f"samples are written as .npz, got '{file.name}'")
    protocol = {
        **asdict(config),
        "nfe": network_calls(model, config.sampler, config.steps, guidance=config.guidance, shift=config.shift),
        "model": model_id or {"name": model.name},
        "quantiser": decoder.facts if decoder else "uint8, round half up" if pixels else "none",
        "labels": "balanced: sample i has class i mod classes",
    }
    stamp = file.with_name(file.name + ".json")
    if file.exists():
        if not stamp.exists() or read_json(stamp) != canonical(protocol):
            raise InputError(f"{file} exists and was made by another command; choose another name")
        if (left := file.with_name(file.name + ".parts") / "config.json").is_file():
            shutil.rmtree(left.parent)  # killed between the last write and tidying up
        return {"file": str(file), "nfe": protocol["nfe"], "protocol": protocol}
    run = RunFolder(file.with_name(file.name + ".parts"), "sample", protocol)
    progress = run.watched(progress)
    written = math.prod(model.shape) * (
        1 if pixels else 4
    )  # a decoder makes larger ones, which nobody knows beforehand
    space.require(run.path, config.n * (4 * math.prod(model.shape) + written), f"{config.n} samples")
    parts = []
    for first in range(0, config.n, config.shard):
        ids = np.arange(first, min(first + config.shard, config.n))
        path = run.path / f"{first:08d}.safetensors"
        if not path.exists():
            states = final_states(
                model,
                ids,
                steps=config.steps,
                method=config.sampler,
                guidance=config.guidance,
                seed=config.seed,
                shift=config.shift,
                batch_size=config.shard,
            )
            made = {"states": states} if decoder is None else {"images": torch.from_numpy(decoder(states))}
            checkpoint.save(path, made, {})
        parts.append(next(iter(checkpoint.load(path).tensors.values())))
        if progress is not None:
            progress(int(ids[-1]) + 1, config.n, f"sampling, {config.steps} steps")
    whole = torch.cat(parts)
    if decoder is None:
        whole = torch.from_numpy(quantise(whole)) if pixels else whole
    values = {"arr_0" if whole.dtype == torch.uint8 else "data": whole.numpy()}
    labels = {"labels": labels_of(np.arange(config.n), model.classes)} if model.classes else {}
    atomic.write_json(stamp, protocol)
    atomic.write_bytes(file, npz_bytes({**values, **labels}))
    shutil.rmtree(run.path)
    return {"file": str(file), "nfe": protocol["nfe"], "protocol": protocol}
