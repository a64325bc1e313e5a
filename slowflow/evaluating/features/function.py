"""function: any `package.module:function` of the user's. It is code and is run: never point this at a stranger's file.

It is called with float32 images [n, c, h, w] in [-1, 1] on the chosen device and returns features [n, k], or a mapping
with `features` and, if it likes, `spatial` [n, s] and `probabilities` [n, classes].
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.evaluating.features.base import FEATURES, Features, Outputs, Request


class Function:
    """Calls the user's function."""

    def fits(self, path: Path) -> bool:
        """Never guessed: running a file's code must be asked for."""
        return False

    def open(self, asked: Request) -> Features:
        """Import the module and find the function; its hash is that of the module's source."""
        module_name, _, name = asked.text.partition(":")
        try:
            module = importlib.import_module(module_name)
            function = getattr(module, name)
        except ImportError as error:
            raise InputError(f"--features: cannot import '{module_name}': {error}") from error
        except AttributeError as error:
            raise InputError(f"--features: '{module_name}' has no function '{name}'") from error

        def outputs(images: Tensor) -> Outputs:
            return _checked(function, images, asked.text)

        note = "features by code of the user's own; the hash is of the module that holds it, not of what it calls"
        return Features(f"FD-{name}", _source_hash(module, asked), outputs, device=asked.device, note=note)


def _source_hash(module: Any, asked: Request) -> str | None:
    """SHA-256 of the module's source file; None for one that has none.

    Raises:
        InputError: another hash was asked for.
    """
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return None
    found = hashlib.sha256(source.encode()).hexdigest()
    if asked.sha256 not in (None, found):
        raise InputError(
            f"the module of {asked.text} has SHA-256 {found}, not {asked.sha256}; it is not the one you mean"
        )
    return found


def _checked(function: Callable[[Tensor], Any], images: Tensor, name: str) -> Outputs:
    found = function(images)
    found = found if isinstance(found, Mapping) else {"features": found}
    values: dict[str, Tensor] = {}
    for key in ("features", "spatial", "probabilities"):
        value = found.get(key)
        if value is None and key != "features":
            continue
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or len(value) != len(images):
            raise InputError(f"'{key}' of {name} is {shape}, expected a tensor ({len(images)}, width)")
        values[key] = value
    return Outputs(**values)


FEATURES.register("function", summary="package.module:function; it is code and is run", source="your code")(Function())
