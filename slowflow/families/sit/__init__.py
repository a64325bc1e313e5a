"""SiT (arXiv 2401.08740): official files, trainer files and the bundled models.

Time runs from noise (0) to data (1) and the network is told t itself, so nothing is converted. The interpolant and
the prediction are not in the file: SlowFlow's own files record them, official ones are linear velocity unless the
user says otherwise. Times are those of the official scripts: noise and score networks are trained and sampled on
[0.001, 0.999]; on VP every network is trained on [0, 1 - 1e-5] and sampled on [0, 0.999].
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from slowflow.errors import CheckpointError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.metadata import told
from slowflow.families.sit.backbone import SiT
from slowflow.families.sit.shapes import REQUIRED, config_from_shapes
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly
from slowflow.io.run import file_sha256


def training_interval(path: str, prediction: str) -> tuple[float, float]:
    """The times the official script trains on."""
    if path == "vp":
        return 0.0, 1.0 - 1e-5
    return (0.0, 1.0) if prediction in ("velocity", "data") else (1e-3, 1.0 - 1e-3)


def sampling_interval(path: str, prediction: str) -> tuple[float, float]:
    """The times the official script samples on; the result is the state at the end of it."""
    if path == "vp":
        return 0.0, 1.0 - 1e-3
    return (0.0, 1.0) if prediction in ("velocity", "data") else (1e-3, 1.0 - 1e-3)


def flow_model(net: SiT, *, path: str, prediction: str, name: str) -> FlowModel:
    """A SiT network in canonical time."""
    config, (first, last) = net.config, sampling_interval(path, prediction)
    return FlowModel(
        net=net.eval(),
        interpolant=interpolant(path),
        prediction=prediction,  # type: ignore[arg-type]
        shape=(config.channels, config.input_size, config.input_size),
        classes=config.classes,
        null=config.classes,
        t_max=last,
        t_min=first,
        name=name,
        training=Training(interval=training_interval(path, prediction)),
        family="sit",
    )


class SiTFamily:
    """Opens SiT-S/B/L/XL files, trainer files with ema/model/args, and SlowFlow's own safetensors."""

    def fits(self, names: set[str]) -> bool:
        """A SiT has all required tensors, no projector (that would be REPA) and no frozen frequencies (RAE)."""
        others = any(name.startswith("projectors.") for name in names) or "t_embedder.W" in names
        return set(REQUIRED) <= names and not others

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; conventions come from the user, else the file's metadata, else linear velocity."""
        if path is None:
            raise CheckpointError("the family 'sit' opens a file; give its path")
        stored = checkpoint.load(path)
        known = told(stored.metadata, path, "sit")
        config = config_from_shapes(stored.tensors, options.heads or known.get("heads"), path)
        conventions = {
            "interpolant": options.interpolant or known.get("interpolant") or "linear",
            "prediction": options.prediction or known.get("prediction") or "velocity",
        }
        net = SiT(config)
        load_strictly(net, stored.tensors, path)
        notes = [f"weights taken from '{stored.part}'"]
        assumed = [key for key in conventions if getattr(options, key) is None and key not in known]
        if assumed:
            taken = " ".join(conventions[key] for key in assumed)
            notes.append(f"the file does not say its {' and '.join(assumed)}; SiT's default, {taken}, is used")
        model = flow_model(
            net,
            path=conventions["interpolant"],
            prediction=conventions["prediction"],
            name=str(known.get("name", path.stem)),
        )
        return Opened(model, str(path), file_sha256(path), stored.part, {**asdict(config), **conventions}, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """The number of heads."""
        return {"heads": net.config.heads}

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The plain state dict, as the published files are."""
        return dict(model.net.state_dict())


FAMILIES.register(
    "sit",
    summary="SiT transformers: official files, trainer files, bundled models",
    source="Ma et al. 2024, SiT (arXiv 2401.08740)",
)(SiTFamily())
