"""Ancestral sampling: DDPM's own, for any path and any two times.

    state(s) = alpha(s) data_hat + sqrt(sigma(s)^2 - v) noise_hat + sqrt(v) z,    z ~ N(0, I)
    v = sigma(s)^2 / sigma(t)^2 * (sigma(t)^2 - (alpha(t) / alpha(s))^2 sigma(s)^2)

v is the variance of q(state(s) | state(t), data) ("fixed small"); v = 0 is DDIM. The larger one leaves out the first
factor and then keeps the mean ("fixed large"): it is right for data of variance 1, the small one for a single datum.
Nothing is drawn on the step that ends at clean data. Needs no derivative, so it works on tables.
Source: Ho et al. 2020, DDPM (arXiv 2006.11239), section 3.2; Song et al. 2021, DDIM (arXiv 2010.02502), equation 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register(
    "ancestral",
    summary="DDPM's stochastic sampler, one network call a step",
    source="Ho et al. 2020, DDPM (arXiv 2006.11239)",
)
@dataclass(frozen=True)
class Ancestral(Sampler):
    """A draw from the posterior of the next state.

    Args:
        large: draw with the variance of the forward step instead of the posterior's.
    """

    large: bool = False
    name = "ancestral"
    stochastic = True

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The posterior mean at s, and noise of its variance."""
        data, noise_hat = model.predict(state, t, cond)
        path = model.interpolant
        alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
        forward = (sigma_t.square() - (alpha_t / alpha_s).square() * sigma_s.square()).clamp_min(0.0)
        small = forward * sigma_s.square() / sigma_t.square()
        mean = alpha_s * data + (sigma_s.square() - small).clamp_min(0.0).sqrt() * noise_hat
        if float(sigma_s) == 0.0 or float(s) >= model.t_max:
            return mean
        if noise is None:
            raise InputError("the sampler 'ancestral' is stochastic and was given no source of noise")
        return mean + torch.sqrt(forward if self.large else small) * noise


SAMPLERS.register(
    "ancestral-large",
    summary="ancestral with the variance of the forward step, as DDPM's published models sample",
    source="Ho et al. 2020, DDPM (arXiv 2006.11239)",
)(partial(Ancestral, large=True))
