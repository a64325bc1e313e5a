"""Remedies: what is done about exposure bias. A training remedy decides which state, time label and target a step sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slowflow.config import from_mapping
from slowflow.errors import InputError, did_you_mean
from slowflow.registry import Registry
from slowflow.remedies.base import Pair, TrainingRemedy

REMEDIES: Registry[type[TrainingRemedy]] = Registry("remedy", "slowflow.remedies")

__all__ = ["REMEDIES", "Pair", "TrainingRemedy", "make", "name_of"]


def make(name: str, settings: Mapping[str, Any]) -> TrainingRemedy:
    """The training remedy called `name` with these settings.

    Args:
        name: as `slowflow ls remedies` has it.
        settings: by the names of the remedy's arguments; arrays may be tuples, lists or NumPy arrays.

    Raises:
        InputError: unknown remedy, a setting it does not have or lacks, or a value of another type or out of range.
    """
    kind = REMEDIES.get(name)
    known = kind.settings()
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"the remedy '{name}' has no setting '{key}'{hint} (it has: {', '.join(sorted(known))})")
    missing = [key for key in kind.needed() if key not in settings]
    if missing:
        where = f", measured as `{kind.measured}` (--run RUN on the command line)" if kind.measured else ""
        raise InputError(f"the remedy '{name}' needs {', '.join(missing)}{where}")
    return from_mapping(kind, {key: _plain(value) for key, value in settings.items()}, f"the remedy '{name}'")


def name_of(remedy: TrainingRemedy) -> str:
    """The registered name of a remedy; that of its class where it is not registered."""
    return next((entry.name for entry in REMEDIES if type(remedy) is entry.value), type(remedy).__name__)


def _plain(value: Any) -> Any:
    """Arrays and sequences as nested tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value
