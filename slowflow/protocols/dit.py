"""How DiT is sampled here: DDIM on the levels that its script picks for 250 steps.

The paper draws its 250 ancestral steps with the learned variance, which nothing here uses; its FID is not this number.
"""

from __future__ import annotations

from slowflow.flow.habits import Guiding
from slowflow.protocols.base import SamplingProtocol, register

register(
    SamplingProtocol(
        name="dit-ddim",
        families=("dit",),
        sampler="recombine",
        steps=250,
        guidance=1.5,
        guiding=Guiding(channels=3),
        counts="250 of 1000 levels, one evaluation each",
    ),
    summary="DDIM, 250 of 1000 levels, guidance 1.5 on three channels",
    source="Peebles and Xie 2023, DiT (arXiv 2212.09748); Song et al. 2021, DDIM (arXiv 2010.02502)",
)
