"""Feature extractors by name or path: what a distance between images is measured in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.cards import card, cards
from slowflow.errors import InputError
from slowflow.evaluating.classifier import Classifier, open_classifier
from slowflow.io.run import file_sha256


@dataclass(frozen=True)
class Features:
    """A feature extractor.

    Args:
        name: of the distance, such as FD-mnist; never FID.
        sha256: of its weights; None when it has none.
        net: the classifier, None for raw pixels.
        heldout_accuracy: of the classifier on real held-out data; for comparison with label agreement.
    """

    name: str
    sha256: str | None = None
    net: Classifier | None = None
    heldout_accuracy: float | None = None

    def bytes(self, sets: int, n: int, shape: tuple[int, ...]) -> int:
        """Bytes that features, labels and predictions of `sets` sets of n images take on disk."""
        width = math.prod(shape) if self.net is None else self.net.embed.out_features
        return sets * n * (8 * width + 8 + (0 if self.net is None else 8))

    @torch.no_grad()
    def extract(self, images: Float[Tensor, "n c h w"], batch: int = 512) -> tuple[np.ndarray, np.ndarray | None]:
        """(features [n, k] float64, predicted class [n] or None)."""
        if self.net is None:
            return images.flatten(1).double().numpy(), None
        parts, classes = [], []
        for i in range(0, len(images), batch):
            hidden = self.net.features(images[i : i + batch])
            parts.append(hidden.double())
            classes.append(self.net.head(hidden).argmax(1))
        return torch.cat(parts).numpy(), torch.cat(classes).numpy()


def open_features(spec: str, shape: tuple[int, ...]) -> Features:
    """The extractor called or stored at `spec`; it must take images of this shape.

    Args:
        spec: `pixels`, a bundled name (`slowflow ls features`) or a classifier file written by SlowFlow.
        shape: (C, H, W).

    Raises:
        InputError: unknown, or made for images of another shape.
    """
    if spec == "pixels":
        return Features("FD-pixels")
    if Path(spec).is_file():
        path, name = Path(spec), f"FD-{Path(spec).stem}"
    else:
        if spec not in {c.name for c in cards("features")}:
            known = ", ".join(["pixels", *(c.name for c in cards("features"))])
            raise InputError(f"no features '{spec}' (known: {known}, or the path of a classifier)")
        path, name = card(spec, "features").weights(), card(spec, "features").content["label"]
    net, provenance = open_classifier(path)
    try:
        with torch.no_grad():
            net(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise InputError(f"the features '{spec}' do not take images of shape {shape}") from error
    return Features(name, file_sha256(path), net, provenance.get("heldout_accuracy"))
