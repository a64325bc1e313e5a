"""Weights & Biases: a run in OUT/logs/wandb, offline unless WANDB_MODE says otherwise, as no verb opens a connection.

`wandb sync OUT/logs/wandb/wandb/offline-run-*` sends it. Neither code, nor what is printed, nor the repository is recorded.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slowflow.errors import MissingExtraError
from slowflow.io import atomic
from slowflow.train.logs.base import LOGS, Log


@LOGS.register(
    "wandb",
    summary="a run of Weights & Biases in OUT/logs/wandb, offline unless WANDB_MODE says otherwise",
    source="the package wandb",
)
class WeightsAndBiases(Log):
    """One run a run folder: a resumed training goes on with it."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "logging to Weights & Biases") from error
        self._wandb: Any = wandb
        self._folder, self._name, self._settings = folder, name, dict(settings)
        self._run: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All names at once; the service ignores steps that it knows already."""
        if self._run is None:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "slowflow"),
                name=self._name,
                id=self._identity(),
                resume="allow",
                dir=str(self._folder),
                config=self._settings,
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=self._wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
            )
        self._run.log(dict(values), step=step)

    def _identity(self) -> str:
        """Made once a folder."""
        file = self._folder / "id"
        if not file.exists():
            atomic.write_text(file, secrets.token_hex(8))
        return file.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the run as far as this process goes."""
        if self._run is not None:
            self._run.finish()
