"""Readings on paper: what a panel is headed, which scale it has, and where a reading is not used."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes

from slowflow.figures.style import INK, head, note
from slowflow.measuring.references import REFERENCES

CLOCKS = {
    "signal clock": "how much data is in the states",
    "noise clock": "how much noise is in the states",
}
SCALES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def meaning(reading: str) -> str:
    """What states are compared with, in half a line."""
    summaries = {entry.name: entry.summary for entry in REFERENCES}
    return CLOCKS.get(reading) or summaries.get(reading, "").split(";")[0]


def headed(panel: Axes, reading: str, lines: int = 2) -> None:
    """The name of a reading over its panel, and what it means under the name."""
    head(panel, reading, meaning(reading), lines)


def scale(values: Iterable[float]) -> float:
    """The least of a few round scales that holds all values, so that panels of one scale can be compared."""
    reach = 1.05 * max(map(abs, values), default=0.0)
    return next((s for s in SCALES if s >= reach), reach)


def signed_scale(panel: Axes, values: Iterable[float], *, above: str, below: str) -> None:
    """Zero in the middle, a round scale, and a word at each side of zero."""
    reach = scale(values)
    panel.axhline(0.0, color=INK, linewidth=1.0)
    panel.set(xlim=(0, 1), ylim=(-reach, reach))
    note(panel, above, 0.98, 0.97, ha="right", va="top")
    note(panel, below, 0.98, 0.03, ha="right", va="bottom")


def shade_unused(panel: Axes, t: np.ndarray, used: np.ndarray) -> None:
    """The times that enter no gamma: near the noise, or blind."""
    edges = np.concatenate([[0.0], (t[1:] + t[:-1]) / 2.0, [1.0]])
    for k in np.flatnonzero(~used & (t < 1.0)):
        panel.axvspan(edges[k], edges[k + 1], color="#f2f2f2", linewidth=0, zorder=0)
