"""Named image sets, one module each; every one arrives inside a package and needs no download."""

from __future__ import annotations

from collections.abc import Callable

from slowflow.data.images import ImageSet
from slowflow.registry import Registry

SETS: Registry[Callable[[], ImageSet]] = Registry("data set", "slowflow.data.sets")
