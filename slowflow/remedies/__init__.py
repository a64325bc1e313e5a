"""Remedies: what is done about exposure bias. A training remedy decides which state, time label and target a step sees."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from slowflow.errors import InputError
from slowflow.registry import Registry
from slowflow.remedies.base import Pair, TrainingRemedy

REMEDIES: Registry[type[TrainingRemedy]] = Registry("remedy", "slowflow.remedies")

__all__ = ["REMEDIES", "Pair", "TrainingRemedy", "make"]


def make(name: str, settings: Mapping[str, Any]) -> TrainingRemedy:
    """The training remedy called `name` with these settings.

    Args:
        name: as `slowflow ls remedies` has it.
        settings: by the names of the remedy's arguments.

    Raises:
        InputError: unknown remedy, a setting it does not have, or a value out of range.
    """
    kind = REMEDIES.get(name)
    known = [f.name for f in fields(kind)]
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InputError(f"the remedy '{name}' has no setting '{key}'{hint} (it has: {', '.join(sorted(known))})")
    return kind(**settings)
