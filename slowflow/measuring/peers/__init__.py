"""Measures of the peers, under their own names and over their own nulls. One file each; a registry finds them."""

from __future__ import annotations

from slowflow.measuring.peers.base import MEASURES, Measure

__all__ = ["MEASURES", "Measure"]
