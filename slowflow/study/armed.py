"""A model as one arm samples it, and the step counts that cost it no more network calls than the study's sampler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from slowflow.evaluating.engine import Sampling
from slowflow.flow.count import network_calls
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.study.arms import Arm


@dataclass(frozen=True, eq=False)
class Armed:
    """What an arm samples from.

    Args:
        inner: the trained model.
        model: the same with the arm's sampling remedy around it.
        arm: whose it is.
        usual: how the study samples.
    """

    inner: FlowModel
    model: FlowModel
    arm: Arm
    usual: Sampling

    @property
    def sampler(self) -> str:
        """The arm's sampler."""
        return self.arm.sampler(self.usual.sampler)

    @cache  # noqa: B019 - lives as long as its arm is looked at
    def steps_for(self, budget: int) -> int:
        """Intervals of the arm's sampler that cost no more network calls than the study's at `budget` intervals.

        At least one, even where that costs more; rows carry what was really called.
        """
        if self.arm.sample is None:
            return budget
        usual = self.usual
        allowed = network_calls(self.inner, usual.sampler, budget, guidance=usual.guidance, shift=usual.shift)
        steps = budget
        while steps > 1 and self.calls(steps) > allowed:
            steps = max(min(steps - 1, steps * allowed // self.calls(steps)), 1)
        return steps

    @cache  # noqa: B019
    def calls(self, steps: int) -> int:
        """Network calls of one sample, counted on the trained network itself, whatever is wrapped around it."""
        how = {"guidance": self.usual.guidance, "shift": self.usual.shift}
        if self.model is self.inner:
            return network_calls(self.model, self.sampler, steps, **how)
        seen = 0

        def count(net: Any, arguments: tuple[Any, ...], out: Any) -> None:
            nonlocal seen
            seen += len(arguments[0])

        handle = self.inner.net.register_forward_hook(count)
        try:
            final_states(self.model, np.array([0]), steps=steps, method=self.sampler, **how)
        finally:
            handle.remove()
        return seen * self.inner.calls
