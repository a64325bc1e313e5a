"""References by the pixel variance of one state: the rule of the Time-Shift Sampler, as published and corrected.

    timeshift:            sigma(m)^2                     = var(state)
    timeshift-corrected:  sigma(m)^2 + alpha(m)^2 s_c^2  = var(state)

var is the variance over the pixels of one state, s_c^2 the mean of the same number over the real images of the class.
A genuine state has sigma(t)^2 + alpha(t)^2 s^2 in the mean. The published rule leaves the data's own part out, so that a
perfect model comes out *slow*: on the 1000 steps of DDPM with s^2 = 0.25 by 16 steps at 900 and by 94 at 100. The
correction is at t in the mean, but it is not the inverse of a function: its curve falls to a minimum (on the linear
path at 1 / (1 + s^2)) and rises again. The root nearest the state's own t is taken, so that a state is sent to the
other branch by nothing but a large lag; around the minimum m is blind. Where no m has the state's variance the nearest
point of the curve stands in, flagged in `boundary` like the ends of [0, 1]. As everywhere, the linear path is not
confined to [0, 1]: a value outside is a finding.

The spread of var over real images (bright, dark, flat, busy) passes into m; the null over genuine states has it too.
Source: Li et al. 2024, Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps (arXiv
2305.15583); the correction is SlowFlow's.
"""

from __future__ import annotations

import numpy as np

from slowflow.data.bank import Bank
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.pixel_variance import expected_variance, match
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories

OUTSIDE = 1.0
"""How far outside [0, 1] roots are looked for on the linear path."""


class TimeShift:
    """Match the variance of each state.

    Args:
        corrected: count the variance of the data.
    """

    start: Start = "noise"
    shares_noise = False

    def __init__(self, corrected: bool = False) -> None:
        self.corrected = corrected

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m of every state; `residual` is |var - variance at m| / var."""
        variance = batch.states.var(axis=2, ddof=1)
        m, flagged, best = (np.empty(variance.shape, dtype) for dtype in (np.float64, bool, np.float64))
        t = np.broadcast_to(batch.grid, variance.shape)
        for label in np.unique(batch.labels):
            rows = batch.labels == label
            data = bank.shard(int(label)).var(axis=1, ddof=1).mean() if self.corrected else 0.0
            expected = expected_variance(batch.path, float(data))
            m[rows], flagged[rows] = match(variance[rows], t[rows], expected, *self._domain(batch.path))
            best[rows] = expected(np.clip(m[rows], 0.0, 1.0))
        residual = np.abs(variance - best) / np.maximum(variance, np.finfo(np.float64).tiny)
        return Assigned(m=m, residual=residual, boundary=flagged, index=np.full(m.shape, -1))

    def _domain(self, path: Interpolant) -> tuple[float, float]:
        """Where roots are looked for; beyond 1 the published rule would find each one a second time."""
        outside = OUTSIDE if path.straight else 0.0
        return -outside, 1.0 + (outside if self.corrected else 0.0)


REFERENCES.register(
    "timeshift",
    summary="variance rule of the Time-Shift Sampler as published; slow for a perfect model",
    source="Li et al. 2024, Time-Shift Sampler (arXiv 2305.15583)",
)(TimeShift())
REFERENCES.register(
    "timeshift-corrected",
    summary="the same rule with the data's own variance; blind around the curve's minimum",
    source="Li et al. 2024, Time-Shift Sampler (arXiv 2305.15583); the correction is SlowFlow's",
)(TimeShift(corrected=True))
