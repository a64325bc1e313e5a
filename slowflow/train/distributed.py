"""The saved state of a sharded training: every rank writes its own part, in the background, and any number may read it.

    state-00000250/shard-....safetensors    a part of every tensor from each rank (torch.distributed.checkpoint)
    state.json                              which folder holds, and its step; written last: it is the commit

The parts are safetensors files, not PyTorch's own distributed format, whose metadata is a pickle: nothing in a run folder
from a stranger is unpickled. While parts are written training goes on; the old state is removed when the new one is named.
"""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowflow.errors import CheckpointError, EnvironmentProblem
from slowflow.io import atomic, ranks
from slowflow.io.run import read_json


class ShardedFile:
    """The states of one training; this process's view of them.

    Args:
        place: the file that names the last whole state; the parts lie beside it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._group: Any = None
        self._pending: tuple[int, Future[Any]] | None = None

    @property
    def step(self) -> int | None:
        """Step of the last whole state, None when there is none."""
        if not self.place.exists():
            return None
        told = read_json(self.place)
        if not isinstance(told, dict) or type(told.get("step")) is not int or told["step"] < 0:
            raise CheckpointError(f"{self.place} does not name a saved state")
        return int(told["step"])

    def folder(self, step: int) -> Path:
        """Where the parts of a step lie."""
        return self.place.parent / f"{self.place.stem}-{step:08d}"

    def save(self, tensors: dict[str, Tensor], step: int, *, wait: bool) -> None:
        """Copy this rank's parts aside and write them in the background; every rank must call it.

        Args:
            tensors: by name; DTensors are written in parts.
            step: of the training.
            wait: until the state is whole.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.settle(wait=True)
        if self.step == step:
            return
        if self._group is None:
            # of its own: the background writes at any moment, and messages of two uses of one group would cross
            self._group = torch.distributed.new_group(backend="gloo")
        here = ranks.current()
        if here.leads:
            self._clear(keep=self.step)
        here.meet()
        writer = HuggingFaceStorageWriter(str(self.folder(step)), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = async_save(tensors, storage_writer=writer, process_group=self._group)
        self._pending = (step, found if isinstance(found, Future) else found.upload_completion)
        self.settle(wait=wait)

    def settle(self, *, wait: bool) -> None:
        """Name the state once it is whole.

        Raises:
            EnvironmentProblem: a part could not be written; the state before it still holds.
        """
        if self._pending is None or not (wait or self._pending[1].done()):
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except Exception as error:
            raise EnvironmentProblem(
                f"cannot write {self.folder(step)}: {_reason(error)}; the state before it holds"
            ) from error
        if ranks.current().leads:  # its background returns when every rank has written
            atomic.write_json(self.place, {"step": step})
            self._clear(keep=step)

    def _clear(self, keep: int | None) -> None:
        kept = None if keep is None else self.folder(keep)
        for folder in self.place.parent.glob(f"{self.place.stem}-*"):
            if folder.is_dir() and folder != kept:
                shutil.rmtree(folder)

    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every tensor in the last whole state.

        Raises:
            CheckpointError: parts are damaged or missing.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        folder = self.folder(self.step or 0)
        try:
            told = HuggingFaceStorageReader(str(folder)).read_metadata()
        except Exception as error:  # a damaged part fails in a dozen ways
            raise CheckpointError(f"{folder} cannot be read: {_reason(error)}; it is damaged or incomplete") from error
        return {name: torch.Size(getattr(one, "size", ())) for name, one in told.state_dict_metadata.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Fill tensors, whole ones and DTensors of any layout, from the last whole state.

        Raises:
            CheckpointError: parts are damaged or missing, or a value is not finite.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        folder = self.folder(self.step or 0)
        joined = torch.distributed.is_initialized()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not joined)
        except Exception as error:
            raise CheckpointError(f"{folder} cannot be read: {_reason(error)}; it is damaged or incomplete") from error
        for name, tensor in tensors.items():
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            if local.is_floating_point() and not bool(torch.isfinite(local).all()):
                raise CheckpointError(f"{folder}: '{name}' holds NaN or infinite values")


def _reason(error: BaseException) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
