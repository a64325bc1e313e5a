"""A model as one arm samples it, and the step counts that cost it no more network calls than the study's sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from slowflow.evaluating.engine import Sampling
from slowflow.flow.count import network_calls
from slowflow.flow.course import solver_of
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import resolved
from slowflow.measuring.references import REFERENCES
from slowflow.records import Probe


@dataclass(frozen=True)
class Armed:
    """What an arm samples from.

    Args:
        model: the trained model.
        sampler: the arm's.
        usual: how the study samples.
        correction: the arm's sampling remedy, None for none.
    """

    model: FlowModel
    sampler: str
    usual: Sampling
    correction: Any = None

    @property
    def extra(self) -> dict[str, Any]:
        """The correction as an argument of whatever samples, counts or measures."""
        return {} if self.correction is None else {"remedy": self.correction}

    def steps_for(self, budget: int) -> int:
        """Intervals of the arm's sampler that cost no more network calls than the study's at `budget` intervals.

        At least one, even where that costs more; rows carry what was really called.
        """
        if not self.extra and self.sampler == self.usual.sampler:
            return budget
        usual, steps = self.usual, budget
        allowed = network_calls(self.model, usual.sampler, budget, guidance=usual.guidance, shift=usual.shift)
        while steps > 1 and self.calls(steps) > allowed:
            steps = max(min(steps - 1, steps * allowed // self.calls(steps)), 1)
        return steps

    def probed(self, probe: Probe) -> Probe:
        """What can be measured of this arm: where its correction draws noise of its own on the way, states are not compared
        with the noise they started from.

        Raises:
            InputError: nothing of the probe is left.
        """
        stepper, _ = solver_of(self.model, probe.sampler, probe.grids[0], self.correction)
        if not stepper.stochastic or probe.names == ("auto",):
            return probe
        kept = tuple(name for name in probe.names if not REFERENCES.get(name).shares_noise)
        return resolved(replace(probe, references=kept), self.model, self.correction)

    def check(self, probe: Probe | None) -> None:
        """Refuse, before anything is drawn, what this arm cannot do at one of the study's step counts, or in its probe.

        Raises:
            InputError: one sentence that says why.
        """
        for budget in self.usual.steps:
            self.calls(self.steps_for(budget))
        if probe is not None:
            self.probed(probe)

    def calls(self, steps: int) -> int:
        """Network calls of one sample, those of the correction included."""
        usual = self.usual
        return network_calls(self.model, self.sampler, steps, guidance=usual.guidance, shift=usual.shift, **self.extra)
