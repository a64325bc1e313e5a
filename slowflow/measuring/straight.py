"""Calibrate m on genuine states, so that a lag is read in its true size.

A reference says G(t) on average of genuine states at t, and G is not t: data are not Gaussian, images are not the state's
own. A state that lags then reads G(m) - G(t), which is m - t times the slope of G, and subtracting the null does not mend
a slope. So m is read back through G: m -> G^-1(m), with G the isotonic regression of the mean of genuine states on t.
The same map goes over every kind; what it does to the null leaves with the null. Raw m stays in the records and figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import isotonic_regression

from slowflow.measuring.slack import Reading, Slack

RISE = 1e-6
"""Least slope of G, so that it can be inverted where it is flat."""


def straightened(kinds: Mapping[str, Reading]) -> dict[str, Reading]:
    """Every kind with m read back through the curve of genuine states; as it is where there are none.

    Beyond the last time, and below the first, m goes on with slope 1.
    """
    genuine = kinds.get("genuine")
    if not isinstance(genuine, Slack) or not all(isinstance(one, Slack) for one in kinds.values()):
        return dict(kinds)
    t = np.concatenate([[0.0], genuine.t])
    curve = np.concatenate([[0.0], isotonic_regression(genuine.m.mean(axis=0)).x])
    curve = np.maximum.accumulate(curve) + RISE * t
    ends = np.array([-1.0, 2.0])
    times = np.concatenate([[t[0] + ends[0]], t, [t[-1] + ends[1]]])
    values = np.concatenate([[curve[0] + ends[0]], curve, [curve[-1] + ends[1]]])
    return {
        kind: replace(one, m=np.interp(one.m, values, times)) for kind, one in kinds.items() if isinstance(one, Slack)
    }
