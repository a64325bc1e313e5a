"""How diffusers samples SD3: FlowMatchEuler on the scheduler's own times, all channels guided."""

from __future__ import annotations

from slowflow.protocols.base import SamplingProtocol, register

register(
    SamplingProtocol(
        name="sd3-default",
        families=("sd3",),
        sampler="euler",
        steps=28,
        guidance=7.0,
        counts="28 steps are 28 evaluations, the last one to the end; the scheduler's times are read, not computed",
    ),
    summary="Euler, 28 steps at the scheduler's times, guidance 7.0 (the pipeline's defaults)",
    source="Esser et al. 2024, SD3 (arXiv 2403.03206); diffusers, StableDiffusion3Pipeline",
)
