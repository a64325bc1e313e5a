"""measure: from a model and data to a finished Measurement folder.

Work is cut into shards of sample ids. A shard is written when it is done and never again; a run that was stopped
anywhere goes on with the missing shards and ends in the same bytes. Several processes share the shards between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowflow.data.bank import LARGEST, Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.families.open import direction_test
from slowflow.flow import compiling
from slowflow.flow.course import Correction, field_of, recorded_remedy, solver_of
from slowflow.flow.model import FlowModel
from slowflow.flow.table import levels_of
from slowflow.io import atomic, checkpoint, ranks, space
from slowflow.io.run import RunFolder
from slowflow.measuring import screening, search
from slowflow.measuring.behind import behind
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.peers import MEASURES
from slowflow.measuring.references import REFERENCES, Assigned, Reference, Start, Trajectories
from slowflow.measuring.shards import shard_name
from slowflow.measuring.trajectories import FROM_IMAGES, PERFECT, Source, nfe
from slowflow.records import DEFAULT_REFERENCES, Probe

Progress = Callable[[int, int, str], None]
KEPT = 8
"""Samples whose whole trajectories are kept for pictures."""
CHECKED = 2
"""Samples a shard on which one search engine is checked against the other."""
HEADER, ENTRY = 150, 85
"""Bytes of a shard beside its numbers, and of the name, type and shape of each of its tensors, about."""
SPECTRAL = ("level", "level-learned", "clocks")
"""References that need the principal axes of the data."""


def measure(
    model: FlowModel,
    data: ImageSet,
    probe: Probe,
    out: str | Path,
    *,
    heldout: float = 0.2,
    model_id: dict[str, Any] | None = None,
    nulls_from: Path | None = None,
    reopen: dict[str, Any] | None = None,
    remedy: Correction | None = None,
    progress: Progress | None = None,
    overlap: bool | None = None,
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
        reopen: how model and data were asked for, so that `diagnose` can open them again; `beside` instead of `model` is a
            path from the folder of the measurement.
        remedy: what corrects the sampling that is measured; the nulls know nothing of it but its solver.
        progress: called with (samples done, samples in all, note).
        overlap: search behind the sampling's back; None = where the network is on a GPU. The result is the same.

    Raises:
        InputError: data of another shape, unknown reference or sampler, classes missing in the data.
        ConfigMismatchError: the folder holds another run.
    """
    bank_set, held = _split(model, data, heldout)
    probe = resolved(probe, model, remedy)
    search.backend(probe.backend, model.interpolant)  # what cannot be served is refused before there is a folder
    # counting is a dry run, which refuses a sampler that cannot walk this path
    calls = {str(steps): nfe(model, probe, steps, remedy) for steps in probe.grids}
    bank_set, warnings = screening.screened(bank_set, held, probe.bank, probe.seed)
    config = {
        "model": model_id or {"name": model.name},
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "probe": probe,
        **recorded_remedy(remedy),
    }
    folder = RunFolder(out, "measure", config)
    if folder.finished:
        return Measurement.load(folder.path)
    progress = folder.watched(progress)
    source, bank = Source(model, held, bank_set, probe, remedy), Bank.of(bank_set, conditional=model.classes > 0)
    engine = search.backend(probe.backend, model.interpolant, bank.largest)
    model.net.eval()
    conventions = direction_test(model, held)
    plan = list(_plan(source, probe))
    here = ranks.current()
    if here.leads:
        space.require(folder.path, footprint(source, bank, engine, plan), "this measurement")
    names = [shard_name(kind, start, steps, int(ids[0])) for kind, start, steps, ids in plan]
    share = here.share(folder.path, names)
    total, done = sum(len(ids) for *_, ids in plan), 0
    # a peer's measure asks the network itself, which belongs to one thread
    apart = (model.device.type == "cuda" if overlap is None else overlap) and not probe.measures
    with behind(apart, model.device) as later:
        for name, (kind, start, steps, ids) in zip(names, plan, strict=True):
            file = folder.path / name
            same = remedy is None and kind in (*FROM_IMAGES, *PERFECT) and not probe.measures
            if name in share and same and nulls_from is not None:
                atomic.write_bytes(file, (nulls_from / name).read_bytes())
            elif name in share:
                here.check()
                batch = source.make(kind, ids, steps, start)
                later(partial(_write_shard, file, source, batch, start, bank, engine))
            done += len(ids)
            progress(done, total, f"{kind} states, {steps} steps")
    here.gathered(folder.path, names)
    if here.leads:
        if "level" in probe.names:
            warnings += screening.level_warning(bank, model.interpolant, source.times(probe.grids[0])[1:])
        found = {"nfe": calls, "backend": engine, "conventions": conventions.problem, "warnings": warnings}
        _finish(folder, names, model, bank, held, {**found, "reopen": reopen})
    here.meet()
    return Measurement.load(folder.path)


def _finish(
    folder: RunFolder, names: list[str], model: FlowModel, bank: Bank, held: ImageSet, found: dict[str, Any]
) -> None:
    """Every shard is there: read the result off them and write the manifest."""
    facts = {
        **found,
        "prediction": model.prediction,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch.") + compiling.said(model.net),
        "bank": {"name": bank.name, "n": len(bank), "sha256": bank.fingerprint},
        "heldout": {"name": held.name, "n": len(held), "sha256": held.fingerprint},
        "shape": list(model.shape),
        "interpolant": model.interpolant.name,
        "levels": levels_of(model.interpolant),
        "search": _search_facts([folder.path / name for name in names]),
    }
    folder.finish(
        names, {"facts": facts, "summary": Measurement(folder.path, config_of(folder), facts, names).result()}
    )


def footprint(source: Source, bank: Bank, engine: str, plan: Sequence[tuple[str, Start, int, np.ndarray]]) -> int:
    """Bytes of all shards of a plan: two genuine samples tell what each sample takes, without a network call."""
    probe, total = source.probe, 0
    ends = 4 * int(np.prod(source.model.shape))  # a final or kept state in float32
    for steps in probe.grids:
        few = source.make("genuine", source.ids("genuine")[:2], steps)
        tensors, _ = observed(source, few, "noise", bank, engine)
        each: dict[str, int] = {}
        entries: dict[str, int] = {}
        for name, tensor in tensors.items():
            owner = name.partition("/")[0] if "/" in name else ""
            each[owner] = each.get(owner, 0) + (0 if name == "t" else tensor.nbytes // len(few.ids))
            entries[owner] = entries.get(owner, 0) + ENTRY
        for kind, start, of, ids in plan:
            if of != steps:
                continue
            names = [n for n in probe.names if kind in FROM_IMAGES or REFERENCES.get(n).start == start]
            owners = ["", *names, *probe.measures]
            total += HEADER + sum(entries.get(n, 0) + len(ids) * each.get(n, 0) for n in owners)
            if kind == "model" and start == "noise":
                total += ends * (len(ids) + steps * int(np.sum(ids < KEPT)))
    return total


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


def resolved(probe: Probe, model: FlowModel, remedy: Correction | None = None) -> Probe:
    """The probe with nothing left to choose: references, nulls, and every name checked.

    Raises:
        InputError: unknown names, references that a stochastic sampler or the dimension rules out, or no reference that
            reads single states.
    """
    method, _ = solver_of(model, probe.sampler, probe.grids[0], remedy)
    names = tuple(DEFAULT_REFERENCES) if probe.names == ("auto",) else probe.names
    if probe.names == ("auto",) and method.stochastic:
        names = tuple(name for name in names if not REFERENCES.get(name).shares_noise)
    if probe.names == ("auto",) and np.prod(model.shape) > LARGEST:
        names = tuple(name for name in names if name not in SPECTRAL)
    references = [(name, REFERENCES.get(name)) for name in names]
    for name, reference in references:
        if reference.shares_noise and method.stochastic:
            what = f"the stochastic sampler '{probe.sampler}'" if remedy is None else "the remedy"
            raise InputError(
                f"the reference '{name}' compares a state with the noise it started from, which {what} replaces on the way; "
                "measure 'level', 'clocks' or 'fresh', or sample with an ODE"
            )
        if name in SPECTRAL and np.prod(model.shape) > LARGEST:
            raise InputError(
                f"states of {np.prod(model.shape):,} dimensions are too large for the reference '{name}' (at most "
                f"{LARGEST:,}); name the others: --reference own --reference nearest"
            )
    if not any(isinstance(reference, Reference) for _, reference in references):
        raise InputError(f"'{names[0]}' alone gives no band; measure 'level' or another reference beside it")
    if "late" in _starts(replace(probe, references=names)) and min(probe.grids) < 2:
        raise InputError("trajectories that begin late need at least 2 steps")
    field = field_of(model, probe.guidance)  # a scale that the model cannot be guided with is refused here
    nulls = probe.nulls if field is model or "unguided" in probe.nulls else (*probe.nulls, "unguided")
    return replace(probe, references=names, nulls=nulls)


def _starts(probe: Probe) -> list[Start]:
    """Where trajectories begin, as the references and measures want it; pure noise always."""
    looking = [REFERENCES.get(n).start for n in probe.names] + [MEASURES.get(n).start for n in probe.measures]
    return ["noise", *(start for start in ("late", "inverted") if start in looking)]


def _plan(source: Source, probe: Probe) -> Iterator[tuple[str, Start, int, np.ndarray]]:
    """(kind, start, steps, sample ids) of every shard, in the order they are made."""
    for steps in probe.grids:
        for start in _starts(probe):
            nulls = probe.nulls if start == "noise" else [null for null in probe.nulls if null in PERFECT]
            for kind in ("model", *nulls):
                ids = source.ids(kind, start)
                for i in range(0, len(ids), probe.shard):
                    yield kind, start, steps, ids[i : i + probe.shard]


def _write_shard(path: Path, source: Source, batch: Trajectories, start: Start, bank: Bank, engine: str) -> None:
    tensors, facts = observed(source, batch, start, bank, engine)
    checkpoint.save(path, tensors, {"search": facts})


def observed(
    source: Source, batch: Trajectories, start: Start, bank: Bank, engine: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What a shard holds of some trajectories, and how the search went."""
    probe = source.probe
    tensors = {
        "ids": torch.from_numpy(batch.ids.astype(np.int64)),
        "labels": torch.from_numpy(batch.labels.astype(np.int64)),
        "t": torch.from_numpy(batch.grid),
        "norm": torch.from_numpy(np.linalg.norm(batch.states, axis=2) / np.sqrt(batch.states.shape[2])),
    }
    facts: dict[str, Any] = {}
    for name in probe.names:
        reference = REFERENCES.get(name)
        if reference.start != start and batch.kind not in FROM_IMAGES:
            continue
        if not isinstance(reference, Reference):
            found = reference.observe(batch, bank)
            tensors |= {f"{name}/{key}": torch.from_numpy(np.ascontiguousarray(v)) for key, v in found.items()}
            continue
        assigned = reference.assign(batch, bank, engine)
        arrays = {"m": assigned.m, "residual": assigned.residual, "boundary": assigned.boundary, **assigned.more}
        tensors |= {f"{name}/{key}": torch.from_numpy(np.ascontiguousarray(v)) for key, v in arrays.items()}
        tensors[f"{name}/index"] = torch.from_numpy(assigned.index.astype(np.int32))
        facts[name] = {"certified": assigned.certified, **_agreement(name, batch, bank, assigned, engine)}
    for name in probe.measures:
        measure = MEASURES.get(name)
        if measure.start == start and batch.kind in measure.kinds:
            seen = measure.observe(batch, source.field())
            tensors |= {f"{name}/{key}": torch.from_numpy(np.ascontiguousarray(v)) for key, v in seen.items()}
    if batch.kind == "model" and start == "noise":
        tensors["final"] = torch.from_numpy(batch.endpoint.astype(np.float32))
        tensors["kept"] = torch.from_numpy(batch.states[batch.ids < KEPT].astype(np.float32))
    return tensors, facts


def _agreement(name: str, batch: Trajectories, bank: Bank, found: Assigned, engine: str) -> dict[str, float]:
    """How the search compares with another exact engine on a subsample, where there is another.

    Two exact engines must agree; of an approximate one the recall and the signed error in m are kept.
    """
    others = [other for other in search.backends() if other != engine]
    if name != "nearest" or not others or not batch.path.straight:
        return {}
    few = batch.head(CHECKED)
    reference = REFERENCES.get(name)
    assert isinstance(reference, Reference)  # `nearest` reads single states
    again = reference.assign(few, bank, others[-1])
    same = float(np.mean(again.index == found.index[:CHECKED]))
    if engine != "approximate":
        return {"agreement": same, "checked": float(again.index.size)}
    error = float(np.mean(found.m[:CHECKED] - again.m))
    return {"recall": same, "signed_error_in_m": error, "checked": float(again.index.size)}


def _search_facts(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Mean agreement and certified share over all shards, per reference."""
    rows: dict[str, dict[str, list[float]]] = {}
    for path in paths:
        for name, facts in checkpoint.metadata(path)["search"].items():
            for key, value in facts.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: float(np.sum(v) if key == "checked" else np.mean(v)) for key, v in facts.items()}
        for name, facts in rows.items()
    }
