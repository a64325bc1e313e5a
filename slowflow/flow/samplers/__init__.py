"""Samplers: how a state moves from time t to time s. One sampler a file; each implements only `step`.

`walk` is the loop over a grid of times; it yields every state, so a measuring tool reads a trajectory while it is
made and nothing has to be stored.
"""

from __future__ import annotations

from slowflow.flow.samplers.base import SAMPLERS, Noise, Sampler, sampler, walk

__all__ = ["SAMPLERS", "Noise", "Sampler", "sampler", "walk"]
