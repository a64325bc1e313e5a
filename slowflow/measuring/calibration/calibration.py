"""calibrate: are the measures usable at this dimension, scale and n? A run folder of its own, resumable.

Every measure is tried on states whose truth is known, at the user's d, spectrum, classes, path and n (`worlds`): on
nothing at all, on lags of known size, on faults, and on pairings that are wrong though the states are right (`controls`,
`truth`). What comes out (`rows`) is judged by one rule (`judging`). The network under test is never called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from slowflow.config import canonical
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.run import RunFolder, whole_manifest
from slowflow.measuring import search
from slowflow.measuring.bootstrap import RESAMPLES
from slowflow.measuring.calibration.controls import made
from slowflow.measuring.calibration.judging import by_reading, judged
from slowflow.measuring.calibration.rows import readings_of, rows_of
from slowflow.measuring.calibration.truth import truths
from slowflow.measuring.calibration.worlds import WORLDS, World, worlds
from slowflow.measuring.references import REFERENCES, Reference, Trajectories
from slowflow.records import DEFAULT_REFERENCES, Probe

Progress = Callable[[int, int, str], None]
Arrays = dict[str, np.ndarray]
COLUMNS = ["reference", "reading", "field", "control", "truth", "found", "low", "high", "error", "n", "asked", "ok"]
TIMES = (4, 100)
"""Fewest and most times that are measured."""
AT_ONCE = 2**15
"""Values in the states of one time that are held at once; small states cost more in calls than in arithmetic."""


@dataclass(frozen=True)
class Calibration:
    """A finished calibration.

    Args:
        rows: one row a reading, world and control: reference, reading, field, control, truth, found, low, high, error
            (standard), n, asked, ok. In units of gamma; `truth` is NaN where there is no closed form.
        facts: samples, times, data, dimension and what else the numbers depend on.
        path: the run folder, None when nothing was written.
    """

    rows: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Open a finished calibration.

        Raises:
            InputError: not a calibration, unfinished, or damaged.
        """
        path = Path(path)
        manifest = whole_manifest(path, "calibrate")
        return cls(_table(manifest["result"]["rows"]), manifest["result"]["facts"], path)

    @cached_property
    def references(self) -> dict[str, dict[str, Any]]:
        """reading -> usable, null_bias, recovered, detectable, swap, planted, reason; `clocks` has two readings."""
        return by_reading(self.rows)

    @property
    def usable(self) -> list[str]:
        """Readings that may be used here."""
        return [name for name, found in self.references.items() if found["usable"]]

    def result(self) -> dict[str, Any]:
        """The machine-readable answer of `slowflow calibrate --json`."""
        return {"references": self.references, "rows": _records(self.rows), "protocol": self.facts}

    def __str__(self) -> str:
        rest = [name for name in self.references if name not in self.usable]
        return (
            f"Calibration on '{self.facts['data']}', d = {self.facts['dimension']}, n = {self.facts['samples']}: usable "
            f"{', '.join(self.usable) or 'none'}; not usable {', '.join(rest) or 'none'}"
        )


def calibrate(
    model: FlowModel,
    data: ImageSet,
    *,
    references: Sequence[str] = (),
    samples: int = 500,
    times: int = 10,
    heldout: float = 0.2,
    seed: int = 0,
    shard: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Try measures on states of known truth that are like the user's.

    Args:
        model: gives shape, path, classes and t_max; its network is not called.
        data: real images.
        references: names; the default ones when empty.
        samples: trajectories of each kind; those made from images are at most as many as are held out.
        times: at which states are measured, equally spaced.
        heldout: share of each class that is held out.
        seed: of every draw.
        shard: samples made together; as many as AT_ONCE values make, at least 64, when None.
        out: run folder; an unfinished one is resumed, a finished one returned at once. Nothing is written when None.
        progress: called with (samples done, samples in all, note).

    Raises:
        InputError: data of another shape, unknown references or ones that do not start from noise, too few times.
        DataError: too many dimensions, constant data, a class without data.
        ConfigMismatchError: the folder holds another run.
    """
    data.must_have_shape(model.shape)
    model = _bare(model)
    if not TIMES[0] <= times <= TIMES[1]:
        raise InputError(f"times is {times}, expected between {TIMES[0]} and {TIMES[1]}")
    probe = Probe(samples=samples, steps=(times,), references=_named(references), seed=seed, shard=_shard(shard, model))
    config = {
        "model": {
            "shape": model.shape,
            "classes": model.classes,
            "t_max": model.t_max,
            "interpolant": model.interpolant.name,
        },
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "probe": probe,
    }
    places = worlds(model, data, heldout, probe)
    # data that do not fit are refused by the first world, before a folder is begun
    first = None if out is not None and Path(out).exists() else next(places)
    folder = None if out is None else RunFolder(out, "calibrate", config)
    if folder is not None and folder.finished:
        return Calibration.load(folder.path)
    progress = progress if folder is None else folder.watched(progress)
    rows, names, counts = [], [], {}
    for k, world in enumerate(_joined(first, places)):
        said = None if progress is None else _said(progress, world.name, k * samples, len(WORLDS) * samples)
        stored, files = _measured(world, folder, said)
        path = model.interpolant
        rows += rows_of(world.name, readings_of(stored, probe.names, world.t, path), truths(world), seed)
        names += files
        counts[world.name] = {"bank": len(world.bank), "images": len(world.source.ids("genuine"))}
    facts = _facts(model, data, probe, counts)
    table = judged(_table(rows))
    if folder is None:
        return Calibration(table, facts)
    folder.finish(names, {"facts": facts, "rows": _records(table)})
    return Calibration.load(folder.path)


def _named(names: Sequence[str]) -> tuple[str, ...]:
    """The references, checked."""
    found = tuple(names) or DEFAULT_REFERENCES
    for name in found:
        if REFERENCES.get(name).start != "noise":
            raise InputError(
                f"the reference '{name}' looks at trajectories that do not start from noise, and no effect of known size "
                "can be planted in them here; its exact null stands in every measurement (slowflow measure)"
            )
    return found


def _bare(model: FlowModel) -> FlowModel:
    """A stand-in with the model's shape, path, classes and end, on a grid without shift: the network is never asked.

    A table of noise levels is stood in for by the path that has the same states and derivatives.
    """
    path, end = model.interpolant.twin(torch.tensor(model.t_max, dtype=torch.float64))
    bare = FlowModel.from_callable(
        lambda state, t, cond: state, shape=model.shape, interpolant=path, classes=model.classes, name=model.name
    )
    return replace(bare, t_max=float(end))


def _shard(asked: int | None, model: FlowModel) -> int:
    return max(64, AT_ONCE // int(np.prod(model.shape))) if asked is None else asked


def _joined(first: World | None, rest: Iterator[World]) -> Iterator[World]:
    if first is not None:
        yield first
    yield from rest


def _said(progress: Progress, world: str, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total, f"{world} world")


def _measured(world: World, folder: RunFolder | None, said: Callable[[int], None] | None) -> tuple[Arrays, list[str]]:
    """(`kind/reference/array` -> [n, time] of all samples; names of the shards), states made shard by shard."""
    probe, usable = world.source.probe, world.source.ids("genuine")
    ids = world.source.ids("exact")
    parts: list[Arrays] = []
    names: list[str] = []
    for first in range(0, len(ids), probe.shard):
        name, some = f"shards/{world.name}-{first:08d}.safetensors", ids[first : first + probe.shard]
        if folder is None:
            parts.append(_observed(world, made(world, some, usable)))
        else:
            file = folder.path / name
            if not file.exists():
                arrays = _observed(world, made(world, some, usable))
                checkpoint.save(file, {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, {})
            parts.append({k: v.numpy() for k, v in checkpoint.load(file).tensors.items()})
            names.append(name)
        if said is not None:
            said(first + len(some))
    keys = sorted({key for part in parts for key in part})
    return {key: np.concatenate([part[key] for part in parts if key in part]) for key in keys}, names


def _observed(world: World, states: Mapping[str, Trajectories]) -> Arrays:
    """What the references say of one shard; the states themselves are let go."""
    found: Arrays = {}
    engine = search.backend("auto", world.source.model.interpolant, world.bank.largest)
    for kind, batch in states.items():
        for name in world.source.probe.names:
            reference = REFERENCES.get(name)
            if isinstance(reference, Reference):
                assigned = reference.assign(batch, world.bank, engine)
                arrays: Mapping[str, np.ndarray] = {"m": assigned.m, "residual": assigned.residual}
            else:
                arrays = reference.observe(batch, world.bank)
            found |= {f"{kind}/{name}/{key}": values for key, values in arrays.items()}
    return found


def _facts(model: FlowModel, data: ImageSet, probe: Probe, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What the numbers depend on."""
    return canonical(
        {
            "data": data.name,
            "dimension": int(np.prod(model.shape)),
            "shape": model.shape,
            "interpolant": model.interpolant.name,
            "classes": model.classes,
            "samples": probe.samples,
            "times": probe.grids[0],
            "seed": probe.seed,
            "worlds": counts,
            "backend": search.backend("auto", model.interpolant),
            "intervals": f"95 %, {RESAMPLES} bootstrap resamples of trajectories; nulls jointly over {len(WORLDS)} worlds",
        }
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table; missing truths are NaN."""
    table = pd.DataFrame(rows).astype({name: float for name in ("truth", "found", "low", "high", "error")})
    return table[[name for name in COLUMNS if name in table]]


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain values, None for NaN."""
    return canonical(rows.astype(object).where(rows.notna(), None).to_dict("records"))
