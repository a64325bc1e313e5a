"""Published constants, by name. They are data: presets.toml beside this file, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from slowflow.config import read_toml
from slowflow.errors import InputError, did_you_mean

FILE = Path(__file__).with_name("presets.toml")


@dataclass(frozen=True)
class Preset:
    """Published settings of one remedy.

    Args:
        remedy: whose settings. name: of the preset. settings: by name. source: where they were published.
        note: what they were published for.
    """

    remedy: str
    name: str
    settings: dict[str, Any]
    source: str
    note: str


@cache
def presets() -> tuple[Preset, ...]:
    """All of them, in the order of the file."""
    found = []
    for remedy, group in read_toml(FILE).items():
        for name, entry in group["presets"].items():
            settings = {key: value for key, value in entry.items() if key != "note"}
            found.append(Preset(remedy, name, settings, entry.get("source", group["source"]), entry["note"]))
    return tuple(found)


def preset(remedy: str, name: str) -> Preset:
    """The preset of a remedy called `name`.

    Raises:
        InputError: the remedy has no such preset; the known ones are named.
    """
    known = {one.name: one for one in presets() if one.remedy == remedy}
    if name in known:
        return known[name]
    if not known:
        raise InputError(f"the remedy '{remedy}' has no presets; its constants come from --set or --fit-from")
    hint = did_you_mean(name, known)
    raise InputError(f"the remedy '{remedy}' has no preset '{name}'{hint} (known: {', '.join(known)})")
