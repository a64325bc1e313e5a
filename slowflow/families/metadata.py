"""What SlowFlow's own files say about a model, so that nothing has to be guessed when they are opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slowflow.errors import CheckpointError
from slowflow.families.base import FAMILIES
from slowflow.flow.model import FlowModel

KINDS = {"family": str, "heads": int, "encoder_depth": int, "interpolant": str, "prediction": str, "name": str}
"""Facts a file may state, and their types."""


def describe(model: FlowModel) -> dict[str, Any]:
    """Family, name, conventions, and what the family cannot read off the shapes of its tensors."""
    if model.family == "custom":
        return {"name": model.name}
    facts = {"interpolant": model.interpolant.name, "prediction": model.prediction}
    return {"family": model.family, "name": model.name, **facts, **FAMILIES.get(model.family).remembers(model.net)}


def told(metadata: dict[str, Any], path: Path, family: str) -> dict[str, Any]:
    """What a file says about its model; empty for foreign files.

    Args:
        metadata: SlowFlow's own metadata of the file.
        path: for messages.
        family: who opens it.

    Raises:
        CheckpointError: not of the kind SlowFlow writes, or of another family.
    """
    found = metadata.get("model", {})
    if not isinstance(found, dict) or any(key in found and type(found[key]) is not kind for key, kind in KINDS.items()):
        raise CheckpointError(f"{path}: its metadata are not those of a SlowFlow model: {str(found)[:80]}")
    if found.get("family", family) != family:
        raise CheckpointError(f"{path} is a model of the family '{found['family']}', not '{family}'")
    return found
