"""Euler-Maruyama on the stochastic sampler that has the same marginals as the flow.

    d state = (u + w score) dt + sqrt(2 w) dW,      w(t) = sigma(t),      score = -noise_hat / sigma

so the drift is u - noise_hat and needs one network call a step (the official script makes two). The last step drops
the noise: it follows the drift alone (SiT's "Mean"). Source: Ma et al. 2024, SiT, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.model import Predictor, combine
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register(
    "em", summary="stochastic, w = sigma, one network call a step", source="Ma et al. 2024, SiT (arXiv 2401.08740)"
)
class EulerMaruyama(Sampler):
    """One prediction gives velocity and score together."""

    name = "em"
    stochastic = True

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Drift over the step, then noise of variance 2 sigma(t) (s - t), none on the step that ends at t_max."""
        data, noise_hat = model.predict(state, t, cond)
        drift = combine(model.interpolant, data, noise_hat, t.to(state.dtype)) - noise_hat
        mean = state + (s - t) * drift
        if float(s) >= model.t_max:
            return mean
        if noise is None:
            raise InputError("the sampler 'em' is stochastic and was given no source of noise")
        return mean + torch.sqrt(2.0 * model.interpolant.sigma(t) * (s - t)) * noise
