"""How SiT is sampled: the paper's 250 evaluations, the script's 250 grid points, and the stochastic sampler.

Guidance acts on three of four channels, an accident of the scripts that the published numbers contain: 1.5 on three is
about 1.375 on four.
"""

from __future__ import annotations

from slowflow.flow.habits import Guiding
from slowflow.protocols.base import SamplingProtocol, register

THREE = Guiding(channels=3)
SOURCE = "Ma et al. 2024, SiT (arXiv 2401.08740)"

register(
    SamplingProtocol(
        name="sit-paper",
        families=("sit",),
        sampler="heun",
        steps=125,
        guidance=1.5,
        guiding=THREE,
        counts="the paper counts evaluations: its 250 are 125 Heun steps",
    ),
    summary="125 Heun steps = 250 evaluations, guidance 1.5 on three channels",
    source=f"{SOURCE}; issues 18 and 21 of its repository",
)
register(
    SamplingProtocol(
        name="sit-script",
        families=("sit",),
        sampler="heun",
        steps=249,
        guidance=1.5,
        guiding=THREE,
        counts="the script counts grid points: its 250 are 249 Heun steps and 498 evaluations",
    ),
    summary="what the ODE script does for 250 with heun2: 249 steps, 498 evaluations",
    source=SOURCE,
)
register(
    SamplingProtocol(
        name="sit-sde",
        families=("sit",),
        sampler="em-sit",
        steps=250,
        guidance=1.5,
        guiding=THREE,
        counts="249 noisy steps and a last one of 0.04 without noise; the script calls the network twice a step, once is enough",
    ),
    summary="Euler-Maruyama, 250 steps, last step 0.04, guidance 1.5 on three channels",
    source=SOURCE,
)
