"""What all cells of a study have in common, and the measurement of their starting point that remedies are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from slowflow.config import canonical
from slowflow.data.images import ImageSet
from slowflow.evaluating.features import Features
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.peers import MEASURES
from slowflow.study.config import Protocol


@dataclass(frozen=True)
class Shared:
    """What all cells of a study have in common.

    Args:
        path: the study's folder.
        protocol: its settings.
        base: the starting point, and base_id what identifies it.
        data: real images. features: what they are judged in.
    """

    path: Path
    protocol: Protocol
    base: FlowModel
    base_id: dict[str, Any]
    data: ImageSet
    features: Features

    @property
    def base_measure(self) -> Path:
        """Folder of the measurement of the base, kept for its nulls and for differences."""
        return self.path / "measure-base"

    @property
    def asked(self) -> dict[str, Any]:
        """How the base and the data are opened again, so that its measurement can be diagnosed and piloted from."""
        protocol = self.protocol
        if protocol.base is not None:
            return {"beside": "../base/model.safetensors", "data": protocol.data}
        told = canonical(protocol.opening)
        return {"model": protocol.model, "family": protocol.family, "data": protocol.data, **told}

    def measured(self) -> Measurement:
        """The base measured with everything that a remedy may be made from, once, by itself: other measures than the
        protocol's change no number of the table."""
        probe = self.protocol.probe
        assert probe is not None  # refused before anything is run
        return measure(
            self.base,
            self.data,
            replace(probe, measures=tuple(MEASURES.names())),
            self.path / "measure-fit",
            heldout=self.protocol.heldout,
            model_id=self.base_id,
            reopen=self.asked,
        )

    @cached_property
    def described(self) -> dict[str, Any]:
        """The protocol with what it came to: hashes of data, base and features."""
        return {
            "protocol": self.protocol.identity,
            "model": self.base_id,
            "data_sha256": self.data.fingerprint,
            "features_sha256": self.features.sha256,
        }
