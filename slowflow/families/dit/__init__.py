"""DiT (arXiv 2212.09748): SiT's network that predicts noise on DDPM's table of 1000 levels.

The network is told the level k = 999 (noise) ... 0, and its eight output channels are noise and a variance that nothing
here uses; it is neither trained nor changed. A table has no velocity: sample with `recombine`, which is DDIM on it.
Files of DiT and SiT hold the same names, so nothing in a file tells them apart; `slowflow check --data` does.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.metadata import told
from slowflow.families.sit.backbone import SiT
from slowflow.families.sit.shapes import REQUIRED, config_from_shapes
from slowflow.flow.habits import Training
from slowflow.flow.model import FlowModel
from slowflow.flow.table import Table
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly
from slowflow.io.run import file_sha256


def respaced(table: Table, steps: int) -> Tensor:
    """The times of `steps` levels spread evenly over the table, the noisiest first, then t = 1.

    Raises:
        InputError: more steps than levels.
    """
    if not 1 <= steps <= table.levels:
        raise InputError(f"steps is {steps}, expected between 1 and the {table.levels} levels of DDPM's table")
    chosen = torch.linspace(table.levels - 1, 0, steps, dtype=torch.float64).round()
    return table.grid([int(k) for k in chosen])


def flow_model(net: SiT, *, name: str) -> FlowModel:
    """A DiT network in canonical time: noise prediction on DDPM's table."""
    config, table = net.config, Table()
    return FlowModel(
        net=net.eval(),
        interpolant=table,
        prediction="noise",
        shape=(config.channels, config.input_size, config.input_size),
        classes=config.classes,
        null=config.classes,
        label=table.label,
        times=partial(respaced, table),
        name=name,
        training=Training(levels=table.levels),
        family="dit",
    )


class DiTFamily:
    """Opens DiT-S/B/L/XL files, trainer files with ema/model/args, and SlowFlow's own safetensors."""

    def fits(self, names: set[str]) -> bool:
        """The names are SiT's."""
        return FAMILIES.get("sit").fits(names) and set(REQUIRED) <= names

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open strictly."""
        if path is None:
            raise CheckpointError("the family 'dit' opens a file; give its path")
        if options.interpolant not in (None, "table") or options.prediction not in (None, "noise"):
            raise InputError("DiT predicts noise on DDPM's table; --interpolant and --prediction cannot change that")
        stored = checkpoint.load(path)
        known = told(stored.metadata, path, "dit")
        config = config_from_shapes(stored.tensors, options.heads or known.get("heads"), path, "DiT")
        net = SiT(config)
        load_strictly(net, stored.tensors, path)
        notes = [f"weights taken from '{stored.part}'"]
        if config.learn_sigma:
            notes.append("the learned variance is kept in the file and not used")
        model = flow_model(net, name=str(known.get("name", path.stem)))
        settings = {**asdict(config), "interpolant": "table", "prediction": "noise"}
        return Opened(model, str(path), file_sha256(path), stored.part, settings, notes)

    def remembers(self, net: Any) -> dict[str, Any]:
        """The number of heads."""
        return {"heads": net.config.heads}

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The plain state dict, as the published files are."""
        return dict(model.net.state_dict())


FAMILIES.register(
    "dit",
    summary="DiT transformers: noise prediction on DDPM's table; sample with recombine (DDIM)",
    source="Peebles and Xie 2023, DiT (arXiv 2212.09748)",
)(DiTFamily())
