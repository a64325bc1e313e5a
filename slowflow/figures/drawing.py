"""A figure with its numbers, as a notebook shows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slowflow.figures.base import Figure, rendered, write


class Drawing:
    """One figure of finished runs. A notebook shows it; `table` holds every number in it."""

    def __init__(self, figure: Figure, table: pd.DataFrame) -> None:
        self.table = table
        self.alt: str = figure.alt(table)
        self.caption = figure.caption
        self._figure = figure

    def save(self, path: str | Path) -> Path:
        """Write it as .png, .svg or .pdf, with its table as CSV beside it."""
        return write(self._figure, self.table, path)

    def _repr_png_(self) -> bytes:
        return rendered(self._figure, self.table, "png")

    def __repr__(self) -> str:
        return self.alt
