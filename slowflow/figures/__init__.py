"""Figures: one file each, `data(result) -> DataFrame` and `draw(data, axes)`. The only floor that knows matplotlib."""

from __future__ import annotations

from slowflow.figures.base import FIGURES, Figure, save

__all__ = ["FIGURES", "Figure", "save"]
