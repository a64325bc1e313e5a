"""How REPA is sampled: the paper's stochastic sampler with an interval, and the ODE that MixFlow compares with.

The interval is n in [0, 0.7] in REPA's noise-ward time, t in [0.3, 1] here, looked at once a step.
"""

from __future__ import annotations

from slowflow.flow.habits import Guiding
from slowflow.protocols.base import SamplingProtocol, register

SOURCE = "Yu et al. 2024, REPA (arXiv 2410.06940)"

register(
    SamplingProtocol(
        name="repa-paper",
        families=("repa",),
        sampler="em-sit",
        steps=250,
        guidance=1.8,
        guiding=Guiding(interval=(0.3, 1.0), decide="start"),
        counts="steps are evaluations: 249 noisy steps and a last one of 0.04",
    ),
    summary="Euler-Maruyama, 250 steps, guidance 1.8 for t in [0.3, 1]",
    source=SOURCE,
)
register(
    SamplingProtocol(
        name="repa-ode",
        families=("repa",),
        sampler="heun-last-euler",
        steps=250,
        guidance=1.5,
        guiding=Guiding(decide="start"),
        counts="250 real steps, the last uncorrected: 499 evaluations",
    ),
    summary="Heun, 250 steps = 499 evaluations, guidance 1.5 throughout (MixFlow's comparison)",
    source=f"{SOURCE}; MixFlow (arXiv 2512.19311)",
)
