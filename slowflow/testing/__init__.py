"""Public contracts: what anything that is added to SlowFlow must keep, as functions that other people's tests can call.

    from slowflow.testing import check_interpolant, check_model, check_sampler
    from slowflow.testing import check_sampling_remedy, check_training_remedy
    check_training_remedy(MyRemedy(strength=0.3), model)

A check returns nothing and raises AssertionError with one sentence. Naming a check costs nothing: its file, and torch, are
imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowflow.testing.interpolant import check_interpolant as check_interpolant
    from slowflow.testing.model import check_model as check_model
    from slowflow.testing.sampler import check_sampler as check_sampler
    from slowflow.testing.sampling_remedy import check_sampling_remedy as check_sampling_remedy
    from slowflow.testing.training_remedy import check_training_remedy as check_training_remedy

_CHECKS = ("interpolant", "model", "sampler", "sampling_remedy", "training_remedy")
__all__ = [f"check_{name}" for name in _CHECKS]


def __getattr__(name: str) -> Any:
    part = name.removeprefix("check_")
    if name == part or part not in _CHECKS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{part}"), name)
