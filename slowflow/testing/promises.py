"""How a broken promise is told."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-9
"""Of sums that must be equal but for rounding in float64."""


def require(kept: bool, promise: str) -> None:
    """Raise AssertionError with the promise unless it was kept."""
    if not kept:
        raise AssertionError(f"broken promise: {promise}")


def require_close(found: Tensor, expected: Tensor, promise: str, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError unless the largest difference is below `tolerance` of the largest value (and of 1)."""
    require(bool((found - expected).abs().max() <= tolerance * (1.0 + float(expected.abs().max()))), promise)
