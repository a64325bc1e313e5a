"""custom: a model made by the user's own Python function, `package.module:function`.

The function is code and is run: never point this at a file from a stranger. It is called with the MODEL path when one
is given, else with nothing, and returns a FlowModel (see `FlowModel.from_callable`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, Opened, OpenOptions
from slowflow.flow.model import FlowModel
from slowflow.io.run import file_sha256


class CustomFamily:
    """Calls the user's factory."""

    def fits(self, names: set[str]) -> bool:
        """Never guessed."""
        return False

    def open(self, path: Path | None, options: OpenOptions) -> Opened:
        """Import the module, call the function, check what it returned."""
        if not options.factory or ":" not in options.factory:
            raise InputError(f"the family 'custom' needs --factory package.module:function, got {options.factory!r}")
        module_name, _, function_name = options.factory.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except ImportError as error:
            raise InputError(f"--factory: cannot import '{module_name}': {error}") from error
        except AttributeError as error:
            raise InputError(f"--factory: '{module_name}' has no function '{function_name}'") from error
        if path is not None and not path.exists():
            raise CheckpointError(f"no such checkpoint: {path}")
        try:
            model = function() if path is None else function(str(path))
        except Exception as error:
            raise InputError(f"--factory: {options.factory} raised {type(error).__name__}: {error}") from error
        if not isinstance(model, FlowModel):
            raise InputError(
                f"--factory: {options.factory} returned {type(model).__name__}, expected a slowflow.FlowModel"
            )
        sha = file_sha256(path) if path is not None and path.is_file() else None
        settings = {"factory": options.factory, "interpolant": model.interpolant.name, "prediction": model.prediction}
        return Opened(model, None if path is None else str(path), sha, "factory", settings)

    def remembers(self, net: Any) -> dict[str, Any]:
        """Nothing: the factory knows."""
        return {}

    def official(self, model: FlowModel) -> dict[str, Any]:
        """Refused: a factory's model has no published layout."""
        raise InputError(f"'{model.name}' comes from a factory, which has no official layout to be exported to")


FAMILIES.register("custom", summary="your own factory function, package.module:function", source="your code")(
    CustomFamily()
)
