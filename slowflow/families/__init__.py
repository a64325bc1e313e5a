"""Model families: code that opens one kind of checkpoint and puts it into canonical time. One folder or module each."""

from __future__ import annotations

from slowflow.families.base import FAMILIES, Family, Opened

__all__ = ["FAMILIES", "Family", "Opened"]
