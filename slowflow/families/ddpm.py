"""ddpm: networks of diffusers trained on a table of noise levels (UNet2DModel, DiTTransformer2DModel).

The table, what the network predicts (noise, data or v) and the times of sampling are read from scheduler_config.json.
The network is told the table index k; DDIM is `recombine`, the ancestral sampler `ancestral`. Where spacing does not
divide the table, diffusers' DDIM steps to another level than it tells the network next; here both are one level.

A DiTTransformer2DModel is repaired first (peer_dit.py).
Source: Ho et al. 2020 (arXiv 2006.11239); Song et al. 2021, DDIM (arXiv 2010.02502); Salimans and Ho 2022, v
(arXiv 2202.00512); Peebles and Xie 2023, DiT (arXiv 2212.09748).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.peer import Peer, PeerSettings, official, open_peer, side
from slowflow.families.peer_calls import Call, labelled, plain
from slowflow.families.peer_dit import is_dit, repair
from slowflow.families.schedule import FLOW, PREDICTIONS, TableTimes, table_of
from slowflow.flow.habits import Training
from slowflow.flow.model import FlowModel


@dataclass(frozen=True)
class DDPMSettings(PeerSettings):
    """What a .toml may say.

    Args:
        meta_numerics: give a DiTTransformer2DModel the time features and epsilon of Meta's DiT.
        null: class label that means no class, for a UNet trained with one; DiT has its own.
    """

    meta_numerics: bool = False
    null: int | None = None


def _prepare(net: Any, settings: DDPMSettings) -> Call:
    """With class labels where the network embeds them."""
    if is_dit(net):
        return labelled
    if settings.meta_numerics:
        raise InputError(f"meta_numerics is for a DiTTransformer2DModel, not a {type(net).__name__}")
    return plain if getattr(net, "class_embedding", None) is None else labelled


def _rows(place: Path, settings: DDPMSettings, net: Any) -> dict[str, Tensor]:
    return {}


def _classes(net: Any, settings: DDPMSettings) -> tuple[int, int | None]:
    """(classes, null class) of a network."""
    if is_dit(net):
        classes = int(net.config.num_embeds_ada_norm)
        return classes, classes
    count = int(net.config.get("num_class_embeds") or 0)
    if getattr(net, "class_embedding", None) is not None and not count:
        raise CheckpointError(
            f"this {type(net).__name__} embeds its classes as '{net.config.class_embed_type}', which needs vectors; "
            "wrap it with --family custom"
        )
    if settings.null is None:
        return count, None
    if settings.null != count - 1:
        raise InputError(f"null is {settings.null}, expected the last of the network's {count} classes")
    return count - 1, count - 1


def flow_model(peer: Peer[DDPMSettings], prediction: str | None = None) -> FlowModel:
    """The network in canonical time.

    Raises:
        CheckpointError: a scheduler without a table, or a prediction type that is not known.
    """
    table = table_of(peer.scheduler)
    told = str(peer.scheduler.get("prediction_type", "epsilon"))
    if prediction is None and told not in PREDICTIONS:
        raise CheckpointError(f"the scheduler's prediction_type is '{told}', expected one of {', '.join(PREDICTIONS)}")
    net = peer.net.net
    times, (classes, null), cells = (
        TableTimes(peer.scheduler, table),
        _classes(net, peer.settings),
        side(net, peer.settings),
    )
    return FlowModel(
        net=peer.net,
        interpolant=table,
        prediction=prediction or PREDICTIONS[told],  # type: ignore[arg-type]
        shape=(int(net.config["in_channels"]), cells, cells),
        classes=classes,
        null=null,
        label=table.label,
        t_max=times.end,
        times=times,
        training=Training(levels=table.levels),
        name=peer.name,
        family="ddpm",
    )


class DDPMFamily:
    """Opens folders of diffusers, .toml files that name one, and SlowFlow's own files."""

    def fits(self, names: set[str]) -> bool:
        """A folder with a network and a scheduler that is none of flow matching."""
        schedulers = {name for name in names if name.startswith("scheduler:")}
        classes = any(name.startswith("class:") for name in names)
        return classes and bool(schedulers) and not any(name.startswith(f"scheduler:{FLOW}") for name in schedulers)

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; the scheduler says path and prediction, `--prediction` overrides it."""
        if options.interpolant not in (None, "table"):
            raise InputError("the path of a ddpm model is its scheduler's table; leave --interpolant out")
        if options.prediction == "velocity":
            raise InputError(
                "there is no velocity on a table of noise levels; --prediction takes noise, data, v or score"
            )
        peer = open_peer(path, "ddpm", DDPMSettings, ("unet", "transformer"), _rows, _prepare)
        if is_dit(peer.net.net):
            repair(peer.net.net, peer.settings.meta_numerics)
        model = flow_model(peer, options.prediction)
        notes = list(peer.notes)
        if peer.scheduler.get("clip_sample") or peer.scheduler.get("thresholding"):
            notes.append(
                "the scheduler clips what the network predicts; the samplers recombine-clipped (DDIM) and ancestral-clipped "
                "do so too, but what they follow belongs to no path; the plain samplers do not clip"
            )
        facts = {"network": peer.network["_class_name"], "scheduler": peer.scheduler["_class_name"]}
        settings = {**facts, **asdict(peer.settings), "levels": peer.scheduler.get("num_train_timesteps")}
        return Opened(model, peer.path, peer.sha256, peer.part, settings, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Configs of the network and the scheduler."""
        return dict(net.memory)

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The network's state dict in diffusers' names."""
        return dict(official(model.net))  # type: ignore[arg-type]


FAMILIES.register(
    "ddpm",
    summary="diffusers folders with a table of noise levels: UNet2DModel, DiTTransformer2DModel; noise, data or v",
    source="Ho et al. 2020, DDPM (arXiv 2006.11239); diffusers",
)(DDPMFamily())
