"""What the stochastic samplers share: forms of w(t), the drift, and the last step.

    d state = (u + w score) dt + sqrt(2 w) dW,      score = -noise_hat / sigma

Every w >= 0 leaves the marginals of the flow as they are. With w = sigma the drift is u - noise_hat and nothing is
divided. The last step adds no noise: `mean` follows the drift, `euler` the velocity, `tweedie` jumps to data_hat.
Source: Ma et al. 2024, SiT (arXiv 2401.08740), section 2.2 and its appendix on diffusion coefficients.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import uniform_grid
from slowflow.flow.model import FLOOR, FlowModel, Predictor, combine
from slowflow.flow.samplers.base import Sampler

DIFFUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigma": lambda t, sigma: sigma,
    "linear": lambda t, sigma: 1.0 - t,
    "constant": lambda t, sigma: torch.ones_like(t),
    "decreasing": lambda t, sigma: 0.25 * (torch.cos(math.pi * t) + 1.0) ** 2,
    "increasing-decreasing": lambda t, sigma: torch.sin(math.pi * t) ** 2,
}
"""w of (t, sigma(t)). SiT's "SBDM" form is infinite at t = 0 and left out; its script returns NaN there."""
LAST_STEPS = ("mean", "euler", "tweedie")


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Settings and parts of a stochastic sampler.

    Args:
        diffusion: form of w.
        last: kind of the step that ends at t_max.
        last_step: length of that step; the others share the rest equally. None makes all steps equal.
    """

    diffusion: str = "sigma"
    last: str = "mean"
    last_step: float | None = None
    stochastic = True

    def __post_init__(self) -> None:
        if self.diffusion not in DIFFUSIONS:
            raise InputError(f"diffusion is '{self.diffusion}', expected one of {', '.join(DIFFUSIONS)}")
        if self.last not in LAST_STEPS:
            raise InputError(f"the last step is '{self.last}', expected one of {', '.join(LAST_STEPS)}")
        if self.last_step is not None and not 0.0 < self.last_step < 1.0:
            raise InputError(f"last_step is {self.last_step}, expected a length between 0 and 1")

    def grid(self, model: FlowModel, steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
        """The model's grid; with `last_step` that many steps of which the last has this length."""
        if self.last_step is None or steps < 2:
            return super().grid(model, steps, shift)
        before = uniform_grid(steps - 1, start=model.t_min, end=model.t_max - self.last_step, shift=model.shift * shift)
        return torch.cat([before, torch.tensor([model.t_max], dtype=torch.float64)])

    def drift(self, model: Predictor, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u + w score, from one prediction."""
        data, noise_hat = model.predict(state, t, cond)
        return combine(model.interpolant, data, noise_hat, t.to(state.dtype)) - self._ratio(model, t) * noise_hat

    def final(self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        """The step that ends at t_max."""
        if self.last == "mean":
            return state + (s - t) * self.drift(model, state, t, cond)
        if self.last == "euler":
            return state + (s - t) * model.velocity(state, t, cond)
        return model.predict(state, t, cond)[0]

    def spread(self, model: Predictor, t: Tensor, s: Tensor) -> Tensor:
        """sqrt(2 w dt), the deviation of a step's noise."""
        return torch.sqrt(2.0 * DIFFUSIONS[self.diffusion](t, model.interpolant.sigma(t)) * (s - t))

    def _ratio(self, model: Predictor, t: Tensor) -> Tensor | float:
        """w / sigma, exactly 1 for w = sigma."""
        if self.diffusion == "sigma":
            return 1.0
        sigma = model.interpolant.sigma(t)
        return DIFFUSIONS[self.diffusion](t, sigma) / sigma.clamp_min(FLOOR)

    @abstractmethod
    def inner(self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor) -> Tensor:
        """A step before the last."""

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """`inner`, or `final` on the step that ends at t_max."""
        if float(s) >= model.t_max:
            return self.final(model, state, t, s, cond)
        if noise is None:
            raise InputError(f"the sampler '{self.name}' is stochastic and was given no source of noise")
        return self.inner(model, state, t, s, cond, noise)
