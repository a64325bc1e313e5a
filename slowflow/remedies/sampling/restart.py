"""restart: once on the way the state is sent back with fresh noise, and solved again.

When a step has crossed `high`, the state is re-noised to `low` as in `churn`, and the stretch up to where the step ended is
solved again in `again` equal intervals. Error made before shrinks with all the noise between low and high at once; churn does the
same in small portions. In (a, b): back along the path and forth again. Costs `again` steps of network calls on top, which
are counted; compare it at equal calls.
Source: Xu et al. 2023, Restart sampling (arXiv 2306.14878), with one restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import uniform_grid
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.churn import refuse_stochastic, renoised
from slowflow.remedies.sampling.findings import Findings
from slowflow.remedies.sampling.stepping import Stepping


@dataclass(frozen=True)
class Restarted(Stepping):
    """A sampler that goes back once.

    Args:
        inner: the sampler.
        remedy: the settings.
    """

    remedy: Restart

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """It draws."""
        return True

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The inner step; where it crosses `high`, back and again."""
        of, reached = self.remedy, self.inner.step(model, state, t, s, cond)
        if not float(t) < of.high <= float(s):
            return reached
        if noise is None:
            raise InputError("'restart' adds fresh noise and was given no source of it")
        grid = uniform_grid(of.again, start=of.low, end=float(s)).to(s)
        state = renoised(model.interpolant, reached, s, grid[0], noise)
        for k in range(of.again):
            state = self.inner.step(model, state, grid[k], grid[k + 1], cond)
        return state


@SAMPLING_REMEDIES.register(
    "restart",
    summary="send the state back once with fresh noise and solve the stretch again",
    source="Xu et al. 2023, Restart sampling (arXiv 2306.14878)",
)
@dataclass(frozen=True)
class Restart(SamplingRemedy):
    """One restart.

    Args:
        again: intervals of the second pass; 0 changes nothing.
        low: the time the state is sent back to. high: the time at which it is, when a step has crossed it.
    """

    again: int = 0
    low: float = 0.3
    high: float = 0.6
    name: ClassVar[str] = "restart"
    constants: ClassVar[tuple[str, ...]] = ("low", "high")

    def __post_init__(self) -> None:
        if not 0 <= self.again <= 100_000:
            raise InputError(f"again is {self.again}, expected intervals of the second pass between 0 and 100,000")
        if not 0.0 <= self.low < self.high <= 1.0:
            raise InputError(f"restart goes from {self.high} back to {self.low}, expected 0 <= low < high <= 1")

    @property
    def active(self) -> bool:
        """Whether there is a second pass."""
        return self.again > 0

    def check(self, model: Predictor, method: Sampler) -> None:
        """One source of noise at a time, and a time that is reached."""
        if self.active:
            refuse_stochastic(self.name, method)
        if self.active and self.high > model.t_max:
            raise InputError(f"restart waits for t = {self.high}, and the model's sampling ends at {model.t_max}")

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """The restarted sampler."""
        return Restarted(method, self), steps

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """From the last time with a lag clear of 0 back to the first. How many intervals stays a choice."""
        again = cls(**settings).again or max((len(findings.grid) - 1) // 4, 1)
        curve = findings.lag("level")
        lags, excess, said = findings.lagging("level")
        inner = (curve.t > findings.grid[0]) & (curve.t < findings.grid[-1])
        late = curve.t[curve.clear() & inner]
        if not lags or len(late) < 2:
            text = f"{said}: no lag is clear of 0 over a stretch, nothing to solve again"
            return Fit(cls(**{**settings, "again": 0}), False, text, {"excess": excess})
        span = {"low": float(late.min()), "high": float(late.max())}
        stretch = f"{span['low']:.3f} to {span['high']:.3f}"
        text = f"{said}, clear of 0 from {stretch}; {again} intervals are a choice"
        return Fit(cls(**{**settings, "again": again, **span}), True, text, {"excess": excess})
