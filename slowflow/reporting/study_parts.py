"""What a page about studies is made of: plain sentences and tables of text, so that HTML and Markdown say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slowflow.measuring.measurement import Measurement
from slowflow.records import Estimate
from slowflow.reporting import text
from slowflow.sweep.folder import StudyResult

DIGITS = {"fd": 1, "lag": 3}
FOLDED = 20
"""A table with more rows is folded away."""
REPEATED = ("study", "length", "control", "training calls", "seeds", "metric")
"""Columns that are left out of a table where they say the same in every row."""


@dataclass(frozen=True)
class Table:
    """A table with its caption; cells are text."""

    heads: list[str]
    rows: list[list[str]]
    caption: str = ""

    @property
    def long(self) -> bool:
        """True when it is folded away."""
        return len(self.rows) > FOLDED

    def said_once(self) -> Table:
        """Without the columns of REPEATED that hold one value in all of several rows; the caption says it instead."""
        if len(self.rows) < 2:
            return self
        same = {k: self.rows[0][k] for k, head in enumerate(self.heads) if head in REPEATED and _one(self.rows, k)}
        if not same:
            return self
        kept = [k for k in range(len(self.heads)) if k not in same]
        said = "All rows: " + ", ".join(f"{self.heads[k]} {value}" for k, value in same.items()) + "."
        return Table(
            [self.heads[k] for k in kept],
            [[row[k] for k in kept] for row in self.rows],
            f"{self.caption} {said}".strip(),
        )


def _one(rows: list[list[str]], column: int) -> bool:
    return len({row[column] for row in rows}) == 1


@dataclass(frozen=True)
class Part:
    """A section of the page; its headlines stand at the top of the page."""

    id: str
    title: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    headlines: list[str] = field(default_factory=list)


def name(study: StudyResult) -> str:
    """What the study is called."""
    return str(study.protocol["name"])


def base_measured(study: StudyResult) -> Measurement | None:
    """The measurement of the base; None where the study made none so far."""
    folder = study.path / "measure-base"
    return Measurement.load(folder) if (folder / "manifest.json").exists() else None


def estimate(row: Mapping[Any, Any]) -> Estimate:
    """value, low and high of a row."""
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), 0)


def starred(row: Mapping[Any, Any], digits: int) -> str:
    """A difference; a star where its interval excludes zero."""
    found = estimate(row)
    return text.signed(found, digits) + (" *" if found.excludes(0.0) else "")
