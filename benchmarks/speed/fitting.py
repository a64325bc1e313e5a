"""fit_over_one_resample: every estimate of gamma with 2,000 resamples over the same fit with 20, same trajectories.

20,000 trajectories of 50 times. A loop over resamples would cost a hundred times as much; what is vectorised costs little
more than the fit itself. The bar is ours: at most 10. The seconds are printed too.
"""

from __future__ import annotations

import numpy as np

from slowflow.measuring import gamma
from slowflow.measuring.slack import Slack
from speed.machine import Machine
from speed.timing import AT_MOST, Ratio, seconds

TRAJECTORIES, TIMES, FEW, MANY = 20_000, 50, 20, 2000


def readings() -> dict[str, Slack]:
    """A lag of gamma 0.2 and genuine states, both with the scatter of a noise-level reading."""
    draw, t = np.random.default_rng(0), np.arange(1, TIMES + 1) / TIMES

    def states(width: float) -> Slack:
        r = width * draw.random((TRAJECTORIES, 1)) + 0.05 * draw.normal(size=(TRAJECTORIES, TIMES)) / np.sqrt(t)
        return Slack(m=t * (1.0 - r), t=t, residual=1.0 + np.abs(draw.normal(size=r.shape)))

    return {"model": states(0.2), "genuine": states(0.0)}


def run(machine: Machine) -> list[Ratio]:
    """One fit each."""
    kinds = readings()

    def fit(resamples: int) -> float:
        return seconds(
            lambda: gamma.fit({"level": kinds}, band_reference="level", excess_reference="level", resamples=resamples)
        )

    few, many = fit(FEW), fit(MANY)
    note = f"{many:.0f} s of process time for {MANY} resamples"
    return [Ratio("fit_2000_over_fit_20", many / few, many / few, many / few, AT_MOST, 10.0, None, note)]
