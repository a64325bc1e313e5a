"""pixels: the images themselves, flattened."""

from __future__ import annotations

from pathlib import Path

from slowflow.evaluating.features.base import FEATURES, Features, Request


class Pixels:
    """No network."""

    def fits(self, path: Path) -> bool:
        """No file is needed."""
        return False

    def open(self, asked: Request) -> Features:
        """Always the same."""
        return Features("FD-pixels")


FEATURES.register("pixels", summary="the images themselves, flattened", source="none")(Pixels())
