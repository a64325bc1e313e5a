"""One look for every figure: colour-blind-safe (Okabe and Ito), readable in print and from the last row."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GREY, PALE = "#222222", "#8a8a8a", "#d9d9d9"
ORANGE, BLUE, GREEN, PURPLE, SKY = "#D55E00", "#0072B2", "#009E73", "#AA4499", "#56B4E9"

KIND = {"model": ORANGE, "genuine": GREY, "exact": BLUE, "coarse": SKY}
KIND_NAME = {
    "model": "this model",
    "genuine": "genuine states",
    "exact": "a perfect model",
    "coarse": "a perfect model, same steps",
    "seen": "states of the bank",
}
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


def legend_below(axes: Axes) -> None:
    """One legend for the whole figure, under its panels, from the curves of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    paper = axes.figure
    assert isinstance(paper, Figure)
    paper.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))


def note(axes: Axes, text: str, x: float, y: float, **options: Any) -> None:
    """A quiet word inside the axes, in axes coordinates."""
    axes.text(x, y, text, transform=axes.transAxes, color=GREY, fontsize=9.5, **options)
