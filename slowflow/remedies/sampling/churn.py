"""churn: before every step some noise is put back, and the step is made from there.

    t' with sigma(t')/alpha(t') = (1 + gamma) sigma(t)/alpha(t),      gamma = min(amount / steps, sqrt(2) - 1)
    state' = alpha(t')/alpha(t) state + sqrt(sigma(t')^2 - (alpha(t')/alpha(t))^2 sigma(t)^2) z,      z ~ N(0, I)

then the sampler steps from t' to s. Fresh noise replaces part of the old: an error of the state shrinks with what was
replaced, whatever made it, and the model's own errors in the added stretch come on top. In (a, b) the state goes back
along the path, errors included: a and b both shrink by alpha(t')/alpha(t) before b is filled up. Costs no network call.
At pure noise (alpha = 0) there is nothing to put back.
Source: Karras et al. 2022, EDM (arXiv 2206.00364), algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Findings
from slowflow.remedies.sampling.stepping import Stepping

MOST = math.sqrt(2.0) - 1.0
"""EDM's bound: no step doubles the noise variance more than once."""


def renoised(path: Interpolant, state: Tensor, t: Tensor, earlier: Tensor, z: Tensor) -> Tensor:
    """The state at t with noise z added so that it is one at `earlier`."""
    keep = path.alpha(earlier) / path.alpha(t)
    added = (path.sigma(earlier).square() - (keep * path.sigma(t)).square()).clamp_min(0.0).sqrt()
    return keep.to(state.dtype) * state + added.to(state.dtype) * z


def refuse_stochastic(name: str, method: Sampler) -> None:
    """Two sources of fresh noise in one step would need two draws, and would be no comparison.

    Raises:
        InputError: the sampler is stochastic.
    """
    if method.stochastic:
        raise InputError(
            f"'{name}' adds fresh noise, and the sampler '{method.name}' already does; use it with euler, heun or recombine"
        )


@dataclass(frozen=True)
class Churned(Stepping):
    """A sampler that goes back before every step.

    Args:
        inner: the sampler.
        gamma: relative growth of sigma / alpha.
        window: the times at which it acts.
    """

    gamma: float
    window: tuple[float, float]

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """It draws."""
        return True

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Back, then the inner step from there."""
        path = model.interpolant
        if not self.window[0] <= float(t) <= self.window[1] or float(path.alpha(t)) == 0.0:
            return self.inner.step(model, state, t, s, cond)
        if noise is None:
            raise InputError("'churn' adds fresh noise and was given no source of it")
        earlier = path.time_of_log_snr(path.log_snr(t) - 2.0 * math.log1p(self.gamma)).clamp(0.0, 1.0)
        return self.inner.step(model, renoised(path, state, t, earlier, noise), earlier, s, cond)


@SAMPLING_REMEDIES.register(
    "churn",
    summary="put some noise back before every step; an error shrinks with the noise it is replaced by",
    source="Karras et al. 2022, EDM (arXiv 2206.00364)",
)
@dataclass(frozen=True)
class Churn(SamplingRemedy):
    """Noise put back at every step.

    Args:
        amount: S_churn of EDM, at least 0, shared by the steps; 0 changes nothing.
        start, end: times between which it acts.
    """

    amount: float = 0.0
    start: float = 0.0
    end: float = 1.0
    name: ClassVar[str] = "churn"
    constants: ClassVar[tuple[str, ...]] = ("start", "end")

    def __post_init__(self) -> None:
        if not 0.0 <= self.amount < math.inf:
            raise InputError(f"amount is {self.amount}, expected a number of at least 0 (0 changes nothing)")
        if not 0.0 <= self.start < self.end <= 1.0:
            raise InputError(f"churn acts from {self.start} to {self.end}, expected 0 <= start < end <= 1")

    @property
    def active(self) -> bool:
        """Whether any noise is put back."""
        return self.amount > 0.0

    def check(self, model: Predictor, method: Sampler) -> None:
        """One source of noise at a time."""
        if self.active:
            refuse_stochastic(self.name, method)

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """The churned sampler."""
        return Churned(method, min(self.amount / steps, MOST), (self.start, self.end)), steps

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """The times at which the lag is clear of 0. How much noise is not told by a lag: `amount` stays a choice."""
        amount = cls(**settings).amount or 1.0
        curve = findings.lag("level")
        lags, excess, said = findings.lagging("level")
        late = curve.t[curve.clear()]
        if not lags or not len(late):
            text = f"{said}: no lag is clear of 0, nothing to wash out"
            return Fit(cls(**{**settings, "amount": 0.0}), False, text, {"excess": excess})
        span = {"start": float(late.min()) if late.min() < 1.0 else 0.0, "end": 1.0}
        start = f"t = {span['start']:.3f}"
        text = f"{said}, clear of 0 from {start} on; amount {amount:g} is a choice"
        return Fit(cls(**{**settings, "amount": amount, **span}), True, text, {"excess": excess})
