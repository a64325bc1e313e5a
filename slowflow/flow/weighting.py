"""Weights of the training loss, as SiT's script has them.

    lambda = (alpha' / alpha) sigma^2 - sigma sigma',     velocity: (lambda / sigma)^2,     likelihood: lambda / sigma^2

They turn a noise or score loss into the velocity loss, or into a bound on the likelihood; `none` leaves the noise loss
alone. A score network's loss is that of its noise, sigma^2 (s - s*)^2, so sigma^2 is part of every weight.
Source: Ma et al. 2024, SiT (arXiv 2401.08740), section 2.3 and appendix B.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.flow.interpolants import Interpolant


def loss_weight(
    path: Interpolant, prediction: str, weighting: str, t: Float[Tensor, " sample"]
) -> Float[Tensor, " sample"] | None:
    """What each sample's squared error is multiplied by; None where every weight is 1.

    Args:
        path: the interpolant.
        prediction: what the network returns; velocity and data networks are never weighted.
        weighting: none, velocity or likelihood.
        t: time of each sample, away from both ends.
    """
    if prediction not in ("noise", "score"):
        return None
    sigma = path.sigma(t)
    own = sigma.square() if prediction == "score" else torch.ones_like(t)
    if weighting == "none":
        return None if prediction == "noise" else own
    rate = path.alpha_dot(t) / path.alpha(t) * sigma.square() - sigma * path.sigma_dot(t)
    return own * ((rate / sigma).square() if weighting == "velocity" else rate / sigma.square())
