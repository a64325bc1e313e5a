"""diagnose: from a measurement to the causes of its lag. A run folder of its own, resumable like every other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from slowflow.config import from_mapping
from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.families.open import identity
from slowflow.flow.model import FlowModel, Predictor
from slowflow.flow.samplers import sampler
from slowflow.flow.table import levels_of
from slowflow.io import checkpoint
from slowflow.io.run import RunFolder
from slowflow.measuring.causes.bands import Bands
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.causes.probing import Causes, step_counts
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.screening import screened
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

Progress = Callable[[int, int, str], None]
NESTED = 1e-6
"""Largest distance of a time at which energies are read from the nearest time of any grid."""


def diagnose(
    measured: Measurement,
    model: FlowModel,
    data: ImageSet,
    out: str | Path | None = None,
    *,
    samples: int = 256,
    steps: tuple[int, ...] = (),
    field: Predictor | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Find the causes of a measured lag; resumes an unfinished folder.

    Args:
        measured: a measurement of this model on these data; its probe is taken over.
        model, data: what was measured.
        out: run folder; default `diagnosis` inside the measurement.
        samples: trajectories; at most as many as there are held-out images.
        steps: step counts, the reported one first, three or more; default: see `step_counts`.
        field: another field to be probed in the model's place (planted faults).
        progress: called with (samples done, samples in all, note).

    Raises:
        InputError: another model or other data than measured, guided sampling, too few step counts.
    """
    _same(measured, model, data)
    probe = from_mapping(Probe, measured.config["probe"], f"the probe of {measured.path}")
    probe = replace(probe, samples=min(samples, probe.samples))
    counts = tuple(steps) or step_counts(probe.grids[0])
    if len(counts) < 3 or len(set(counts)) < len(counts) or min(counts) < 2 or any(n % min(counts) for n in counts):
        raise InputError(
            f"step counts {list(counts)} cannot be extrapolated: name three or more, from 2 on, all different multiples "
            "of the least"
        )
    heldout = float(measured.config["data"]["heldout"])
    planted = "none" if field is None else _described(field)
    config = {**{k: measured.config[k] for k in ("model", "data")}, "probe": probe, "steps": counts, "planted": planted}
    folder = RunFolder(out or measured.path / "diagnosis", "diagnose", config)
    if folder.finished:
        return Diagnosis.load(folder.path)
    progress = folder.watched(progress)
    seen, held = data.split(heldout)
    seen, _ = screened(seen, held, probe.bank, probe.seed)
    source = Source(model, held, seen, probe)
    bands = Bands.of(Bank.of(seen, conditional=model.classes > 0))
    causes = Causes(source, model if field is None else field, bands, counts)
    for count in counts:
        away = np.abs(source.times(count).numpy()[:, None] - causes.nodes).min(axis=0).max()
        if away > NESTED:
            raise InputError(
                f"the times of {count} steps miss those of {min(counts)} steps by {away:.4f}: this model brings sampling times "
                "of its own that do not nest, and lags at different times cannot be extrapolated"
            )
    model.net.eval()
    ids, names = source.ids("genuine"), []
    for first in range(0, len(ids), probe.shard):
        names.append(f"shards/{first:08d}.safetensors")
        if not (folder.path / names[-1]).exists():
            some = ids[first : first + probe.shard]
            arrays = {**causes.probe(some), **causes.null(some)}
            tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
            checkpoint.save(folder.path / names[-1], tensors, {})
        progress(min(first + probe.shard, len(ids)), len(ids), f"{'/'.join(map(str, counts))} steps")
    facts = {
        "counts": list(counts),
        "nodes": causes.nodes.tolist(),
        "order": sampler(probe.sampler).order,
        "interpolant": model.interpolant.name,
        "levels": levels_of(model.interpolant),
        "bands": {
            "size": bands.size.tolist(),
            "variance": bands.variance.tolist(),
            "mean_energy": bands.mean_energy.tolist(),
        },
        "samples": len(ids),
    }
    folder.finish(
        names, {"facts": facts, "summary": Diagnosis(folder.path, dict(folder.config["config"]), facts, names).result()}
    )
    return Diagnosis.load(folder.path)


def _described(field: Predictor) -> str:
    """A planted field by its kind and its numbers."""
    numbers = {k: v for k, v in vars(field).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return f"{type(field).__name__} {numbers}"


def _same(measured: Measurement, model: FlowModel, data: ImageSet) -> None:
    """Refuse another model, other data or a protocol that has no such causes."""
    if data.fingerprint != measured.config["data"]["sha256"]:
        raise InputError(f"'{data.name}' is not the data that {measured.path} was measured on (its hash differs)")
    known = measured.config["model"].get("weights_sha256")
    if known is not None and identity(model)["weights_sha256"] != known:
        raise InputError(f"'{model.name}' is not the model that {measured.path} was measured on (its weights differ)")
    if list(model.shape) != measured.facts["shape"] or model.interpolant.name != measured.facts["interpolant"]:
        raise InputError(f"'{model.name}' is not the model that {measured.path} was measured on (shape or path differ)")
    if measured.config["probe"]["guidance"] != 1.0:
        raise InputError(
            f"{measured.path} was sampled with guidance: real states are not its target, so its lag has no such causes; "
            "measure without guidance and diagnose that"
        )
    if measured.config.get("remedy") is not None:
        raise InputError(
            f"{measured.path} was sampled with the remedy '{measured.config['remedy']['name']}', which hides the model's own "
            "causes; measure without it and diagnose that"
        )
