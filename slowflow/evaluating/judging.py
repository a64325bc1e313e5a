"""What every evaluation does once the samples are there: the real side, the facts, the metrics and the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from slowflow.data.images import ImageSet
from slowflow.evaluating.evaluation import Evaluation, feature_file
from slowflow.evaluating.features import Features
from slowflow.evaluating.kept import Look
from slowflow.evaluating.reference import ROWS, Reference
from slowflow.io.run import RunFolder, environment

LOOKED_AT = 1000
VERSIONS = ("slowflow", "python", "torch", "numpy", "scipy")


def identified(data: ImageSet | Reference, heldout: float) -> dict[str, Any]:
    """What identifies the real side in a configuration."""
    if isinstance(data, Reference):
        return {"name": data.name, "sha256": data.sha256, "reference_file": True}
    return {"name": data.name, "sha256": data.fingerprint, "heldout": heldout}


def store_real(look: Look, reference: Reference) -> None:
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


def facts_of(features: Features, reference: Reference, labelled: bool) -> dict[str, Any]:
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


def finish(folder: RunFolder, facts: dict[str, Any], steps: list[int]) -> None:
    """Compute the metrics and write the manifest."""
    evaluation = Evaluation(folder.path, dict(folder.config["config"]), facts)
    evaluation.must_fit()
    files = [feature_file("real"), *(feature_file(count) for count in steps)]
    folder.finish(files, {"facts": facts, "summary": evaluation.result()})
