"""Intervals of a number that was found under several seeds.

A seed s gives v_s, which varies because training draws differ and because samples are finite. The second part is also
known from the bootstrap within each seed, variance b_s^2. With S seeds

    value = mean v_s        half-width = q(S) sqrt( max(var(v_s), mean b_s^2) / S )

q is Student's t at S - 1 degrees of freedom where the seeds spread more than the bootstrap explains, the normal quantile
where the bootstrap is the larger: three seeds that happen to agree do not make a number sure. With one seed there is the
bootstrap alone, which knows nothing of training; tables say how many seeds stand behind a number.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

from slowflow.errors import InputError
from slowflow.records import Estimate

LEVEL = 0.95


def pooled(
    values: Float[np.ndarray, " seed"], draws: Float[np.ndarray, "seed resample"], n: int, level: float = LEVEL
) -> Estimate:
    """The mean over seeds with its interval.

    Args:
        values: the number under each seed.
        draws: its bootstrap draws within each seed; only their variance is used, they may be biased.
        n: samples behind each seed's number.
        level: of the interval.

    Raises:
        InputError: no seed, or another number of seeds in the draws.
    """
    x, d = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if len(x) == 0 or len(x) != len(d):
        raise InputError(f"{len(x)} values and draws of {len(d)} seeds; both need the same seeds, at least one")
    inside = float(d.var(axis=1, ddof=1).mean())
    between = float(x.var(ddof=1)) if len(x) > 1 else 0.0
    upper = 0.5 + level / 2.0
    quantile = stats.t.ppf(upper, len(x) - 1) if between > inside else stats.norm.ppf(upper)
    half = float(quantile * np.sqrt(max(between, inside) / len(x)))
    mean = float(x.mean())
    return Estimate(mean, mean - half, mean + half, n)
