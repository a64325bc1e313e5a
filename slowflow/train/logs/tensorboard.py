"""TensorBoard: event files in OUT/logs/tensorboard, for `tensorboard --logdir`. Their names hold the machine's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slowflow.errors import MissingExtraError
from slowflow.train.logs.base import LOGS, Log


@LOGS.register(
    "tensorboard",
    summary="event files in OUT/logs/tensorboard",
    source="torch.utils.tensorboard (PyTorch), TensorBoard 2",
)
class TensorBoard(Log):
    """Scalars, and the settings as a text."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "logging to TensorBoard") from error
        self._make, self._folder = SummaryWriter, folder
        self._settings = f"    {name}: {json.dumps(dict(settings), sort_keys=True)}"  # indented: text, not Markdown
        self._writer: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        if self._writer is None:
            # entries of this step and later ones are from before the run was cut
            self._writer = self._make(str(self._folder), purge_step=step, flush_secs=30)
            self._writer.add_text("settings", self._settings, step)
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Write what is waiting."""
        if self._writer is not None:
            self._writer.close()
