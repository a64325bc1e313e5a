"""Open MODEL, whatever it names: a bundled card, a file, or a factory; and look it over before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slowflow import rng
from slowflow.cards import card, cards
from slowflow.data.images import ImageSet
from slowflow.errors import CheckpointError, NonFiniteError, SlowFlowError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint


def open_model(spec: str | Path, family: str = "sit", options: OpenOptions | None = None) -> Opened:
    """The model that `spec` names.

    Args:
        spec: a bundled name, a path, or `-` for a factory without a file.
        family: who opens a path; bundled models know their own.
        options: what the file cannot tell.

    Raises:
        CheckpointError: missing, damaged, unsafe or of another family; a family that would fit is named.
    """
    options = options or OpenOptions()
    if str(spec) in {c.name for c in cards("model")}:
        bundled = card(str(spec), "model")
        return FAMILIES.get(bundled.content["family"]).open(bundled.weights(), options)
    opener = FAMILIES.get(family)
    path = None if str(spec) == "-" else Path(spec)
    try:
        return opener.open(path, options)
    except CheckpointError as error:
        if path is None or not path.exists():
            known = ", ".join(c.name for c in cards("model"))
            raise CheckpointError(f"no model '{spec}': neither a bundled name ({known}) nor a path") from error
        others = _families_that_fit(path, family)
        hint = f"; it would fit --family {others[0]}" if others else ""
        raise CheckpointError(f"{error}{hint}") from error


def _families_that_fit(path: Path, tried: str) -> list[str]:
    try:
        names = set(checkpoint.load(path).tensors)
    except SlowFlowError:
        return []
    return [entry.name for entry in FAMILIES if entry.name != tried and entry.value.fits(names)]


def identity(opened: Opened, spec: str | Path) -> dict[str, Any]:
    """What identifies a model in a configuration: name and hash, no path (folders may move)."""
    return {
        "name": opened.model.name,
        "spec": Path(str(spec)).name,
        "sha256": opened.sha256,
        "settings": opened.settings,
    }


@torch.no_grad()
def direction_losses(model: FlowModel, data: ImageSet, n: int = 64, seed: int = 0) -> tuple[float, float]:
    """(loss at the declared time, loss when the label is flipped to 1 - t) on genuine states.

    A model opened with the right time direction has the smaller loss at the declared one.

    Raises:
        NonFiniteError: the network returns NaN or infinity on genuine states.
    """
    rows = torch.arange(min(n, len(data)))
    clean = data.data[rows].to(model.device, torch.float64)
    noise = torch.from_numpy(rng.normal(seed, "check", rows.tolist(), model.shape)).to(clean)
    t = 0.05 + 0.9 * (rows.to(clean) + 0.5) / len(rows)
    state, cond = model.interpolant.state(noise, clean, t), data.labels[rows].to(model.device)
    target = model.target(noise, clean, t)
    out = [float((model.raw(state, label, cond).to(target) - target).square().mean()) for label in (t, 1.0 - t)]
    if not all(torch.isfinite(torch.tensor(out))):
        raise NonFiniteError(f"'{model.name}' returns NaN or infinity on genuine states")
    return out[0], out[1]
