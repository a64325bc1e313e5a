"""References: which ground truth a state is compared with. One file each; a registry finds them."""

from __future__ import annotations

from slowflow.measuring.references.base import (
    REFERENCES,
    Assigned,
    ClockReference,
    Reference,
    Start,
    Trajectories,
)

__all__ = ["REFERENCES", "Assigned", "ClockReference", "Reference", "Start", "Trajectories"]
