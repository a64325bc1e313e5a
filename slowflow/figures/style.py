"""One look for every figure: colour-blind-safe (Okabe and Ito), readable in print and from the last row."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GREY, QUIET, PALE = "#222222", "#8a8a8a", "#6b6b6b", "#d9d9d9"
ORANGE, BLUE, GREEN, PURPLE, SKY = "#D55E00", "#0072B2", "#009E73", "#AA4499", "#56B4E9"

KIND = {"model": ORANGE, "genuine": GREY, "exact": BLUE, "coarse": SKY, "fine": GREEN, "unguided": PURPLE}
KIND_NAME = {
    "model": "this model",
    "genuine": "genuine states",
    "exact": "a perfect model",
    "coarse": "a perfect model, same steps",
    "seen": "states of the bank",
    "fine": "this model, fine solver",
    "unguided": "this model, no guidance",
}
KIND_LINE = {"model": "-", "genuine": "-", "exact": "--", "coarse": (0, (1, 1)), "fine": "-.", "unguided": "-"}
READING = {"signal clock": PURPLE, "noise clock": GREEN}
"""Colours of readings where they share a panel; others take INK."""
ROLE = {"base": INK, "plain": BLUE, "mixflow": ORANGE, "other": GREEN}

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # names come from outside; a $ in one is a dollar
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "slowflow",
    "pdf.fonttype": 42,
}


def legend_below(axes: Axes | list[Axes], columns: int = 3) -> None:
    """One legend for the whole figure, under its panels: every label that one of them has, once."""
    panels = axes if isinstance(axes, list) else [axes]
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    paper = panels[0].figure
    assert isinstance(paper, Figure)
    paper.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(len(found), columns),
    )


def note(axes: Axes, text: str, x: float, y: float, **options: Any) -> None:
    """A quiet word inside the axes, in axes coordinates."""
    axes.text(x, y, text, transform=axes.transAxes, **{"color": QUIET, "fontsize": 9.5, **options})


def head(axes: Axes, name: str, meaning: str = "", lines: int = 0) -> None:
    """A bold name over a panel, and under it what it means, in a line or two; `lines` are kept free at least."""
    said = textwrap.wrap(meaning, 42, max_lines=2, placeholder=" …")
    room = max(lines, len(said))
    axes.set_title(name, pad=7 + 12 * room)
    for row, line in enumerate(said):
        above = (0, 5 + 12 * (room - 1 - row))
        words = axes.annotate(
            line, (0, 1), above, xycoords="axes fraction", textcoords="offset points", color=QUIET, fontsize=9.5
        )
        words.set_in_layout(False)  # the title keeps their room free; a long line must not narrow the panel


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a typographic minus."""
    rounded = round(value, digits) + 0.0  # no minus before zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")
