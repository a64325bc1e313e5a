"""evaluate of samples that are already in a file: fidelity and coverage, as of a model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation, feature_file
from slowflow.evaluating.features import Features
from slowflow.evaluating.judging import facts_of, finish, identified, nearest_ratio, store_real
from slowflow.evaluating.kept import Look, Progress
from slowflow.evaluating.parts import clear
from slowflow.evaluating.reference import Reference, SampleFile, held_out, open_samples
from slowflow.io import ranks, space
from slowflow.io.run import RunFolder, read_json


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
        "data": identified(data, heldout),
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
    store_real(look, reference)
    labels = np.zeros(made.n, dtype=np.int64) if made.labels is None else made.labels
    if not (folder.path / feature_file(steps)).exists():
        look.store(steps, made.batches(), labels, reference.n, {})
    facts = {
        **facts_of(look.features, reference, made.labels is not None),
        **{key: told.get(key, "not recorded") for key in ("ema", "dtype")},
        **{key: told[key] for key in ("labels", "quantiser") if key in told},
        "nfe": {str(steps): int(told.get("nfe", 0))},
        "memorisation": {} if reference.train is None else {str(steps): nearest_ratio(made.batches(), reference)},
    }
    clear(folder.path)
    finish(folder, facts, [steps])


def _told(made: SampleFile) -> tuple[dict[str, Any], int]:
    """What `slowflow sample` wrote beside the file, and the step count it names; nothing and 0 for a foreign file."""
    stamp = made.path.with_name(made.path.name + ".json")
    told = read_json(stamp) if stamp.exists() else {}
    return told, int(told.get("steps", 0))
