"""classifier: the bundled ones, and files that `slowflow pretrain` wrote from a [classifier] recipe."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from slowflow.cards import card, cards
from slowflow.evaluating.classifier import Classifier, open_classifier
from slowflow.evaluating.features.base import FEATURES, Features, Outputs, Request
from slowflow.io import checkpoint
from slowflow.io.run import file_sha256

CHANNELS = 7
"""Channels of the last map that sFD is taken of: as many as of Inception's."""


class Classifiers:
    """Small classifiers of SlowFlow's own."""

    def fits(self, path: Path) -> bool:
        """A file whose metadata describes a classifier."""
        return path.is_file() and "classifier" in checkpoint.metadata(path)

    def open(self, asked: Request) -> Features:
        """A bundled one by name, or a file."""
        if asked.text in {c.name for c in cards("features")}:
            bundled = card(asked.text, "features")
            path, name = bundled.weights(), bundled.content["label"]
        else:
            path, name = asked.path, f"FD-{asked.path.stem}"
        net, provenance = open_classifier(path)
        net.to(asked.device)

        def outputs(images: Tensor) -> Outputs:
            return _outputs(net, images)

        accuracy = provenance.get("heldout_accuracy")
        return Features(name, file_sha256(path), outputs, accuracy, judges=True, device=asked.device)


def _outputs(net: Classifier, images: Tensor) -> Outputs:
    early = net.maps(images)
    hidden = net.embedded(early)
    spatial = early[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
    return Outputs(hidden, spatial, net.head(hidden).softmax(dim=1))


FEATURES.register("classifier", summary="a classifier file of SlowFlow's own", source="trained by a recorded recipe")(
    Classifiers()
)
