"""Bundled cards: one folder a model or feature extractor, with weights, recipe and what was measured of it.

`card.json` holds the hash of the weights; they are checked whenever they are opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from slowflow.errors import CheckpointError, InputError, did_you_mean
from slowflow.io.run import file_sha256, read_json


@dataclass(frozen=True)
class Card:
    """One bundled thing.

    Args:
        name: what it is asked for by.
        kind: `model` or `features`.
        summary: one line.
        source: where data and method come from.
        folder: where its files are.
        content: the whole card.json.
    """

    name: str
    kind: str
    summary: str
    source: str
    folder: Path
    content: dict[str, Any]

    def weights(self) -> Path:
        """Path of the weights, after checking their hash.

        Raises:
            CheckpointError: missing, or not the file the card describes.
        """
        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise CheckpointError(f"the weights of the bundled '{self.name}' are missing; reinstall slowflow")
        if file_sha256(path) != self.content["sha256"]:
            raise CheckpointError(
                f"the weights of the bundled '{self.name}' are not the ones its card describes (hash)"
            )
        return path

    @property
    def recipe(self) -> Path:
        """The recorded recipe it was trained by."""
        return self.folder / "recipe.toml"


def cards(kind: str | None = None) -> list[Card]:
    """All bundled cards, sorted by name."""
    root = Path(str(resources.files("slowflow.cards")))
    found = []
    for file in sorted(root.glob("*/card.json")):
        content = read_json(file)
        found.append(
            Card(file.parent.name, content["kind"], content["summary"], content["source"], file.parent, content)
        )
    return [card for card in found if kind in (None, card.kind)]


def card(name: str, kind: str) -> Card:
    """The bundled card called `name`.

    Raises:
        InputError: there is none; the closest name is suggested.
    """
    known = {c.name: c for c in cards(kind)}
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"no bundled {kind} '{name}'{hint} (known: {', '.join(known)})")
    return known[name]
