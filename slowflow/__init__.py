"""SlowFlow: measure and correct exposure bias (Slow Flow) in diffusion and flow-matching image models.

Importing this package is cheap: torch and the rest are loaded with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Comparison": "slowflow.comparison",
    "Estimate": "slowflow.records",
    "Evaluation": "slowflow.evaluating.evaluation",
    "FlowModel": "slowflow.flow.model",
    "GammaFit": "slowflow.records",
    "ImageSet": "slowflow.data.images",
    "Measurement": "slowflow.measuring.measurement",
    "MixFlow": "slowflow.remedies.mixflow",
    "Plain": "slowflow.remedies.plain",
    "Probe": "slowflow.records",
    "SlowFlowError": "slowflow.errors",
    "compare": "slowflow.comparison",
    "evaluate": "slowflow.api",
    "fit_remedy": "slowflow.api",
    "joined": "slowflow.io.launch",
    "load": "slowflow.api",
    "measure": "slowflow.api",
    "open_data": "slowflow.data.open",
    "plot": "slowflow.api",
    "post_train": "slowflow.api",
    "protocol": "slowflow.protocols",
    "remedy": "slowflow.api",
    "report": "slowflow.api",
    "sample": "slowflow.api",
    "sampling_remedy": "slowflow.api",
    "suggest": "slowflow.api",
}
__all__ = sorted([*_EXPORTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'slowflow' has no attribute '{name}'")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
