"""What a family provides, and the options that a checkpoint file cannot answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from slowflow.flow.model import FlowModel
from slowflow.registry import Registry


@dataclass(frozen=True)
class OpenOptions:
    """Answers only the user has; None leaves the family's preset or the file's own metadata in charge.

    Args:
        interpolant: linear, gvp or vp.
        prediction: velocity, noise, data, score or v.
        heads: attention heads, where the width does not tell.
        factory: `package.module:function` for the custom family.
    """

    interpolant: str | None = None
    prediction: str | None = None
    heads: int | None = None
    factory: str | None = None


@dataclass(frozen=True)
class Opened:
    """A model and what was found out while opening it.

    Args:
        model: ready to sample.
        path: the file, None for a factory without one.
        sha256: of the file.
        part: which part of the file was taken: ema, model, flat.
        settings: the network's shape and conventions in plain values.
        notes: things a person should know, one sentence each.
    """

    model: FlowModel
    path: str | None
    sha256: str | None
    part: str
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


class Family(Protocol):
    """Opens checkpoints of one kind and writes them back."""

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Open the file; raises CheckpointError with what was found and expected."""
        ...

    def fits(self, names: set[str]) -> bool:
        """True when a file with these tensor names could belong to this family."""
        ...

    def remembers(self, net: Any) -> dict[str, Any]:
        """What SlowFlow's own files must record about this network, because its tensors do not tell."""
        ...

    def official(self, model: FlowModel) -> dict[str, Any]:
        """The content of a file in the layout of the family's authors, for `torch.save`; tensors as they are.

        Raises:
            InputError: the family has no such layout.
        """
        ...


FAMILIES: Registry[Family] = Registry("family", "slowflow.families")
