"""How RAE is sampled: Euler on the warped grid that stops at t = 0.9931, without guidance or with a weaker guide."""

from __future__ import annotations

from slowflow.protocols.base import SamplingProtocol, register

SOURCE = "Zheng et al. 2025, RAE (arXiv 2510.11690)"
COUNTS = "its 50 steps are 50 grid points: 49 evaluations, and none to the end"

register(
    SamplingProtocol(name="rae-paper", families=("rae",), sampler="euler", steps=49, counts=COUNTS),
    summary="Euler, 49 evaluations, no guidance",
    source=SOURCE,
)
register(
    SamplingProtocol(
        name="rae-paper-guided",
        families=("rae",),
        sampler="euler",
        steps=49,
        guidance=1.42,
        autoguided=True,
        counts=f"{COUNTS}; the guide is called once beside the model, the script doubles both batches; 1.5 at 512 pixels",
    ),
    summary="Euler, 49 evaluations, autoguidance 1.42 with --guide (DiT-DH-S)",
    source=SOURCE,
)
