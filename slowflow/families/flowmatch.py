"""flowmatch: transformers of diffusers trained by flow matching that take their state as [n, c, h, w], and Flux.

    state = (1 - sigma) data + sigma noise,   sigma = 1 - t

Most are told 1000 sigma and return noise - data; some are told sigma, some 1 - sigma, and some return data - noise.
What is known of a class is in CLASSES and a .toml may say otherwise; the test of `check` catches a wrong direction, but
not a label of another scale. Conditions come from a .safetensors whose tensors carry the names of the network's arguments
(encoder_hidden_states, pooled_projections, attention masks ...), one row a class, the null condition last.
Source: Lipman et al. 2022 (arXiv 2210.02747); Liu et al. 2022 (arXiv 2209.03003); diffusers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.peer import Peer, PeerSettings, official, open_peer, side
from slowflow.families.peer_calls import Call, Packed, labelled, plain
from slowflow.families.peer_dit import is_dit, repair
from slowflow.families.schedule import FLOW, FlowTimes, Noisewards
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint

LABELS = ("thousand", "sigma", "data")
FLUX = "FluxTransformer2DModel"
SD3 = "SD3Transformer2DModel"
CLASSES = {
    FLUX: ("sigma", "noise"),
    "AuraFlowTransformer2DModel": ("sigma", "noise"),
    "Lumina2Transformer2DModel": ("data", "data"),
    "LuminaNextDiT2DModel": ("data", "data"),
}
"""Class -> (label, direction) where it is not (thousand, noise); read off their pipelines."""
FROM_ONE = (FLUX, "Lumina2Transformer2DModel")
"""Classes whose pipelines start from sigmas 1 ... 1/N and not from the scheduler's table."""
PACKED = ("Flux2", "Flux3", "QwenImage", "Chroma", "Ovis", "Bria", "LTX", "ZImage")
"""Beginnings of classes that take their state as tokens or lists and need the coordinates of each."""


@dataclass(frozen=True)
class FlowMatchSettings(PeerSettings):
    """What a .toml may say.

    Args:
        conditions: .safetensors with what the network is told beside state and time; rows are classes.
        null: the last row of `conditions` is the null condition.
        label: the network is told `thousand` (1000 sigma), `sigma`, or `data` (1 - sigma).
        towards: the velocity it returns points to `noise` or to `data`.
        distilled: scale of guidance that a distilled Flux is told to imitate.
    """

    conditions: str | None = None
    null: bool = True
    label: str | None = None
    towards: str | None = None
    distilled: float = 3.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label not in (None, *LABELS):
            raise InputError(f"label is '{self.label}', expected one of {', '.join(LABELS)}")
        if self.towards not in (None, "noise", "data"):
            raise InputError(f"towards is '{self.towards}', expected noise or data")


def _prepare(net: Any, settings: FlowMatchSettings) -> Call:
    """How the network is called; those whose form is not known are refused."""
    name = type(net).__name__
    if name.startswith(PACKED):
        raise CheckpointError(
            f"a {name} takes its state in a form of its own (packed tokens with coordinates); wrap it with --family custom"
        )
    if name == FLUX:
        if settings.conditions is None:
            raise InputError(
                "a Flux is told a prompt: conditions = 'FILE.safetensors' with encoder_hidden_states and pooled_projections"
            )
        return Packed(settings.distilled if net.config["guidance_embeds"] else None)
    if name == SD3 and settings.conditions is None:
        raise CheckpointError(f"a {name} is told a prompt, which the family 'sd3' makes")
    return labelled if is_dit(net) else plain


def _rows(place: Path, settings: FlowMatchSettings, net: Any) -> dict[str, Tensor]:
    """Conditions, all with the same number of rows."""
    if settings.conditions is None:
        return {}
    path = place / settings.conditions
    tensors = checkpoint.load(path).tensors
    counts = {name: len(value) for name, value in tensors.items() if value.ndim}
    if len(set(counts.values())) != 1 or len(counts) < len(tensors):
        raise CheckpointError(f"{path} holds conditions with different numbers of rows ({counts}); rows are classes")
    return tensors


def flow_model(peer: Peer[FlowMatchSettings]) -> FlowModel:
    """The network in canonical time."""
    net, settings, cells = peer.net.net, peer.settings, side(peer.net.net, peer.settings)
    label, towards = CLASSES.get(type(net).__name__, ("thousand", "noise"))
    label, towards = settings.label or label, settings.towards or towards
    factor = float(peer.scheduler.get("num_train_timesteps", 1000)) if label == "thousand" else 1.0
    flux = type(net).__name__ == FLUX
    patch = 2 if flux else int(net.config.get("patch_size") or 1)
    if cells % patch:
        raise InputError(f"size is {cells}, expected a multiple of the patch {patch}")
    from_one = type(net).__name__ in FROM_ONE or bool(peer.scheduler.get("use_dynamic_shifting"))
    times = FlowTimes(peer.scheduler, (cells // patch) ** 2, from_one=from_one)
    own = int(net.config["num_embeds_ada_norm"]) if is_dit(net) else 0
    classes, null = (own, own) if own else _counts(len(peer.net.rows), settings.null)
    return FlowModel(
        net=peer.net,
        interpolant=interpolant("linear"),
        prediction="velocity",
        sign=-1.0 if towards == "noise" else 1.0,
        label=Noisewards(factor, towards_data=label == "data"),
        shape=(int(net.config["in_channels"]) // (4 if flux else 1), cells, cells),
        classes=classes,
        null=null,
        shift=times.shift,
        times=times,
        training=Training(time_law="logit-normal"),
        name=peer.name,
        family="flowmatch",
    )


def _counts(rows: int, null: bool) -> tuple[int, int | None]:
    """(classes, null class) of a table; a lone row is the only condition and no class."""
    if rows <= 1:
        return 0, None
    return (rows - 1, rows - 1) if null else (rows, None)


class FlowMatchFamily:
    """Opens folders of diffusers, .toml files that name one, and SlowFlow's own files."""

    def fits(self, names: set[str]) -> bool:
        """A folder with a transformer and a flow-matching scheduler, SD3's apart."""
        classes = {name for name in names if name.startswith("class:")}
        flows = any(name.startswith(f"scheduler:{FLOW}") for name in names)
        return flows and bool(classes) and f"class:{SD3}" not in classes

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; the path is linear and the network predicts a velocity."""
        if options.interpolant not in (None, "linear") or options.prediction not in (None, "velocity"):
            raise InputError(
                "a flowmatch model is linear and predicts a velocity; leave --interpolant and --prediction out"
            )
        peer = open_peer(path, "flowmatch", FlowMatchSettings, ("transformer", "unet"), _rows, _prepare)
        if not str(peer.scheduler["_class_name"]).startswith(FLOW):
            raise CheckpointError(
                f"the scheduler is a {peer.scheduler['_class_name']}, not one of flow matching; try --family ddpm"
            )
        if is_dit(peer.net.net):
            repair(peer.net.net)
        model = flow_model(peer)
        notes = list(peer.notes)
        if type(peer.net.net).__name__ not in CLASSES and peer.settings.label is None:
            notes.append("time label and direction are taken as 1000 sigma and noise - data; a .toml may say otherwise")
        settings = {"network": type(peer.net.net).__name__, **asdict(peer.settings)}
        return Opened(model, peer.path, peer.sha256, peer.part, settings, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Configs of the network and the scheduler."""
        return dict(net.memory)

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The network's state dict in diffusers' names, LoRA merged."""
        return dict(official(model.net))  # type: ignore[arg-type]


FAMILIES.register(
    "flowmatch",
    summary="diffusers folders with a flow-matching scheduler and a transformer on [n, c, h, w]",
    source="Lipman et al. 2022 (arXiv 2210.02747); diffusers",
)(FlowMatchFamily())
