"""What a protocol fixes: sampler, steps, guidance and how it is applied; and what its numbers mean.

"250 steps" is 250 evaluations, 249 intervals or 125 Heun steps, depending on whose paper it is. A protocol says which:

    model = slowflow.protocol("repa-paper").applied(model)
    slowflow.sample(model, 100, out="samples.npz", **slowflow.protocol("repa-paper").settings())
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from slowflow.errors import InputError
from slowflow.flow.count import network_calls
from slowflow.flow.habits import Guiding
from slowflow.flow.model import FlowModel
from slowflow.registry import Registry


@dataclass(frozen=True, kw_only=True)
class SamplingProtocol:
    """How somebody samples.

    Args:
        name: what it is asked for by.
        families: models it is for; factories may use every protocol.
        sampler: registered name.
        steps: intervals.
        guidance: scale; 1 = none.
        guiding: interval, channels and moment of decision of the guidance.
        autoguided: guidance pushes away from a weaker model, which must be given.
        counts: how its authors count, one sentence.
    """

    name: str
    families: tuple[str, ...]
    sampler: str
    steps: int
    guidance: float = 1.0
    guiding: Guiding = field(default_factory=Guiding)
    autoguided: bool = False
    counts: str

    def settings(self) -> dict[str, Any]:
        """sampler, steps and guidance, as `sample`, `evaluate` and `Probe` take them."""
        return {"sampler": self.sampler, "steps": self.steps, "guidance": self.guidance}

    def applied(self, model: FlowModel, guide: FlowModel | None = None) -> FlowModel:
        """The model, guided in this protocol's way whenever a scale other than 1 is asked for.

        Raises:
            InputError: a model of another family; a guide that is missing, or has no place here.
        """
        if model.family not in (*self.families, "custom"):
            raise InputError(
                f"the protocol '{self.name}' is for {' and '.join(self.families)}, '{model.name}' is '{model.family}'"
            )
        if self.autoguided and guide is None:
            raise InputError(f"the protocol '{self.name}' needs a guide: --guide, a weaker model of the same family")
        if guide is not None and not self.autoguided:
            raise InputError(f"the protocol '{self.name}' uses no guide; drop --guide")
        return replace(model, guiding=replace(self.guiding, guide=guide))

    def sentence(self, model: FlowModel, sampler: str, steps: int, guidance: float) -> str:
        """What is done and counted; `model` is the applied one, the settings those that were chosen in the end."""
        evaluations = network_calls(model, sampler, steps)
        calls = network_calls(model, sampler, steps, guidance=guidance)
        text = f"protocol {self.name}: {sampler}, {steps} steps, {evaluations} evaluations and {calls} network calls a sample"
        parts = [text, self._guidance(guidance), self.counts]
        changed = [
            k for k, v in self.settings().items() if v != {"sampler": sampler, "steps": steps, "guidance": guidance}[k]
        ]
        if changed:
            parts.append(f"changed from the protocol: {', '.join(changed)}")
        return "; ".join(part for part in parts if part)

    def _guidance(self, scale: float) -> str:
        if scale == 1.0:
            return "no guidance"
        low, high = self.guiding.interval
        parts = [f"{'autoguidance' if self.autoguided else 'guidance'} {scale}"]
        if (low, high) != (0.0, 1.0):
            parts.append(f"for t in [{low:g}, {high:g}]")
        if self.guiding.channels is not None:
            parts.append(f"on the first {self.guiding.channels} channels")
        return " ".join(parts)


PROTOCOLS: Registry[SamplingProtocol] = Registry("protocol", "slowflow.protocols")


def register(found: SamplingProtocol, *, summary: str, source: str) -> None:
    """Add a protocol under its own name."""
    PROTOCOLS.register(found.name, summary=summary, source=source)(found)


def protocol(name: str) -> SamplingProtocol:
    """The protocol called `name` (slowflow ls protocols)."""
    return PROTOCOLS.get(name)


def calls_of_protocols(model: FlowModel) -> dict[str, int]:
    """Network calls a sample costs under every protocol of the model's family, guidance included.

    A model stands in for its own guide: a guide is called as often, whatever it is.
    """
    found = {}
    for entry in PROTOCOLS:
        if model.family in entry.value.families:
            settings = entry.value.settings()
            applied = entry.value.applied(model, model if entry.value.autoguided else None)
            found[entry.name] = network_calls(
                applied, settings["sampler"], settings["steps"], guidance=settings["guidance"]
            )
    return found
