"""sd3: Stable Diffusion 3 and 3.5 from a folder of diffusers, post-trained whole or through LoRA.

    state = (1 - sigma) data + sigma noise,   sigma = 1 - t;   the network is told 1000 sigma and returns noise - data

A prompt is a class: row i of a table of prompt embeddings, the empty prompt last as the null condition, so that labels,
guidance and prompt dropout need nothing of their own (the official training scripts drop no prompts; without dropout
post-training forgets how to be guided). Sampling times are the scheduler's sigmas, training times logit-normal under
its shift. States are latents of the folder's own vae (`slowflow encode DIR --codec FOLDER`).
Source: Esser et al. 2024 (arXiv 2403.03206); diffusers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slowflow.errors import InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.peer import Peer, PeerSettings, official, open_peer, side
from slowflow.families.peer_calls import Call, plain
from slowflow.families.schedule import FlowTimes, Noisewards
from slowflow.families.sd3.prompts import empty_prompt, read_embeddings
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel

NETWORK = "SD3Transformer2DModel"


@dataclass(frozen=True)
class SD3Settings(PeerSettings):
    """What a .toml may say.

    Args:
        prompts: a text file with one prompt a line (class 0, 1, ...), embedded once and kept beside it, or a
            .safetensors of embeddings; None: the empty prompt is the only condition.
        tokens: length of T5's part of an embedding; diffusers' default is 256.
    """

    prompts: str | None = None
    tokens: int = 256


def _rows(place: Path, settings: SD3Settings, net: Any) -> dict[str, Tensor]:
    folder = place / settings.folder
    if settings.prompts is None:
        found = empty_prompt(folder, net, settings.tokens)
    else:
        found = read_embeddings(place / settings.prompts, folder, net, settings.tokens)
    return found.rows()


def _prepare(net: Any, settings: SD3Settings) -> Call:
    if type(net).__name__ != NETWORK:
        raise InputError(
            f"the network is a {type(net).__name__}, the family 'sd3' opens a {NETWORK}; try --family flowmatch"
        )
    return plain


def flow_model(peer: Peer[SD3Settings]) -> FlowModel:
    """The network in canonical time."""
    net, cells = peer.net.net, side(peer.net.net, peer.settings)
    if cells % int(net.config["patch_size"]):
        raise InputError(f"size is {cells}, expected a multiple of the patch {net.config['patch_size']}")
    times = FlowTimes(peer.scheduler, tokens=(cells // int(net.config["patch_size"])) ** 2)
    levels = float(peer.scheduler.get("num_train_timesteps", 1000))
    conditions = len(peer.net.rows)
    return FlowModel(
        net=peer.net,
        interpolant=interpolant("linear"),
        prediction="velocity",
        sign=-1.0,
        label=Noisewards(levels),
        shape=(int(net.config["in_channels"]), cells, cells),
        # the empty prompt alone is no class to be guided towards
        classes=conditions - 1,
        null=conditions - 1 if conditions > 1 else None,
        shift=times.shift,
        times=times,
        training=Training(time_law="logit-normal"),
        name=peer.name,
        family="sd3",
    )


class SD3Family:
    """Opens SD3 and SD3.5 folders, .toml files that name one, and SlowFlow's own files."""

    def fits(self, names: set[str]) -> bool:
        """A folder whose transformer is SD3's."""
        return f"class:{NETWORK}" in names

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; path and prediction are fixed."""
        if options.interpolant not in (None, "linear") or options.prediction not in (None, "velocity"):
            raise InputError("an sd3 model is linear and predicts a velocity; leave --interpolant and --prediction out")
        peer = open_peer(path, "sd3", SD3Settings, ("transformer",), _rows, _prepare)
        model = flow_model(peer)
        told = f"{model.classes} prompts; the null condition is the empty prompt"
        notes = [*peer.notes, told if model.classes else "no prompts: every sample has the empty one, unguided"]
        return Opened(model, peer.path, peer.sha256, peer.part, {"network": NETWORK, **asdict(peer.settings)}, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Configs of the network and the scheduler."""
        return dict(net.memory)

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The transformer's state dict in diffusers' names, LoRA merged."""
        return dict(official(model.net))  # type: ignore[arg-type]


FAMILIES.register(
    "sd3",
    summary="Stable Diffusion 3 and 3.5 folders; prompts as classes, LoRA or full post-training",
    source="Esser et al. 2024, SD3 (arXiv 2403.03206); diffusers",
)(SD3Family())
