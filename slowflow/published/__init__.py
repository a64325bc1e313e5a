"""Published numbers of MixFlow, of the models it is tried on and of other remedies, with what is known of how they were made.

Each table says where it was read and how surely: `stated` by its authors, `read` off an image by eye, or `secondary`, a
summary by others. A setting that a table does not state is left out, and is said to be not stated, never guessed.
`beside` finds the rows that an evaluation may be put beside, and says in what the two protocols differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from slowflow.config import read_toml
from slowflow.errors import InputError

CERTAINTIES = ("stated", "read", "secondary")
COMPARED = ("n", "sampler", "steps", "nfe", "guidance", "labels")
"""Settings that are compared, in the order in which they are said."""


@dataclass(frozen=True)
class Table:
    """Where some rows come from.

    Args:
        name, title, source: of the table.
        certainty: stated, read or secondary.
        note: what whoever quotes it must know.
    """

    name: str
    title: str
    source: str
    certainty: str
    note: str


@dataclass(frozen=True)
class Row:
    """One published result.

    Args:
        table: it stands in.
        model, data: what was sampled, and the data set with its resolution.
        method: what was done to the model; empty for the model as it is.
        features: FID, or none where the metrics are no distances of features.
        metrics: by SlowFlow's names (fd, sfd, is, precision, recall) where they are SlowFlow's.
        protocol: settings that are stated. Guidance 1 is none, `some` a scale that is not told.
    """

    table: Table
    model: str
    data: str
    metrics: dict[str, float]
    method: str = ""
    features: str = "FID"
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Table, model, data and method in a line."""
        return f"{self.table.name}: {self.model}{f' + {self.method}' if self.method else ''}, {self.data}"

    @property
    def settings(self) -> str:
        """What is stated of the protocol, in a line."""
        said = {"guidance": {1.0: "no guidance", "some": "guided"}}
        parts = [
            str(said.get(key, {}).get(self.protocol[key], f"{key} {self.protocol[key]}"))
            for key in COMPARED
            if key in self.protocol
        ]
        return ", ".join(parts)

    def differences(self, protocol: Mapping[str, Any]) -> list[str]:
        """In what an evaluation's protocol differs from this row's, a phrase each; what is not stated is a difference."""
        found = []
        for key in COMPARED:
            mine, theirs = protocol.get(key), self.protocol.get(key)
            if theirs is None:
                continue
            if not _alike(key, mine, theirs):
                found.append(f"{key}: {_said(theirs)} there, {_said(mine)} here")
        unsaid = [key for key in COMPARED if key not in self.protocol]
        return [*found, *([f"not stated there: {', '.join(unsaid)}"] if unsaid else [])]


@dataclass(frozen=True)
class Beside:
    """A row that a number may be put beside, and in what their protocols differ."""

    row: Row
    differences: list[str]


def _alike(key: str, mine: Any, theirs: Any) -> bool:
    if key == "guidance" and theirs == "some":
        return mine not in (None, 1.0)
    if key == "labels":
        return str(mine).startswith(str(theirs))
    return bool(mine == theirs)


def _said(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "some" if value == "some" else str(value).split(":")[0]


@cache
def rows() -> tuple[Row, ...]:
    """Every published row.

    Raises:
        InputError: a data file is not what it should be; the message names the table.
    """
    folder = resources.files("slowflow.published")
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    found: list[Row] = []
    for name in files:
        for content in read_toml(str(folder / name))["table"]:
            found += _rows(content)
    return tuple(found)


def _rows(content: dict[str, Any]) -> list[Row]:
    table = Table(*(str(content[key]) for key in ("name", "title", "source", "certainty", "note")))
    if table.certainty not in CERTAINTIES:
        raise InputError(f"the table '{table.name}' is '{table.certainty}', expected one of {', '.join(CERTAINTIES)}")
    found = []
    for one in content["rows"]:
        merged = {**content["protocol"], **one}
        named = {key: merged.pop(key) for key in ("model", "data", "metrics")}
        named |= {key: merged.pop(key) for key in ("method", "features") if key in merged}
        unknown = sorted(merged.keys() - set(COMPARED))
        if unknown:
            raise InputError(f"a row of the table '{table.name}' has the unknown setting '{unknown[0]}'")
        found.append(Row(table, **named, protocol=merged))
    return found


def beside(protocol: Mapping[str, Any], limit: int = 3, model: str | None = None) -> list[Beside]:
    """The published rows nearest to an evaluation's protocol, nearest first; none where no table is about such numbers.

    A row applies when it is about the same features (FID is FID alone), the same data at the same resolution, and a
    model of the same name and size. Names are compared by their letters and digits: `SiT-XL-2-256` is `SiT-XL/2`.

    Args:
        protocol: of `Evaluation.protocol`.
        limit: how many at most.
        model: the published model that is meant, where the checkpoint's name does not tell.

    Raises:
        InputError: no published model of that name.
    """
    features = protocol["features"]["name"]
    must_be_known(model)
    reference = _plain(protocol["reference"]["name"])
    mine = _plain(model or protocol["model"].get("name", ""))
    fitting = [
        row
        for row in rows()
        if row.features == features and _plain(row.data) in reference and mine.startswith(_plain(row.model))
    ]
    found = sorted(fitting, key=lambda row: _distance(row, protocol))
    return [Beside(row, row.differences(protocol)) for row in found[:limit]]


def must_be_known(model: str | None) -> None:
    """Refuse the name of a model that no table is about.

    Raises:
        InputError: no published model of that name.
    """
    known = sorted({row.model for row in rows()})
    if model is not None and _plain(model) not in {_plain(name) for name in known}:
        raise InputError(f"no published model '{model}' (known: {', '.join(known)})")


def _distance(row: Row, protocol: Mapping[str, Any]) -> tuple[bool, int, float]:
    """Guided and unguided apart first, as they are numbers of different kinds; then settings, then the effort of a sample."""
    alike = {key: _alike(key, protocol.get(key), theirs) for key, theirs in row.protocol.items()}
    agreed = sum(same and row.protocol[key] != "some" for key, same in alike.items())
    stated = row.protocol.get("nfe", row.protocol.get("steps"))
    mine = max(int(protocol.get("nfe") or 0), 1)
    effort = abs(math.log(stated / mine)) if stated else math.inf
    return not alike.get("guidance", True), len(alike) - 2 * agreed, effort


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
