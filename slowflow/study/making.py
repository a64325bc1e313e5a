"""The remedies of an arm, made: from their settings, or from what was measured of the base (`measured = true`).

A training remedy decides what a step sees and is made by `slowflow.remedies.make`; a sampling remedy wraps the model or the
sampler and is made by `slowflow.remedies.sampling.make`. No name of a remedy stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.fitting import findings
from slowflow.flow.model import FlowModel
from slowflow.measuring import training_law
from slowflow.measuring.measurement import Measurement
from slowflow.remedies import REMEDIES, TrainingRemedy, make
from slowflow.remedies import sampling as correcting

Part = Mapping[str, Any]
OURS = ("remedy", "sampler", "measured")
"""Keys of a part that are no settings of its remedy."""


def wants_measurement(part: Part | None) -> bool:
    """True when its constants come from the measurement of the base."""
    return bool((part or {}).get("measured", False))


def check(train: Part | None, sample: Part | None) -> None:
    """Refuse what cannot be made, before anything is run.

    Raises:
        InputError: unknown remedy or setting, or a value out of range.
    """
    for part in (train, sample):
        if part is not None and type(part.get("measured", False)) is not bool:
            raise InputError(f"'measured' is {part['measured']!r}, expected true or false")
    if train is not None and wants_measurement(train):
        REMEDIES.get(str(train["remedy"]))
    elif train is not None:
        made(train)
    if sample is None or "remedy" not in sample:
        if sample is not None and settings(sample):
            raise InputError(f"'{next(iter(settings(sample)))}' is the setting of a sampling remedy, and none is named")
        return
    if wants_measurement(sample):
        correcting.SAMPLING_REMEDIES.get(sample["remedy"])
    else:
        correcting.make(sample["remedy"], settings(sample))


def made(part: Part) -> TrainingRemedy:
    """The training remedy of a part that names all its settings."""
    return make(part["remedy"], settings(part))


def training(part: Part | None, measured: Measurement | None) -> TrainingRemedy | None:
    """The training remedy of an arm; None for one that is not trained.

    Args:
        part: `remedy`, its settings, and `measured`.
        measured: of the base; needed where `measured` is true.
    """
    if part is None:
        return None
    if not wants_measurement(part):
        return made(part)
    return training_law.remedy(part["remedy"], measured, **settings(part))


def sampling(part: Part | None, measured: Measurement | None, base: FlowModel, data: ImageSet) -> Any:
    """What corrects sampling; None for an arm that only names a sampler, or nothing.

    Args:
        part: `remedy`, its settings, `measured`, `sampler`.
        measured: of the base, of whose constants it is fitted where `measured` is true.
        base, data: what was measured.
    """
    if part is None or "remedy" not in part:
        return None
    if not wants_measurement(part):
        return correcting.make(part["remedy"], settings(part))
    if measured is None:
        raise InputError(
            f"the constants of '{part['remedy']}' are fitted from a measurement, and the base was not measured"
        )
    return correcting.fitted(part["remedy"], findings(measured, base, data), settings(part)).remedy


def settings(part: Part) -> dict[str, Any]:
    """Settings of the remedy itself; lists as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in part.items() if key not in OURS}
