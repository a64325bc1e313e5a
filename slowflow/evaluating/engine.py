"""evaluate: fidelity and coverage of a model's samples, or of samples in a file, resumable.

Reference images are the held-out ones, never trained on, at equal n; or a reference file, as published numbers have it.
Features of every step count are kept, so that two arms on the same sample ids are compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation, feature_file
from slowflow.evaluating.features import Features
from slowflow.evaluating.kept import Look
from slowflow.evaluating.parts import Parts, clear
from slowflow.evaluating.reference import ROWS, Reference, SampleFile, held_out, open_samples
from slowflow.evaluating.sampling import averaging, precision
from slowflow.flow.count import network_calls
from slowflow.flow.course import Correction, course, recorded_remedy
from slowflow.flow.generate import dequantise, labels_of, quantise
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint, ranks, space
from slowflow.io.run import RunFolder, environment, read_json

Progress = Callable[[int, int, str], None]
LOOKED_AT = 1000
VERSIONS = ("slowflow", "python", "torch", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are made.

    Args:
        samples: how many.
        steps: intervals; one evaluation each.
        sampler, guidance, seed, shift: as in a Probe.
    """

    samples: int = 500
    steps: tuple[int, ...] = (5, 10, 20, 50)
    sampler: str = "euler"
    guidance: float = 1.0
    seed: int = 0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.samples <= 10_000_000:
            raise InputError(f"samples is {self.samples}, expected between 2 and 10,000,000")
        if not self.steps or any(not 1 <= s <= 100_000 for s in self.steps):
            raise InputError(f"steps is {list(self.steps)}, expected intervals between 1 and 100,000")


def evaluate(
    model: FlowModel,
    data: ImageSet | Reference,
    features: Features,
    sampling: Sampling,
    out: str | Path,
    *,
    heldout: float = 0.2,
    model_id: dict[str, Any] | None = None,
    part: str | None = None,
    remedy: Correction | None = None,
    known: dict[int, np.ndarray] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model's samples against held-out images; resumes an unfinished folder.

    Args:
        model: makes the samples; `data` must have its shape.
        data: real images, whose held-out share is the reference; or a reference file.
        features: what distances are measured in.
        sampling: how samples are made.
        out: run folder.
        heldout: share of each class that is held out.
        model_id: what identifies the checkpoint.
        part: of the checkpoint that was opened (ema, model, ...).
        remedy: what corrects sampling.
        known: final states already made by the same protocol, by step count; saves making them again.
        progress: called with (samples done, samples in all, note).

    Raises:
        InputError: shapes differ or there are too few real images.
        ConfigMismatchError: the folder holds another run.
    """
    if isinstance(data, ImageSet):
        data.must_have_shape(model.shape)
    reference = data if isinstance(data, Reference) else held_out(data, heldout, sampling.samples)
    reference.must_have_shape(model.shape)
    for steps in sampling.steps:  # what cannot be sampled is refused before there is a folder
        course(model, sampling.sampler, steps, guidance=sampling.guidance, shift=sampling.shift, remedy=remedy)
    config = {
        "model": model_id or {"name": model.name},
        "data": _identified(data, heldout),
        "features": {"name": features.name, "sha256": features.sha256},
        "sampling": sampling,
        **recorded_remedy(remedy),
    }
    folder = RunFolder(out, "evaluate", config)
    if folder.finished:
        return Evaluation.load(folder.path)
    made = {steps: states for steps, states in (known or {}).items() if len(states) >= sampling.samples}
    needed = [s for s in sampling.steps if s not in made and not (folder.path / feature_file(s)).exists()]
    parts, here = Parts(folder.path, model, sampling, needed, remedy), ranks.current()
    if here.leads:
        size = features.bytes(len(sampling.steps) + 1, sampling.samples, model.shape)
        space.require(folder.path, size, "this evaluation", beside=parts.bytes + size)
    told = folder.watched(progress)
    parts.make(_report(sampling, told))
    if here.leads:
        look = Look(folder.path, features, told, reference.n + sampling.samples * len(sampling.steps))
        _judge(folder, model, look, reference, sampling, parts, made, part)
    here.meet()
    return Evaluation.load(folder.path)


def _judge(
    folder: RunFolder,
    model: FlowModel,
    look: Look,
    reference: Reference,
    sampling: Sampling,
    parts: Parts,
    made: dict[int, np.ndarray],
    part: str | None,
) -> None:
    """Every sample is there: features, facts and the manifest."""
    _store_real(look, reference)
    memorisation = _all_steps(model, sampling, look, reference, parts, made)
    labelled = model.classes > 0 and (reference.classes > 0 or reference.moments is not None)
    facts = {
        **_facts(look.features, reference, labelled),
        "ema": averaging(part),
        "dtype": precision(model),
        "nfe": {
            str(s): network_calls(
                model, sampling.sampler, s, guidance=sampling.guidance, shift=sampling.shift, remedy=parts.remedy
            )
            for s in sampling.steps
        },
        "memorisation": memorisation,
    }
    clear(folder.path)
    _finished(folder, facts, list(sampling.steps))


def _report(sampling: Sampling, progress: Progress) -> Callable[[int, int], None]:
    """Progress over all step counts from that of one."""
    before = {steps: sampling.samples * sum(sampling.steps[:k]) for k, steps in enumerate(sampling.steps)}
    total = sampling.samples * sum(sampling.steps)
    return lambda steps, count: progress(before[steps] + count * steps, total, f"sampling, {steps} steps")


def _all_steps(
    model: FlowModel,
    sampling: Sampling,
    look: Look,
    reference: Reference,
    parts: Parts,
    made: dict[int, np.ndarray],
) -> dict[str, Any]:
    """Store the features of every step count; returns how near samples come to training images."""
    ids = np.arange(sampling.samples)
    memorisation: dict[str, Any] = {}
    for k, steps in enumerate(sampling.steps):
        path = look.folder / feature_file(steps)
        if not path.exists():
            states = parts.states(steps) if steps in parts.steps else torch.from_numpy(made[steps][: len(ids)])
            images = _seen(states.view(len(ids), *model.shape), reference.pixels)
            ratio = nearest_ratio(images.split(ROWS), reference)
            before = reference.n + k * len(ids)
            look.store(steps, images.split(ROWS), labels_of(ids, model.classes), before, {"memorisation": ratio})
        ratio = checkpoint.metadata(path)["memorisation"]
        memorisation |= {str(steps): ratio} if ratio else {}
    return memorisation


def _seen(states: Tensor, pixels: bool) -> Tensor:
    """Samples as a viewer would see them: pixels go through uint8."""
    return dequantise(quantise(states)) if pixels else states


def _store_real(look: Look, reference: Reference) -> None:
    """Features of the reference, and the moments that a file brings."""
    if (look.folder / feature_file("real")).exists():
        return
    tensors: dict[str, Tensor] = {}
    for kind, known in (("features", reference.moments), ("spatial", reference.spatial)):
        if known is not None:
            tensors |= {f"{kind}_mean": torch.from_numpy(known.mean)}
            tensors |= {f"{kind}_covariance": torch.from_numpy(known.covariance)}
    batches = reference.batches() if reference.n else ()
    look.store("real", batches, reference.labels, 0, {}, tensors)


def nearest_ratio(generated: Iterable[Tensor], reference: Reference) -> dict[str, float]:
    """How near samples come to training images, beside how near held-out images come; empty for a reference file.

    A generator that copies its training data has a ratio far below 1; one that has learnt the law has about 1. At most
    LOOKED_AT held-out images are asked: their median moves no more, and the search is the costly part on large sets.
    """
    if reference.train is None or reference.heldout is None:
        return {}
    bank = reference.train.data.flatten(1)
    ours = _nearest(generated, bank).median()
    real = _nearest(reference.heldout.data[:LOOKED_AT].split(ROWS), bank).median()
    return {"generated": float(ours), "heldout": float(real), "ratio": float(ours / real)}


def _nearest(batches: Iterable[Tensor], bank: Tensor) -> Tensor:
    return torch.cat([torch.cdist(some.flatten(1), bank).min(dim=1).values for some in batches])


def evaluate_file(
    file: str | Path,
    data: ImageSet | Reference,
    features: Features,
    out: str | Path,
    *,
    heldout: float = 0.2,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate samples that are already in a file (`arr_0` uint8 NHWC or `data` float32, and `labels`).

    Steps and network calls come from the JSON that `slowflow sample` writes beside it; 0 where there is none. The file
    is read a few hundred samples at a time.

    Args:
        file: the .npz.
        data: real images of the same shape, whose held-out share is the reference; or a reference file.
        features, out, heldout, progress: as for `evaluate`.

    Raises:
        DataError: not a file of samples.
        InputError: shapes differ.
    """
    made = open_samples(file)
    if isinstance(data, ImageSet) and made.shape != data.shape:
        raise InputError(f"{file} has samples of shape {made.shape}, '{data.name}' items of shape {data.shape}")
    reference = data if isinstance(data, Reference) else held_out(data, heldout, made.n)
    reference.must_have_shape(made.shape)
    told, steps = _told(made)
    config = {
        "model": told.get("model", {"name": made.path.stem}),
        "file_sha256": made.sha256,
        "data": _identified(data, heldout),
        "features": {"name": features.name, "sha256": features.sha256},
        "sampling": {
            "samples": made.n,
            "steps": [steps],
            "sampler": told.get("sampler", "unknown"),
            "guidance": told.get("guidance", 1.0),
            "seed": told.get("seed", 0),
            "shift": told.get("shift", 1.0),
        },
        **({"remedy": told["remedy"]} if told.get("remedy") else {}),
    }
    folder, here = RunFolder(out, "evaluate", config), ranks.current()
    if folder.finished:
        return Evaluation.load(folder.path)
    if here.leads:
        size = features.bytes(2, made.n, made.shape)
        space.require(folder.path, size, "this evaluation", beside=size)
        look = Look(folder.path, features, folder.watched(progress), reference.n + made.n)
        _judge_file(folder, look, made, told, steps, reference)
    here.meet()
    return Evaluation.load(folder.path)


def _judge_file(
    folder: RunFolder,
    look: Look,
    made: SampleFile,
    told: dict[str, Any],
    steps: int,
    reference: Reference,
) -> None:
    """Features of both sides, facts and the manifest."""
    _store_real(look, reference)
    labels = np.zeros(made.n, dtype=np.int64) if made.labels is None else made.labels
    if not (folder.path / feature_file(steps)).exists():
        look.store(steps, made.batches(), labels, reference.n, {})
    facts = {
        **_facts(look.features, reference, made.labels is not None),
        **{key: told.get(key, "not recorded") for key in ("ema", "dtype")},
        **{key: told[key] for key in ("labels", "quantiser") if key in told},
        "nfe": {str(steps): int(told.get("nfe", 0))},
        "memorisation": {} if reference.train is None else {str(steps): nearest_ratio(made.batches(), reference)},
    }
    clear(folder.path)
    _finished(folder, facts, [steps])


def _told(made: SampleFile) -> tuple[dict[str, Any], int]:
    """What `slowflow sample` wrote beside the file, and the step count it names; nothing and 0 for a foreign file."""
    stamp = made.path.with_name(made.path.name + ".json")
    told = read_json(stamp) if stamp.exists() else {}
    return told, int(told.get("steps", 0))


def _identified(data: ImageSet | Reference, heldout: float) -> dict[str, Any]:
    """What identifies the real side in a configuration."""
    if isinstance(data, Reference):
        return {"name": data.name, "sha256": data.sha256, "reference_file": True}
    return {"name": data.name, "sha256": data.fingerprint, "heldout": heldout}


def _facts(features: Features, reference: Reference, labelled: bool) -> dict[str, Any]:
    """What every number of an evaluation depends on, beside how the samples were made."""
    found = environment()
    note = {"note": features.note} if features.note else {}
    kind = {} if reference.moments is None else {"moments": "of a file"}
    return {
        "n_real": reference.n,
        "features": {
            "name": features.name,
            "sha256": features.sha256,
            "heldout_accuracy": features.heldout_accuracy,
            **note,
        },
        "reference": {"name": reference.name, "sha256": reference.sha256, **kind},
        "quantiser": "uint8, round half up" if reference.pixels else "none",
        "labelled": labelled,
        "labels": "balanced: sample i has class i mod classes" if labelled else "none",
        "versions": {name: found[name] for name in VERSIONS if name in found},
    }


def _finished(folder: RunFolder, facts: dict[str, Any], steps: list[int]) -> None:
    """Compute the metrics and write the manifest."""
    evaluation = Evaluation(folder.path, dict(folder.config["config"]), facts)
    evaluation.must_fit()
    files = [feature_file("real"), *(feature_file(count) for count in steps)]
    folder.finish(files, {"facts": facts, "summary": evaluation.result()})
