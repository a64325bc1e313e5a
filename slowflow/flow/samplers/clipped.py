"""Clipped sampling, for pixel models whose authors sample so: the predicted image is held in [-1, 1] at every step.

    data_hat <- clip(data_hat, -1, 1)
    DDIM keeps noise_hat; DDPM follows the clipped image alone, noise_hat <- (state - alpha data_hat) / sigma

A wrapper around a sampler, which wraps the model it steps with. What it follows belongs to no path: a state is no
longer the mixture of what was predicted, so a measured lag holds the clipping too.
Source: Ho et al. 2020, DDPM (arXiv 2006.11239), appendix; `clip_sample` of diffusers' schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from slowflow.flow.interpolants import expand
from slowflow.flow.model import FLOOR, Predictor
from slowflow.flow.samplers.ancestral import Ancestral
from slowflow.flow.samplers.base import SAMPLERS, Sampler
from slowflow.flow.samplers.recombine import Recombine
from slowflow.flow.wrapper import Wrapper


@dataclass(frozen=True)
class ClippedModel(Wrapper):
    """A model whose predicted data are held in [-1, 1].

    Args:
        model: what predicts.
        consistent: the noise follows the clipped data, so that both still add up to the state.
    """

    consistent: bool

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(data_hat, noise_hat), the first clipped."""
        data, noise = self.model.predict(state, t, cond)
        data = data.clamp(-1.0, 1.0)
        if self.consistent:
            alpha, sigma = (
                expand(f(t.to(state.dtype)), state) for f in (self.interpolant.alpha, self.interpolant.sigma)
            )
            noise = (state - alpha * data) / sigma.clamp_min(FLOOR)
        return data, noise

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The model's own: clipping is for samplers that predict."""
        return self.model.velocity(state, t, cond)


@dataclass(frozen=True)
class Clipped(Sampler):
    """A sampler that steps with the clipped model.

    Args:
        inner: the sampler.
        consistent: as for ClippedModel.
    """

    inner: Sampler
    consistent: bool

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """As the sampler inside."""
        return self.inner.stochastic

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the sampler inside, clipped."""
        return f"{self.inner.name}-clipped"

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The inner step with the clipped model."""
        return self.inner.step(ClippedModel(model, self.consistent), state, t, s, cond, noise)


_SOURCE = "Ho et al. 2020, DDPM (arXiv 2006.11239); clip_sample of diffusers"
for _name, _inner, _consistent in (
    ("recombine-clipped", Recombine(), False),
    ("ancestral-clipped", Ancestral(), True),
    ("ancestral-large-clipped", Ancestral(large=True), True),
):
    SAMPLERS.register(
        _name, summary=f"{_name.removesuffix('-clipped')} with predicted pixels held in [-1, 1]", source=_SOURCE
    )(partial(Clipped, _inner, _consistent))
