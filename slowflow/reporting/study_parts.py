"""What a page about studies is made of: plain sentences and tables of text, so that HTML and Markdown say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slowflow.records import Estimate
from slowflow.reporting import text
from slowflow.sweep.folder import StudyResult

DIGITS = {"fd": 1, "lag": 3}
FOLDED = 40
"""A table with more rows is folded away."""


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


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    id: str
    title: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def name(study: StudyResult) -> str:
    """What the study is called."""
    return str(study.protocol["name"])


def estimate(row: Mapping[Any, Any]) -> Estimate:
    """value, low and high of a row."""
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), 0)


def starred(row: Mapping[Any, Any], digits: int) -> str:
    """A difference; a star where its interval excludes zero."""
    found = estimate(row)
    return text.signed(found, digits) + (" *" if found.excludes(0.0) else "")
