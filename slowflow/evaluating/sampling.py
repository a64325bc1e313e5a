"""sample: images to a file, in shards, resumable; the file is what the usual evaluators read (`arr_0`, uint8 NHWC).

    FILE.npz.parts/00000256.safetensors    a shard, named by its first sample id; gone when the file is there
    FILE.npz.json                          how the samples were made
    FILE.npz                               written last, streamed from the shards

A sample is a function of (seed, id) alone, and there are exactly n ids: nothing depends on batch size, shards, restarts
or how many processes share the work, and no sample is drawn twice to fill a batch. Of several processes that share one file
(`slowflow.io.ranks`) each makes its part of the shards; whoever leads then writes the file.
"""

from __future__ import annotations

import glob
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow import rng
from slowflow.codecs.decoding import Decoder
from slowflow.config import canonical
from slowflow.errors import CheckpointError, EnvironmentProblem, InputError
from slowflow.evaluating import archive
from slowflow.flow import compiling
from slowflow.flow.count import network_calls
from slowflow.flow.course import Correction, recorded_remedy
from slowflow.flow.generate import final_states, labels_of, quantise, state_dtype
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint, ranks, space
from slowflow.io.run import RunFolder, environment, read_json

EXECUTION = ("shard", "batch_size")
"""Settings that change no sample and are no part of a protocol."""
AVERAGES = {"ema": "EMA", "model": "raw weights"}
"""What a checkpoint's part says of averaging; any other part does not say."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How samples are made.

    Args:
        n: how many.
        steps: intervals.
        sampler, guidance, seed, shift: as in a Probe.
        labels: balanced (sample i has class i mod classes), random (uniform, by sample id), or the number of one class.
        shard: samples a saved shard.
        batch_size: samples a network call.
    """

    n: int
    steps: int = 50
    sampler: str = "euler"
    guidance: float = 1.0
    seed: int = 0
    shift: float = 1.0
    labels: str = "balanced"
    shard: int = 256
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 10_000_000:
            raise InputError(f"n is {self.n}, expected between 1 and 10,000,000")
        if not 1 <= self.steps <= 100_000:
            raise InputError(f"steps is {self.steps}, expected intervals between 1 and 100,000")
        for what, value in (("shard", self.shard), ("batch size", self.batch_size)):
            if value < 1:
                raise InputError(f"the {what} is {value}, expected at least 1")
        if self.labels not in ("balanced", "random") and not self.labels.isdigit():
            raise InputError(f"labels is '{self.labels}', expected balanced, random or the number of a class")


def labels_by(law: str, ids: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Class of each sample id under a law of labels; a class belongs to its id, whatever else is drawn.

    Raises:
        InputError: no such class, or a law for a model without classes.
    """
    if law == "balanced":
        return labels_of(ids, classes)
    if not classes:
        raise InputError(f"labels is '{law}', but the model has no classes")
    if law == "random":
        return np.array([rng.generator(seed, "label", int(i)).integers(classes) for i in ids], dtype=np.int64)
    if int(law) >= classes:
        raise InputError(f"labels is {law}, but the model has {classes} classes (0 to {classes - 1})")
    return np.full(len(ids), int(law), dtype=np.int64)


def label_law(law: str, classes: int) -> str:
    """The law in words, for records."""
    if not classes:
        return "none"
    said = {"balanced": "balanced: sample i has class i mod classes", "random": "random: uniform over classes"}
    return said.get(law, f"class {law} alone")


def averaging(part: str | None) -> str:
    """Whether weights are averaged, as far as the file says."""
    return AVERAGES.get(part or "", "as stored")


def precision(model: FlowModel) -> str:
    """Dtypes of the network and of the states, and whether the network is compiled, for records."""
    network, states = (str(d).removeprefix("torch.") for d in (model.dtype, state_dtype(model.device)))
    return f"{network} network{compiling.said(model.net)}, {states} states"


@dataclass(frozen=True)
class _Shards:
    """The shards of one file."""

    model: FlowModel
    config: SampleConfig
    decoder: Decoder | None
    remedy: Correction | None
    folder: Path

    @property
    def firsts(self) -> list[int]:
        """First id of every shard."""
        return list(range(0, self.config.n, self.config.shard))

    def ids(self, first: int) -> np.ndarray:
        """Ids of a shard."""
        return np.arange(first, min(first + self.config.shard, self.config.n))

    def path(self, first: int) -> Path:
        """Its file."""
        return self.folder / f"{first:08d}.safetensors"

    def make(self, first: int) -> None:
        """Sample it, decode it and save it."""
        config, ids = self.config, self.ids(first)
        states = final_states(
            self.model,
            ids,
            steps=config.steps,
            method=config.sampler,
            guidance=config.guidance,
            seed=config.seed,
            shift=config.shift,
            remedy=self.remedy,
            batch_size=config.batch_size,
            labels=labels_by(config.labels, ids, self.model.classes, config.seed),
        )
        made = {"states": states} if self.decoder is None else {"images": torch.from_numpy(self.decoder(states))}
        checkpoint.save(self.path(first), made, {})

    def read(self, first: int) -> Tensor:
        """What was saved; a damaged shard is made again."""
        for attempt in (0, 1):
            try:
                found = next(iter(checkpoint.load(self.path(first)).tensors.values()))
                if len(found) == len(self.ids(first)):
                    return found
            except CheckpointError:
                if attempt:
                    raise
            self.make(first)
        raise CheckpointError(f"{self.path(first)} holds another number of samples than it should")


def sample(
    model: FlowModel,
    config: SampleConfig,
    file: str | Path,
    *,
    pixels: bool = True,
    decoder: Decoder | None = None,
    model_id: dict[str, Any] | None = None,
    part: str | None = None,
    remedy: Correction | None = None,
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
        part: of the checkpoint that was opened (ema, model, ...).
        remedy: what corrects sampling.
        progress: called with (samples done, samples in all, note).

    Returns:
        file, nfe and protocol.
    """
    file = Path(file)
    if file.suffix != ".npz":
        raise InputError(f"samples are written as .npz, got '{file.name}'")
    labels_by(config.labels, np.arange(1), model.classes, config.seed)
    protocol = {
        **{key: value for key, value in asdict(config).items() if key not in EXECUTION},
        "nfe": network_calls(
            model, config.sampler, config.steps, guidance=config.guidance, shift=config.shift, remedy=remedy
        ),
        "model": model_id or {"name": model.name},
        "ema": averaging(part),
        "dtype": precision(model),
        "quantiser": decoder.facts if decoder else "uint8, round half up" if pixels else "none",
        "labels": label_law(config.labels, model.classes),
        **recorded_remedy(remedy),
    }
    answer = {"file": str(file), "nfe": protocol["nfe"], "protocol": protocol}
    stamp, parts = file.with_name(file.name + ".json"), file.with_name(file.name + ".parts")
    if file.exists():
        _must_be_ours(file, stamp, protocol)
        if ranks.current().leads and (parts / "config.json").is_file():
            shutil.rmtree(parts, ignore_errors=True)  # killed between the last write and tidying up
        return answer
    run = RunFolder(parts, "sample", {**protocol, "shard": config.shard})
    progress, here = run.watched(progress), ranks.current()
    shards = _Shards(model, config, decoder, remedy, run.path)
    if here.leads:
        # a decoder makes larger ones, which nobody knows beforehand
        each = math.prod(model.shape) * (5 if pixels else 8)
        space.require(parts, config.n * each, f"{config.n} samples")
    names = [shards.path(first).name for first in shards.firsts]
    share, done = here.share(parts, names), 0
    for first, name in zip(shards.firsts, names, strict=True):
        if name in share:
            here.check()
            shards.make(first)
        done += len(shards.ids(first))
        progress(done, config.n, f"sampling, {config.steps} steps")
    here.gathered(parts, names)
    if here.leads:
        for leftover in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
            leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote the file
        atomic.write_json(stamp, {**protocol, "environment": environment()})
        _write(file, shards, pixels)
        shutil.rmtree(parts)
    here.meet()
    return answer


def _must_be_ours(file: Path, stamp: Path, protocol: dict[str, Any]) -> None:
    told = read_json(stamp) if stamp.exists() else None
    if not isinstance(told, dict) or {k: v for k, v in told.items() if k != "environment"} != canonical(protocol):
        raise InputError(f"{file} exists and was made by another command; choose another name")


def _write(file: Path, shards: _Shards, pixels: bool) -> None:
    """The file, streamed from its shards."""
    config, model = shards.config, shards.model
    first = _written(shards.read(0), pixels)
    members = [
        archive.Member(
            "arr_0" if first.dtype == np.uint8 else "data",
            first.dtype,
            (config.n, *first.shape[1:]),
            _all(shards, pixels),
        )
    ]
    free = space.free(file.parent)
    if free < members[0].size:
        raise EnvironmentProblem(
            f"{file} needs {members[0].size:,} bytes and {free:,} are free; the samples are safe in {shards.folder}, "
            "the same command goes on when there is room"
        )
    if model.classes:
        labels = labels_by(config.labels, np.arange(config.n), model.classes, config.seed)
        members.append(archive.whole("labels", labels.astype(np.int64)))
    archive.write(file, members)


def _all(shards: _Shards, pixels: bool) -> Iterator[np.ndarray]:
    for first in shards.firsts:
        yield _written(shards.read(first), pixels)


def _written(part: Tensor, pixels: bool) -> np.ndarray:
    """A shard as it stands in the file."""
    return quantise(part) if pixels and part.dtype != torch.uint8 else part.numpy()
