"""Recombine: take the prediction apart and put it together at the next time.

    state(s) = alpha(s) data_hat + sigma(s) noise_hat

On the linear path this is Euler; on a variance-preserving table it is DDIM (eta = 0); on gvp it differs from Euler.
It needs no derivative, so it is the sampler of networks that know only a table.
"""

from __future__ import annotations

from torch import Tensor

from slowflow.flow.model import Predictor
from slowflow.flow.samplers.base import SAMPLERS, Sampler


@SAMPLERS.register(
    "recombine",
    summary="DDIM in general form, one network call a step",
    source="Song et al. 2021, DDIM (arXiv 2010.02502)",
)
class Recombine(Sampler):
    """alpha(s) data_hat + sigma(s) noise_hat."""

    name = "recombine"

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The interpolation at s of the pair predicted at t."""
        data, noise_hat = model.predict(state, t, cond)
        return model.interpolant.state(noise_hat, data, s)
