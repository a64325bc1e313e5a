"""Sampling remedies: what is done about exposure bias without training. Each wraps the model, or the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from slowflow.config import from_mapping
from slowflow.errors import InputError, did_you_mean
from slowflow.registry import Registry
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Findings

SAMPLING_REMEDIES: Registry[type[SamplingRemedy]] = Registry("sampling remedy", "slowflow.remedies.sampling")

__all__ = ["SAMPLING_REMEDIES", "Findings", "Fit", "SamplingRemedy", "fitted", "make", "settings_of"]


def settings_of(name: str) -> list[str]:
    """The settings that the remedy called `name` takes in plain values, sorted."""
    return sorted(f.name for f in fields(SAMPLING_REMEDIES.get(name)) if f.metadata.get("plain", True))


def make(name: str, settings: Mapping[str, Any]) -> SamplingRemedy:
    """The sampling remedy called `name` with these settings.

    Args:
        name: as `slowflow ls remedies` has it.
        settings: by the names of the remedy's arguments.

    Raises:
        InputError: unknown remedy, a setting it does not have, or a value of the wrong type or out of range.
    """
    _known(name, settings)
    plain = {key: value for key, value in settings.items() if key in settings_of(name)}
    remedy = from_mapping(SAMPLING_REMEDIES.get(name), plain, f"the remedy '{name}'")
    return remedy


def fitted(name: str, findings: Findings, settings: Mapping[str, Any] | None = None) -> Fit:
    """The sampling remedy called `name` with its constants fitted to a measurement.

    Args:
        name: as `slowflow ls remedies` has it.
        findings: what was measured.
        settings: choices that are not fitted.

    Raises:
        InputError: unknown remedy or setting, a setting that is fitted, or something that was not measured.
    """
    kind, settings = SAMPLING_REMEDIES.get(name), dict(settings or {})
    _known(name, settings)
    both = [key for key in settings if key in kind.constants]
    if both:
        raise InputError(
            f"the setting '{both[0]}' of '{name}' is what the measurement decides; drop it, or do not fit the remedy"
        )
    return kind.fitted(findings, **settings)


def _known(name: str, settings: Mapping[str, Any]) -> None:
    known = settings_of(name)
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"the remedy '{name}' has no setting '{key}'{hint} (it has: {', '.join(known)})")
