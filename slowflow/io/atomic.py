"""Atomic writes: a file under its final name is always complete.

Write aside in the same folder, sync, rename, sync the folder. `after_durable` is called after each, so that a test can
stop the process after the n-th one and check that the same command finishes the run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from slowflow.errors import EnvironmentProblem
from slowflow.io import space

after_durable: Callable[[Path], None] | None = None
"""Called after each completed write with its path; only crash tests set it."""


def write_with(path: str | Path, write: Callable[[BinaryIO], None], size: int) -> None:
    """Let `write` fill a file so that `path` holds either the old one or the whole new one.

    Args:
        path: the final name.
        write: called with the open file.
        size: bytes it will take, for messages.

    Raises:
        EnvironmentProblem: no space, no permission; nothing is left under the final name.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {path} ({size:,} bytes): {error.strerror or error}{space.said(path, size, error.errno)}"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    if after_durable is not None:
        after_durable(path)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old file or the whole new one.

    Raises:
        EnvironmentProblem: no space, no permission; nothing is left under the final name.
    """

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_with(path, write, len(content))


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """`write_bytes` of JSON: sorted keys, two spaces, NaN refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened for syncing there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
