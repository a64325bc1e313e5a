"""Room on a disk: asked for before a run begins, and told when a write fails."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from slowflow.errors import EnvironmentProblem

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota and a limit on file sizes answer when nothing more fits."""
MARGIN = 1.1
"""An estimate may be a tenth too small."""


def free(path: Path) -> int:
    """Bytes that can still be written where `path` is or will be."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def written(path: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0


def require(folder: str | Path, needed: int, what: str, *, beside: int = 0) -> None:
    """Refuse a run that will not fit; what an unfinished run has written already counts as there.

    Args:
        folder: of the run; need not exist.
        needed: bytes of the finished run, an estimate.
        what: for the message.
        beside: bytes that are needed for a while on top.

    Raises:
        EnvironmentProblem: less than that and a tenth is free.
    """
    folder = Path(folder)
    missing, room = int(needed * MARGIN) + beside - written(folder), free(folder)
    if missing > room:
        raise EnvironmentProblem(
            f"{what} needs about {missing:,} bytes in {folder}, but {room:,} are free there; make room or write elsewhere"
        )


def said(path: Path, needed: int, number: int | None) -> str:
    """Bytes needed and free, for the message of a write that failed for want of room; empty for other failures."""
    return f"; {needed:,} bytes needed, {free(path):,} free" if number in FULL else ""
