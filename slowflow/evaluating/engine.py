"""evaluate: fidelity and coverage of a model's samples at several step counts, resumable.

Reference images are the held-out ones, never trained on; both sides have the same n. Features of every step count are
kept, so that two arms on the same sample ids are compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation, feature_file
from slowflow.evaluating.features import Features
from slowflow.flow.count import network_calls
from slowflow.flow.generate import dequantise, final_states, labels_of, quantise
from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import SAMPLERS
from slowflow.io import checkpoint, space
from slowflow.io.run import RunFolder, file_sha256, read_json

Progress = Callable[[int, int, str], None]


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
    data: ImageSet,
    features: Features,
    sampling: Sampling,
    out: str | Path,
    *,
    heldout: float = 0.2,
    model_id: dict[str, Any] | None = None,
    known: dict[int, np.ndarray] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model's samples against held-out images; resumes an unfinished folder.

    Args:
        model: makes the samples; `data` must have its shape.
        data: real images; the held-out share is the reference.
        features: what distances are measured in.
        sampling: how samples are made.
        out: run folder.
        heldout: share of each class that is held out.
        model_id: what identifies the checkpoint.
        known: final states already made by the same protocol, by step count; saves making them again.
        progress: called with (samples done, samples in all, note).

    Raises:
        InputError: shapes differ or there are too few real images.
        ConfigMismatchError: the folder holds another run.
    """
    data.must_have_shape(model.shape)
    train, held = data.split(heldout)
    _equal_n(sampling.samples, held)
    SAMPLERS.get(sampling.sampler)
    guided(model, sampling.guidance)
    config = {
        "model": model_id or {"name": model.name},
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "features": {"name": features.name, "sha256": features.sha256},
        "sampling": sampling,
    }
    folder = RunFolder(out, "evaluate", config)
    if folder.finished:
        return Evaluation.load(folder.path)
    progress = folder.watched(progress)
    space.require(
        folder.path, features.bytes(len(sampling.steps) + 1, sampling.samples, model.shape), "this evaluation"
    )
    real = _balanced(held, sampling.samples, max(data.classes, 1))
    ids = np.arange(sampling.samples)
    labels = labels_of(ids, model.classes)
    if not (folder.path / feature_file("real")).exists():
        _store(folder.path / feature_file("real"), features, real.data, real.labels.numpy())
    total = len(ids) * sum(sampling.steps)
    done, memorisation = 0, {}
    for steps in sampling.steps:
        path = folder.path / feature_file(steps)
        if not path.exists():

            def report(count: int, steps: int = steps, before: int = done) -> None:
                if progress is not None:
                    progress(before + count * steps, total, f"sampling, {steps} steps")

            images = _samples(model, ids, sampling, steps, data.pixels, (known or {}).get(steps), report)
            ratio = nearest_ratio(images, held.data, train.data)
            _store(path, features, images, labels, {"memorisation": ratio})
        done += len(ids) * steps
        memorisation[str(steps)] = checkpoint.load(path).metadata["memorisation"]
    facts = {
        **_facts(features, held, len(real), data.pixels, model.classes > 0 and data.classes > 0),
        "nfe": {
            str(s): network_calls(model, sampling.sampler, s, guidance=sampling.guidance, shift=sampling.shift)
            for s in sampling.steps
        },
        "memorisation": memorisation,
    }
    evaluation = Evaluation(folder.path, dict(folder.config["config"]), facts)
    files = [feature_file("real"), *(feature_file(steps) for steps in sampling.steps)]
    folder.finish(files, {"facts": facts, "summary": evaluation.result()})
    return Evaluation.load(folder.path)


def _samples(
    model: FlowModel,
    ids: np.ndarray,
    sampling: Sampling,
    steps: int,
    pixels: bool,
    known: np.ndarray | None,
    report: Callable[[int], None],
) -> Tensor:
    """Samples as a viewer would see them: pixels go through uint8."""
    if known is not None and len(known) >= len(ids):
        states = torch.from_numpy(known[: len(ids)]).view(len(ids), *model.shape)
    else:
        states = final_states(
            model,
            ids,
            steps=steps,
            method=sampling.sampler,
            guidance=sampling.guidance,
            seed=sampling.seed,
            shift=sampling.shift,
            progress=report,
        )
    return dequantise(quantise(states)) if pixels else states


def _balanced(images: ImageSet, n: int, classes: int) -> ImageSet:
    """The first n images in an order that goes round the classes, as sample ids do; all when there are fewer."""
    labels = images.labels.numpy()
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    order = np.lexsort((labels, turn)) if classes > 1 else np.arange(len(labels))
    return images.take(order[:n], f"first {min(n, len(images))}")


def _store(
    path: Path, features: Features, images: Tensor, labels: np.ndarray, metadata: dict[str, Any] | None = None
) -> None:
    values, predicted = features.extract(images)
    tensors = {"features": torch.from_numpy(values), "labels": torch.from_numpy(labels.astype(np.int64))}
    if predicted is not None:
        tensors["predicted"] = torch.from_numpy(predicted.astype(np.int64))
    checkpoint.save(path, tensors, metadata or {})


def nearest_ratio(generated: Tensor, heldout: Tensor, train: Tensor) -> dict[str, float]:
    """How near samples come to training images, beside how near held-out images come.

    A generator that copies its training data has a ratio far below 1; one that has learnt the law has about 1.
    """
    bank = train.flatten(1)
    ours = torch.cdist(generated.flatten(1), bank).min(dim=1).values.median()
    real = torch.cdist(heldout.flatten(1), bank).min(dim=1).values.median()
    return {"generated": float(ours), "heldout": float(real), "ratio": float(ours / real)}


def evaluate_file(
    file: str | Path, data: ImageSet, features: Features, out: str | Path, *, heldout: float = 0.2
) -> Evaluation:
    """Evaluate samples that are already in a file (`arr_0` uint8 NHWC or `data` float32, and `labels`).

    Steps and network calls come from the JSON that `slowflow sample` writes beside it; 0 where there is none.

    Args:
        file: the .npz.
        data: real images of the same shape; the held-out share is the reference.
        features, out, heldout: as for `evaluate`.

    Raises:
        DataError: not a file of samples.
        InputError: shapes differ.
    """
    file = Path(file)
    made = open_data(file)
    if made.shape != data.shape:
        raise InputError(f"{file} has samples of shape {made.shape}, '{data.name}' items of shape {data.shape}")
    stamp = file.with_name(file.name + ".json")
    told = read_json(stamp) if stamp.exists() else {}
    steps = int(told.get("steps", 0))
    train, held = data.split(heldout)
    _equal_n(len(made), held)
    config = {
        "model": told.get("model", {"name": file.stem}),
        "file_sha256": file_sha256(file),
        "data": {"name": data.name, "sha256": data.fingerprint, "heldout": heldout},
        "features": {"name": features.name, "sha256": features.sha256},
        "sampling": {
            "samples": len(made),
            "steps": [steps],
            "sampler": told.get("sampler", "unknown"),
            "guidance": told.get("guidance", 1.0),
            "seed": told.get("seed", 0),
            "shift": told.get("shift", 1.0),
        },
    }
    folder = RunFolder(out, "evaluate", config)
    if folder.finished:
        return Evaluation.load(folder.path)
    real = _balanced(held, len(made), max(data.classes, 1))
    _store(folder.path / feature_file("real"), features, real.data, real.labels.numpy())
    _store(folder.path / feature_file(steps), features, made.data, made.labels.numpy())
    facts = {
        **_facts(features, held, len(real), data.pixels, made.classes > 0),
        **({} if "labels" not in told else {"labels": told["labels"]}),
        "nfe": {str(steps): int(told.get("nfe", 0))},
        "memorisation": {str(steps): nearest_ratio(made.data, held.data, train.data)},
    }
    evaluation = Evaluation(folder.path, dict(folder.config["config"]), facts)
    folder.finish([feature_file("real"), feature_file(steps)], {"facts": facts, "summary": evaluation.result()})
    return Evaluation.load(folder.path)


def _equal_n(samples: int, held: ImageSet) -> None:
    """Both sides of a distance have the same n."""
    if samples > len(held):
        raise InputError(
            f"{samples} samples but only {len(held)} held-out images: both sides need the same n; "
            f"ask for at most {len(held)} samples or hold out more"
        )


def _facts(features: Features, held: ImageSet, n_real: int, pixels: bool, labelled: bool) -> dict[str, Any]:
    """What every number of an evaluation depends on, beside how the samples were made."""
    return {
        "n_real": n_real,
        "features": {"name": features.name, "sha256": features.sha256, "heldout_accuracy": features.heldout_accuracy},
        "reference": {"name": held.name, "sha256": held.fingerprint},
        "quantiser": "uint8, round half up" if pixels else "none",
        "labelled": labelled,
        "labels": "balanced: sample i has class i mod classes" if labelled else "none",
    }
