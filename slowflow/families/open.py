"""Open MODEL, whatever it names: a bundled card, a file, or a factory; and look it over before it is used."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slowflow import rng
from slowflow.cards import card, cards
from slowflow.data.images import ImageSet
from slowflow.errors import CheckpointError, NonFiniteError, SlowFlowError, did_you_mean
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.families.peer import folder_names
from slowflow.flow.habits import Guiding
from slowflow.flow.model import FlowModel, conditions
from slowflow.io import checkpoint

DEFAULT = "sit"
"""The family of a path when none is named; files of SlowFlow's own name theirs."""


def open_model(spec: str | Path, family: str = DEFAULT, options: OpenOptions | None = None) -> Opened:
    """The model that `spec` names.

    Args:
        spec: a bundled name, a path, or `-` for a factory without a file.
        family: who opens a path; bundled models and SlowFlow's own files know theirs.
        options: what the file cannot tell.

    Raises:
        CheckpointError: missing, damaged, unsafe or of another family; a family that would fit is named.
    """
    options = options or OpenOptions()
    if str(spec) in {c.name for c in cards("model")}:
        bundled = card(str(spec), "model")
        return FAMILIES.get(bundled.content["family"]).open(bundled.weights(), options)
    path = None if str(spec) == "-" else Path(spec)
    if path is not None and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"  # the folder of a training run
    opener = FAMILIES.get(_own_family(path) or family if family == DEFAULT else family)
    try:
        return opener.open(path, options)
    except CheckpointError as error:
        if path is None or not path.exists():
            known = ", ".join(c.name for c in cards("model"))
            hint = did_you_mean(str(spec), known.split(", "))
            raise CheckpointError(f"no model '{spec}': neither a bundled name ({known}) nor a path{hint}") from error
        others = _families_that_fit(path, family)
        hint = f"; it would fit --family {' or '.join(others)}" if others else ""
        raise CheckpointError(f"{error}{hint}") from error


def _own_family(path: Path | None) -> str | None:
    """The family that a file of SlowFlow's own names, None for every other file."""
    told = {} if path is None or not path.is_file() else checkpoint.metadata(path).get("model", {})
    family = told.get("family") if isinstance(told, dict) else None
    return family if family in FAMILIES.names() else None


def _families_that_fit(path: Path, tried: str) -> list[str]:
    """Families with the tensor names of this file; none when the one that was tried has them, as the fault lies elsewhere."""
    try:
        names = folder_names(path) if path.is_dir() or path.suffix == ".toml" else set(checkpoint.load(path).tensors)
    except SlowFlowError:
        return []
    fitting = [entry.name for entry in FAMILIES if entry.value.fits(names)]
    return [] if tried in fitting else fitting


def identity(model: FlowModel, protocol: str | None = None) -> dict[str, Any]:
    """What identifies a model in a configuration: conventions, weights and dtype, no path (folders may move).

    A network whose weights cannot be seen (a plain function) is identified by what it answers on fixed states; answers
    are rounded, because they may differ in the last digits between machines.

    Args:
        model: the model as it is used.
        protocol: the named sampling protocol it is used under, if any.
    """
    digest, seen = hashlib.sha256(), 0
    for name, tensor in sorted(model.net.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        seen += tensor.numel()
    if not seen:
        digest.update(_answers(model).tobytes())
    times = model.label(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)).double().tolist()
    conventions = {
        "interpolant": model.interpolant.name,
        "prediction": model.prediction,
        "sign": model.sign,
        "label": times,
        "shape": list(model.shape),
        "classes": model.classes,
        "null": model.null,
        "t_max": model.t_max,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    conventions |= _habits(model)
    under = {} if protocol is None else {"protocol": protocol}
    return {"name": model.name, "weights_sha256": digest.hexdigest(), "conventions": conventions, **under}


def _habits(model: FlowModel) -> dict[str, Any]:
    """Shift, sampling times and guidance, where they are not the plain ones."""
    found: dict[str, Any] = {} if model.shift == 1.0 else {"shift": model.shift}
    if model.t_min:
        found["t_min"] = model.t_min
    if model.times is not None:
        found["times"] = model.grid(4).tolist()
    how = model.guiding
    if how != Guiding():
        guide = identity(how.guide)["weights_sha256"] if isinstance(how.guide, FlowModel) else None
        found["guiding"] = {
            "interval": list(how.interval),
            "channels": how.channels,
            "decide": how.decide,
            "guide_sha256": guide,
        }
    return found


@torch.no_grad()
def _answers(model: FlowModel) -> np.ndarray:
    """The network's output on four fixed states, to three significant digits."""
    state = torch.from_numpy(rng.normal(0, "identity", range(4), model.shape)).to(model.device)
    t = torch.linspace(0.1, 0.9, 4, dtype=torch.float64, device=model.device)
    out = model.raw(state, t, torch.zeros(4, dtype=torch.int64, device=model.device)).double().cpu().numpy()
    scale = 10.0 ** np.floor(np.log10(np.abs(out) + 1e-30) - 2)
    return np.asarray(np.round(out / scale) * scale, dtype=np.float32)


@dataclass(frozen=True)
class DirectionTest:
    """Losses on genuine states: at the declared time, at the flipped one (label 1 - t), and of always answering zero."""

    declared: float
    flipped: float
    zero: float

    @property
    def problem(self) -> str | None:
        """What is wrong, None when the declared time has the smallest loss."""
        if self.declared < min(self.flipped, self.zero):
            return None
        return (
            f"the loss on genuine states is {self.declared:.3f} at the declared time, {self.flipped:.3f} at the flipped one and "
            f"{self.zero:.3f} for a network that always answers zero: time direction, sign, interpolant or prediction is "
            "declared wrongly, or the data are not this model's (pixels belong in [-1, 1])"
        )


@torch.no_grad()
def direction_test(model: FlowModel, data: ImageSet, n: int = 64, seed: int = 0) -> DirectionTest:
    """Is the time direction declared rightly? A model opened with the right conventions has the smallest loss at the
    declared time, on genuine states of `data`.

    Raises:
        InputError: data of another shape.
        NonFiniteError: the network returns NaN or infinity on genuine states.
    """
    data.must_have_shape(model.shape)
    rows = torch.arange(min(n, len(data)))
    clean = data.data[rows].to(model.device, torch.float64)
    noise = torch.from_numpy(rng.normal(seed, "check", rows.tolist(), model.shape)).to(clean)
    t = 0.05 + 0.9 * (rows.to(clean) + 0.5) / len(rows)
    state, cond = model.interpolant.state(noise, clean, t), conditions(model, data.labels[rows]).to(model.device)
    target = model.target(noise, clean, t)
    out = [float((model.raw(state, label, cond).to(target) - target).square().mean()) for label in (t, 1.0 - t)]
    if not all(math.isfinite(value) for value in out):
        raise NonFiniteError(f"'{model.name}' returns NaN or infinity on genuine states")
    return DirectionTest(out[0], out[1], float(target.square().mean()))
