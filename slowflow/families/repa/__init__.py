"""REPA (arXiv 2410.06940): SiT with a projector, trained and sampled in noise-ward time.

    n = 1 - t is what the network is told, its velocity dx/dn = -u points towards noise

The path is linear, or REPA's "cosine", which is gvp. The projector is kept, so that a post-trained file has every
tensor of the one it came from; it is trained where the data bring `features` of a vision model, else it stays as it is.
Older files call the blocks after the projection decoder_blocks.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.metadata import told
from slowflow.families.repa.backbone import REPA, REPAConfig
from slowflow.families.repa.projection import COEFFICIENT, projection_loss
from slowflow.families.sit.shapes import REQUIRED, config_from_shapes, depth_of
from slowflow.flow.habits import Guiding, Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly
from slowflow.io.run import file_sha256

OLD = "decoder_blocks."
ENCODER_DEPTH = 8


def noise_ward(t: Tensor) -> Tensor:
    """n = 1 - t."""
    return 1.0 - t


def second_loss(answer: tuple[Tensor, list[Tensor]], features: Tensor) -> Tensor:
    """REPA's projection loss with its coefficient, for data that bring the features of one vision model."""
    return COEFFICIENT * projection_loss(answer[1], [features])


def flow_model(net: REPA, *, path: str, name: str) -> FlowModel:
    """A REPA network in canonical time."""
    trunk = net.config.trunk
    return FlowModel(
        net=net.eval(),
        interpolant=interpolant(path),
        prediction="velocity",
        shape=(trunk.channels, trunk.input_size, trunk.input_size),
        classes=trunk.classes,
        null=trunk.classes,
        sign=-1.0,
        label=noise_ward,
        name=name,
        guiding=Guiding(decide="start"),
        training=Training(second_loss=second_loss),
        family="repa",
    )


def renamed(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """(tensors under today's names, blocks before the projection where the old names tell)."""
    if not any(name.startswith(OLD) for name in tensors):
        return tensors, None
    first = depth_of(tensors)
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(OLD):
            index, _, rest = name.removeprefix(OLD).partition(".")
            name = f"blocks.{first + int(index)}.{rest}" if index.isdigit() else name
        found[name] = tensor
    return found, first


def config_of(tensors: dict[str, Tensor], heads: int | None, encoder_depth: int | None, path: Path) -> REPAConfig:
    """Trunk and projectors, off the shapes.

    Raises:
        CheckpointError: not a REPA, or heads unknown.
    """
    trunk = config_from_shapes(tensors, heads, path, "REPA")
    last = [tensors.get(f"projectors.{i}.4.weight") for i in range(depth_of(tensors, "projectors."))]
    if not last or any(weight is None or weight.ndim != 2 for weight in last):
        raise CheckpointError(f"{path} is not a REPA checkpoint: it has no projector (projectors.0.4.weight)")
    widths = [weight.shape for weight in last if weight is not None]
    if trunk.learn_sigma:
        raise CheckpointError(
            f"{path} is not a REPA checkpoint: it has {trunk.out_channels} output channels, a REPA has {trunk.channels}"
        )
    try:
        return REPAConfig(
            trunk,
            features=tuple(int(rows) for rows, _ in widths),
            projector=int(widths[0][1]),
            encoder_depth=encoder_depth or min(ENCODER_DEPTH, trunk.depth),
        )
    except InputError as error:
        raise CheckpointError(f"{path} is not a REPA checkpoint: {error}") from error


class REPAFamily:
    """Opens REPA files: last.pt, trainer files with ema/model/args, old key names, SlowFlow's own safetensors."""

    def fits(self, names: set[str]) -> bool:
        """A SiT with a projector."""
        return set(REQUIRED) <= names and any(name.startswith("projectors.") for name in names)

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; the path is linear unless the file or the user says gvp."""
        if path is None:
            raise CheckpointError("the family 'repa' opens a file; give its path")
        if options.prediction not in (None, "velocity"):
            raise InputError(f"REPA predicts velocity, --prediction {options.prediction} was given")
        stored = checkpoint.load(path)
        known = told(stored.metadata, path, "repa")
        tensors, first = renamed(stored.tensors)
        depth = known.get("encoder_depth") or first
        config = config_of(tensors, options.heads or known.get("heads"), depth, path)
        net = REPA(config)
        load_strictly(net, tensors, path)
        chosen = options.interpolant or known.get("interpolant") or "linear"
        notes = [f"weights taken from '{stored.part}'"]
        if first is not None:
            notes.append("blocks were found under their old names (decoder_blocks)")
        if depth is None:
            notes.append(
                f"the file does not say after which block it projects; {config.encoder_depth} is taken, without effect on sampling"
            )
        if not known and options.interpolant is None:
            notes.append("the file does not say its interpolant; REPA's default, linear, is used")
        model = flow_model(net, path=chosen, name=str(known.get("name", path.stem)))
        settings = {**asdict(config), "interpolant": chosen, "prediction": "velocity"}
        return Opened(model, str(path), file_sha256(path), stored.part, settings, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Heads, and the block after which is projected."""
        return {"heads": net.config.trunk.heads, "encoder_depth": net.config.encoder_depth}

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The plain state dict with its projector, as the published last.pt is."""
        return dict(model.net.state_dict())


FAMILIES.register(
    "repa",
    summary="REPA transformers: official and trainer files, projector kept",
    source="Yu et al. 2024, REPA (arXiv 2410.06940)",
)(REPAFamily())
