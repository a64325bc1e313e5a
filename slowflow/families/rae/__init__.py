"""RAE stage 2 (arXiv 2510.11690): DDT ("DiT-DH") and LightningDiT on latents of a representation encoder.

    n = 1 - t is what the network is told, its velocity dx/dn = -u;     s = sqrt(C H W / 4096)
    training: base law of n on [0, 0.999], then warped by s;     sampling: 1 - linspace(0, 0.999, N) warped by s

So "50 steps" are 49 evaluations and the result is taken at n = 0.00689 (t = 0.9931), without a step to the end. The
latents are normalised per position (latents.py). DiT-DH tells its heads by its rotary tables; files are model-only or {"ema": ...}.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.metadata import told
from slowflow.families.rae.backbone import DDT, LightningDiT
from slowflow.families.rae.shapes import config_of
from slowflow.families.repa import noise_ward
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly
from slowflow.io.run import file_sha256

LAST = 0.999
"""RAE's times n run over [0, 0.999] before the shift, in training and in sampling."""
REFERENCE = 4096
"""Number of latent values at which the shift is 1."""


def resolution_shift(shape: tuple[int, ...]) -> float:
    """s = sqrt(C H W / 4096): 6.93 for 768 x 16 x 16, 13.86 for 768 x 32 x 32."""
    return math.sqrt(math.prod(shape) / REFERENCE)


def flow_model(net: DDT | LightningDiT, *, name: str, path: str = "linear", shift: float | None = None) -> FlowModel:
    """A stage-2 network in canonical time.

    Args:
        net: the network.
        name: for records.
        path: linear; RAE's code has gvp and vp too.
        shift: s; from the size of the latent when None.
    """
    config = net.config
    shape = (config.channels, config.input_size, config.input_size)
    s = resolution_shift(shape) if shift is None else shift
    return FlowModel(
        net=net.eval(),
        interpolant=interpolant(path),
        prediction="velocity",
        shape=shape,
        classes=config.classes,
        null=config.classes,
        sign=-1.0,
        label=noise_ward,
        t_max=LAST / (s - (s - 1.0) * LAST),  # the warp of LAST
        name=name,
        shift=s,
        training=Training(time_law="logit-normal", interval=(1.0 - LAST, 1.0)),
        family="rae",
    )


class RAEFamily:
    """Opens stage-2 files: published (model-only or ema), trainer files, SlowFlow's own safetensors."""

    def fits(self, names: set[str]) -> bool:
        """Frozen time frequencies and rotary tables are RAE's."""
        return "t_embedder.W" in names and any(name.endswith("feat_rope.freqs_cos") for name in names)

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly; the shift follows from the size of the latent."""
        if path is None:
            raise CheckpointError("the family 'rae' opens a file; give its path")
        if options.prediction not in (None, "velocity"):
            raise InputError(f"RAE predicts velocity, --prediction {options.prediction} was given")
        stored = checkpoint.load(path)
        known = told(stored.metadata, path, "rae")
        config = config_of(stored.tensors, path)
        net = DDT(config) if len(config.hidden) == 2 else LightningDiT(config)
        load_strictly(net, stored.tensors, path)
        chosen = options.interpolant or known.get("interpolant") or "linear"
        model = flow_model(net, name=str(known.get("name", path.stem)), path=chosen)
        notes = [
            f"weights taken from '{stored.part}'",
            f"shift s = {model.shift:.3f}; sampling ends at t = {model.t_max:.4f}",
        ]
        settings = {**asdict(config), "interpolant": chosen, "prediction": "velocity", "shift": model.shift}
        return Opened(model, str(path), file_sha256(path), stored.part, settings, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Nothing: rotary tables tell the heads."""
        return {}

    def official(self, model: FlowModel) -> dict[str, Any]:
        """{"ema": state dict}, which the official loader looks for first."""
        return {"ema": dict(model.net.state_dict())}


FAMILIES.register(
    "rae",
    summary="RAE stage 2: DDT (DiT-DH) and LightningDiT on normalised representation latents",
    source="Zheng et al. 2025, RAE (arXiv 2510.11690)",
)(RAEFamily())
