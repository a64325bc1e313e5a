"""evaluate: fidelity and coverage of a model's samples, resumable.

Reference images are the held-out ones, never trained on, at equal n; or a reference file, as published numbers have it.
Features of every step count are kept, so that two arms on the same sample ids are compared pair by pair.
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
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation, feature_file
from slowflow.evaluating.features import Features
from slowflow.evaluating.judging import facts_of, finish, identified, nearest_ratio, store_real
from slowflow.evaluating.kept import Look, Progress
from slowflow.evaluating.parts import Parts, clear
from slowflow.evaluating.reference import ROWS, Reference, held_out
from slowflow.evaluating.sampling import averaging, precision
from slowflow.flow.count import network_calls
from slowflow.flow.course import Correction, course, recorded_remedy
from slowflow.flow.generate import dequantise, labels_of, quantise
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint, ranks, space
from slowflow.io.run import RunFolder


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
        "data": identified(data, heldout),
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
    store_real(look, reference)
    memorisation = _all_steps(model, sampling, look, reference, parts, made)
    labelled = model.classes > 0 and (reference.classes > 0 or reference.moments is not None)
    facts = {
        **facts_of(look.features, reference, labelled),
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
    finish(folder, facts, list(sampling.steps))


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
