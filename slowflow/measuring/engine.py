"""measure: from a model and data to a finished Measurement folder.

Work is cut into shards of sample ids. A shard is written when it is done and never again; a run that was stopped
anywhere goes on with the first missing shard and ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowflow.data.bank import LARGEST, Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.families.open import direction_test
from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import SAMPLERS
from slowflow.io import atomic, checkpoint
from slowflow.io.run import RunFolder
from slowflow.measuring import search
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.references import REFERENCES, Trajectories
from slowflow.measuring.trajectories import Source, nfe
from slowflow.records import Probe

Progress = Callable[[int, int, str], None]
KEPT = 8
"""Samples whose whole trajectories are kept for pictures."""
CHECKED = 2
"""Samples a shard on which one search engine is checked against the other."""


def shard_name(kind: str, steps: int, first: int) -> str:
    """File of the shard that starts at sample id `first`."""
    return f"shards/{kind}-{steps:05d}-{first:08d}.safetensors"


def measure(
    model: FlowModel,
    data: ImageSet,
    probe: Probe,
    out: str | Path,
    *,
    heldout: float = 0.2,
    model_id: dict[str, Any] | None = None,
    nulls_from: Path | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure how slow the model's states run, with nulls; resumes an unfinished folder.

    Args:
        model: the checkpoint in canonical time.
        data: real data; a share is held out for the nulls, the rest is the bank.
        probe: what is measured.
        out: run folder.
        heldout: share of each class that is held out.
        model_id: what identifies the checkpoint; goes into the configuration.
        nulls_from: a measurement of another model on the same path, data and probe, whose nulls are copied: they know
            nothing of the model, so they would come out the same.
        progress: called with (samples done, samples in all, note).

    Raises:
        InputError: data of another shape, unknown reference or sampler, classes missing in the data.
        ConfigMismatchError: the folder holds another run.
    """
    bank_set, held = _split(model, data, heldout)
    SAMPLERS.get(probe.sampler)
    for name in probe.names:
        REFERENCES.get(name)
    guided(model, probe.guidance)
    if "level" in probe.names and np.prod(model.shape) > LARGEST:
        raise InputError(
            f"states of {np.prod(model.shape):,} dimensions are too large for the reference 'level' (at most {LARGEST:,}); "
            "name the others: --reference own --reference nearest"
        )
    engine = search.backend(probe.backend, model.interpolant)
    # counting is a dry run: a sampler that cannot walk this path is refused before there is a folder
    calls = {str(steps): nfe(model, probe, steps) for steps in probe.grids}
    config = {
        "model": model_id or {"name": model.name},
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "probe": probe,
    }
    folder = RunFolder(out, "measure", config)
    if folder.finished:
        return Measurement.load(folder.path)
    source, bank = Source(model, held, bank_set, probe), Bank.of(bank_set, conditional=model.classes > 0)
    model.net.eval()
    conventions = direction_test(model, held)
    names = []
    plan = list(_plan(source, probe))
    total, done = sum(len(ids) for _, _, ids in plan), 0
    for kind, steps, ids in plan:
        name = shard_name(kind, steps, int(ids[0]))
        if not (folder.path / name).exists() and nulls_from is not None and kind != "model":
            atomic.write_bytes(folder.path / name, (nulls_from / name).read_bytes())
        elif not (folder.path / name).exists():
            _write_shard(
                folder.path / name, source.make(kind, ids, steps), ids, probe, bank, engine, keep=kind == "model"
            )
        names.append(name)
        done += len(ids)
        if progress is not None:
            progress(done, total, f"{kind} states, {steps} steps")
    facts = {
        "nfe": calls,
        "backend": engine,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bank": {"name": bank.name, "n": len(bank), "sha256": bank.fingerprint},
        "heldout": {"name": held.name, "n": len(held), "sha256": held.fingerprint},
        "shape": list(model.shape),
        "interpolant": model.interpolant.name,
        "conventions": conventions.problem,
        "search": _search_facts([folder.path / name for name in names]),
    }
    folder.finish(
        names, {"facts": facts, "summary": Measurement(folder.path, config_of(folder), facts, names).result()}
    )
    return Measurement.load(folder.path)


def config_of(folder: RunFolder) -> dict[str, Any]:
    """The canonical configuration of a run folder."""
    return dict(folder.config["config"])


def _split(model: FlowModel, data: ImageSet, heldout: float) -> tuple[ImageSet, ImageSet]:
    data.must_have_shape(model.shape)
    if model.classes:
        missing = sorted(set(range(model.classes)) - set(data.labels.unique().tolist()))
        if missing:
            raise DataError(
                f"'{data.name}' has no image of {len(missing)} of the model's {model.classes} classes (first: {missing[0]})"
            )
    return data.split(heldout)


def _plan(source: Source, probe: Probe) -> Iterator[tuple[str, int, np.ndarray]]:
    """(kind, steps, sample ids) of every shard, in the order they are made."""
    for steps in probe.grids:
        for kind in ("model", *probe.nulls):
            ids = source.ids(kind)
            for i in range(0, len(ids), probe.shard):
                yield kind, steps, ids[i : i + probe.shard]


def _write_shard(
    path: Path, batch: Trajectories, ids: np.ndarray, probe: Probe, bank: Bank, engine: str, keep: bool
) -> None:
    tensors = {
        "ids": torch.from_numpy(ids.astype(np.int64)),
        "labels": torch.from_numpy(batch.labels.astype(np.int64)),
        "t": torch.from_numpy(batch.grid),
        "norm": torch.from_numpy(np.linalg.norm(batch.states, axis=2) / np.sqrt(batch.states.shape[2])),
    }
    facts: dict[str, Any] = {}
    for name in probe.names:
        reference = REFERENCES.get(name)
        found = reference.assign(batch, bank, engine)
        tensors[f"{name}/m"] = torch.from_numpy(found.m)
        tensors[f"{name}/residual"] = torch.from_numpy(found.residual)
        tensors[f"{name}/boundary"] = torch.from_numpy(found.boundary)
        tensors[f"{name}/index"] = torch.from_numpy(found.index.astype(np.int32))
        facts[name] = {"certified": found.certified, **_agreement(name, batch, bank, found.index, engine)}
    if keep:
        tensors["final"] = torch.from_numpy(batch.endpoint.astype(np.float32))
        kept = ids < KEPT
        tensors["kept"] = torch.from_numpy(batch.states[kept].astype(np.float32))
    checkpoint.save(path, tensors, {"search": facts})


def _agreement(name: str, batch: Trajectories, bank: Bank, index: np.ndarray, engine: str) -> dict[str, float]:
    """Share of a subsample on which the other search engine picks the same image, where there is another."""
    others = [other for other in search.backends() if other != engine]
    if name != "nearest" or not others or not batch.path.straight:
        return {}
    few = Trajectories(
        batch.states[:CHECKED],
        batch.noise[:CHECKED],
        batch.endpoint[:CHECKED],
        batch.labels[:CHECKED],
        batch.grid,
        batch.path,
    )
    again = REFERENCES.get(name).assign(few, bank, others[0]).index
    return {"agreement": float(np.mean(again == index[:CHECKED])), "checked": float(again.size)}


def _search_facts(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Mean agreement and certified share over all shards, per reference."""
    rows: dict[str, dict[str, list[float]]] = {}
    for path in paths:
        for name, facts in checkpoint.load(path).metadata["search"].items():
            for key, value in facts.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: float(np.sum(v) if key == "checked" else np.mean(v)) for key, v in facts.items()}
        for name, facts in rows.items()
    }
