"""level: the noise level of the state by itself, from the Gaussian likelihood of its energy along the data's spectrum.

    m = argmin_m  sum_i (z_i - alpha(m) mu_i)^2 / v_i(m) + log v_i(m),      v_i = sigma(m)^2 + alpha(m)^2 lambda_i

z are the state's coordinates along the principal axes of the bank, mu and lambda their means and variances in the
data. No noise, endpoint or image is paired with the state: the answer depends on the law of the states alone, and that
law is the same for genuine states and for a perfect model. Here, unlike under `own` and `nearest`, a perfect model has
an excess of zero over genuine states; the verdict is read from it. Data are not Gaussian, so a single m is biased;
the bias is the same for genuine states and leaves with them.

An axis whose variance solves v' = 0 at the state's time says nothing; on a variance-preserving path with whitened data
every axis does so. The estimator is in `slowflow.data.level`.
Source: rivals of the maximum-likelihood kind; Stein 1981 for the reading of energies; the calibration is SlowFlow's.
"""

from __future__ import annotations

import numpy as np

from slowflow.data.bank import Bank
from slowflow.data.level import LAST, levels_along
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories


class Level:
    """One likelihood a state on a grid of m, refined by a parabola."""

    start: Start = "noise"
    shares_noise = False

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m of every state; `residual` is the misfit, 1 where the spectrum explains the energy."""
        n, times, d = batch.states.shape
        along = batch.along(bank.spectrum.axes).reshape(n * times, d)
        found = levels_along(bank.spectrum, along, batch.path)
        m, misfit = (part.reshape(n, times) for part in found)
        return Assigned(m=m, residual=misfit, boundary=(m <= 0.0) | (m >= LAST), index=np.full((n, times), -1))


REFERENCES.register(
    "level",
    summary="noise level of the state from its spectrum; no pairing; the verdict's zero",
    source="Gaussian likelihood; noise-level reading of exposure bias as in NAG (arXiv 2510.12497)",
)(Level())
