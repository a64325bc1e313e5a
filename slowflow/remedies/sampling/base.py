"""The interface of a sampling remedy: two halves of sampling, of which it wraps one.

    around(model)          what is asked: a wrapper of the model
    solver(method, steps)  what moves the state between two times: a wrapper of the sampler, or another one

The other half stays as it is. At strength 0 both are: the very same objects come back, so that nothing can differ.
Neither half knows of the other and no sampler has a flag, so every remedy works with every sampler that `check` lets
pass, and with networks, guided models and exact fields alike. It works alone:

    corrected = EpsilonScaling(constant=1.005).around(model)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from slowflow.config import canonical
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.records import Estimate
from slowflow.remedies.sampling.findings import Findings


@dataclass(frozen=True)
class Fit:
    """A remedy whose constants come from a measurement.

    Args:
        remedy: at strength 0 where the measurement does not call for it.
        called_for: whether it does.
        reason: one sentence.
        estimates: the fitted constants with their intervals.
    """

    remedy: SamplingRemedy
    called_for: bool
    reason: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingRemedy(ABC):
    """What is done while sampling. A setting marked `plain=False` in its metadata is data, which a name stands for.

    name: as registered. constants: settings that `fitted` decides. equal_calls: whether the number of network calls is
    promised to stay what it is without the remedy.
    """

    name: ClassVar[str]
    constants: ClassVar[tuple[str, ...]] = ()

    @property
    def equal_calls(self) -> bool:
        """True when sampling costs as many network calls as without it, which is then checked."""
        return False

    @property
    @abstractmethod
    def active(self) -> bool:
        """False at strength 0."""

    @classmethod
    @abstractmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """The remedy with its constants taken from a measurement.

        Args:
            findings: what was measured.
            settings: choices that are not fitted.

        Raises:
            InputError: something it needs was not measured; the message says how to measure it.
        """

    def around(self, model: Predictor) -> Predictor:
        """The model that is asked; the model itself where this remedy changes only the sampler, and at strength 0."""
        return self.wrapped(model) if self.active else model

    def solver(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """Sampler and intervals; as they are where this remedy changes only the model, and at strength 0."""
        return self.resolved(method, steps) if self.active else (method, steps)

    def wrapped(self, model: Predictor) -> Predictor:
        """`around` at a strength other than 0."""
        return model

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """`solver` at a strength other than 0."""
        return method, steps

    def check(self, model: Predictor, method: Sampler) -> None:
        """Refuse a model or a sampler that this remedy cannot work with; by default it works with all.

        Raises:
            InputError: one sentence that says why.
        """
        return

    def settings(self) -> dict[str, Any]:
        """Settings in plain values."""
        return {f.name: canonical(getattr(self, f.name)) for f in fields(self) if f.metadata.get("plain", True)}

    def record(self) -> dict[str, Any]:
        """Name and settings, for protocols: two remedies with one record do the same."""
        return {"name": self.name, "settings": self.settings()}
