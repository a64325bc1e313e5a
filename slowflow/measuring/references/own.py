"""own: the state's own noise and its own endpoint.

On genuine states it returns t exactly. On a model's trajectory it is 1 at the end by construction, and in between it
sees the bend of the path as much as any error: a perfect model is not at m = t here (rivals: Gaussian data of scale s
gives m = (sqrt((1-t)^2 + s^2 t^2) - 1) / (s - 1)). Read it beside the exact null, never alone.
"""

from __future__ import annotations

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.measuring.closest import closest_time
from slowflow.measuring.references.base import REFERENCES, Assigned, Trajectories, repeat


class Own:
    """Five inner products a state; no bank."""

    def assign(self, batch: Trajectories, bank: Bank | None, backend: str) -> Assigned:
        """m on the trajectory's own chord."""
        n, times, d = batch.states.shape
        flat = batch.states.reshape(n * times, d)
        closest = closest_time(
            torch.from_numpy(flat),
            torch.from_numpy(repeat(batch.noise, times)),
            torch.from_numpy(repeat(batch.endpoint, times)),
            batch.path,
        )
        norm = np.linalg.norm(flat, axis=1)
        return Assigned(
            m=closest.m.reshape(n, times),
            residual=(closest.distance / norm).reshape(n, times),
            boundary=closest.boundary.reshape(n, times) & (batch.grid < 1.0),
            index=np.full((n, times), -1),
        )


REFERENCES.register(
    "own",
    summary="own noise, own endpoint; closed form, no bank; 1 at the end by construction",
    source="MixFlow (arXiv 2512.19311), reading P1 of its Figure 1",
)(Own())
