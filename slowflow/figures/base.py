"""What a figure is, and how it becomes a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from slowflow.errors import InputError
from slowflow.figures.style import STYLE
from slowflow.io import atomic
from slowflow.registry import Registry
from slowflow.results import RunResult

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Panels:
    """How many panels a table needs, and how they stand on paper.

    Args:
        count: panels, in reading order.
        width, height: of one, in inches.
        columns: most panels in a row; the rows come out as even as they can.
        heights: relative heights of the rows; all alike when empty.
        stretch: the last panel takes what is left of its row.
    """

    count: int
    width: float
    height: float
    columns: int = 4
    heights: tuple[float, ...] = ()
    stretch: bool = False

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return -(-self.count // self.columns)

    @property
    def across(self) -> int:
        """Panels in a full row."""
        return -(-self.count // self.rows)

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of the paper."""
        return self.width * self.across, self.height * self.rows


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        title: said above it.
        caption: how to read it, two or three sentences.
        data: everything it shows, as a table; raises InputError when the result lacks it.
        draw: paints the table on axes.
        panels: how many axes the table needs, their size, and how they stand.
        alt: one sentence for those who cannot see it, made from the table.
    """

    title: str
    caption: str
    data: Callable[[RunResult], pd.DataFrame]
    draw: Callable[[pd.DataFrame, list[Axes]], None]
    panels: Callable[[pd.DataFrame], Panels]
    alt: Callable[[pd.DataFrame], str]
    arms: bool = False
    """True when every arm is drawn, False when only the first measured one is."""


FIGURES: Registry[Figure] = Registry("figure", "slowflow.figures")


def canvas(figure: Figure, table: pd.DataFrame) -> Canvas:
    """Draw a figure's table on a fresh canvas (no global state, no window)."""
    with matplotlib.rc_context(STYLE):
        panels = figure.panels(table)
        # rows need air between them: a heading must not read as the label of the axis above it
        layout = ConstrainedLayoutEngine(h_pad=0.11 if panels.rows > 1 else 0.04)
        paper = Canvas(figsize=panels.inches, layout=layout)
        grid = paper.add_gridspec(panels.rows, panels.across, height_ratios=panels.heights or None)
        places = [divmod(k, panels.across) for k in range(panels.count)]
        cells = [grid[row, column] for row, column in places]
        if panels.stretch:
            row, column = places[-1]
            cells[-1] = grid[row, column:]
        figure.draw(table, [paper.add_subplot(cell) for cell in cells])
        return paper


def rendered(figure: Figure, table: pd.DataFrame, suffix: str) -> bytes:
    """The figure in one of FORMATS; the same table gives the same bytes."""
    if suffix not in FORMATS:
        raise InputError(f"'.{suffix}' is not a figure format (known: {', '.join(FORMATS)})")
    paper, buffer = canvas(figure, table), io.BytesIO()
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[suffix]
    with matplotlib.rc_context(STYLE):
        paper.savefig(buffer, format=suffix, dpi=160, metadata=dated)
    return buffer.getvalue()


def save(figure: Figure, result: RunResult, path: str | Path) -> Path:
    """Write the figure of a result, and its table as CSV beside it; the suffix of `path` decides the format."""
    return write(figure, figure.data(result), path)


def write(figure: Figure, table: pd.DataFrame, path: str | Path) -> Path:
    """Write the figure of a table, and the table as CSV beside it.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    path = Path(path)
    atomic.write_bytes(path, rendered(figure, table, path.suffix.lstrip(".").lower()))
    columns = [c for c in table.columns if table[c].map(np.isscalar).all()]
    safe = table[columns].map(lambda cell: f"'{cell}" if str(cell)[:1] in "=+@" and isinstance(cell, str) else cell)
    atomic.write_text(path.with_name(path.name + ".csv"), safe.to_csv(index=False))
    return path
