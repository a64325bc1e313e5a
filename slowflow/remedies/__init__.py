"""Remedies: what is done about exposure bias. A training remedy decides which state, time label and target a step sees."""

from __future__ import annotations

from slowflow.registry import Registry
from slowflow.remedies.base import Pair, TrainingRemedy

REMEDIES: Registry[type[TrainingRemedy]] = Registry("remedy", "slowflow.remedies")

__all__ = ["REMEDIES", "Pair", "TrainingRemedy"]
