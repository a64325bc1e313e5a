"""How a remedy moves the states of Gaussian data: the forward model that constants are fitted through.

A remedy that acts on every step changes all that comes after, so the lag it removes at t is not the strength it has at
t. Along an axis on which the data have variance c^2 the exact field is linear and so is every remedy fitted here; walking
one number along each axis, with and without the remedy and with the user's own sampler and grid, gives

    response_c(t) = log |state with the remedy| - log |state without|,

exactly, discretisation included. It does not depend on where the walk starts. Real data are not Gaussian; that enters
here and nowhere else, and the lag that is left is measured again, not assumed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from slowflow.errors import InputError
from slowflow.flow.samplers import Sampler, sampler, walk
from slowflow.flow.spectral import SpectralMixture
from slowflow.remedies.sampling.base import SamplingRemedy
from slowflow.remedies.sampling.findings import Curve, Findings

SAME_TIME = 1e-6
"""Largest distance of a measured time from a time of the grid."""
ROUNDS, STEP, SMALL, CLOSE = 20, 1e-3, 1e-8, 1e-12

Predicted = Callable[[np.ndarray], np.ndarray]
"""Constants [p] -> what would be observed [observations]."""


def response(
    findings: Findings, variances: Float[np.ndarray, " g"], remedy: SamplingRemedy
) -> Float[np.ndarray, "times g"]:
    """response_c(t) at grid[1:] for every variance; NaN where a state has come to zero.

    Args:
        findings: path, grid and sampler.
        variances: c^2 of each axis, at least 0.
        remedy: one that multiplies what is on an axis.
    """
    field = SpectralMixture(
        torch.zeros(1, len(variances), dtype=torch.float64),
        torch.zeros(1, dtype=torch.int64),
        torch.eye(len(variances), dtype=torch.float64),
        torch.from_numpy(np.asarray(variances, dtype=np.float64)),
        findings.path,
        t_max=float(findings.grid[-1]),
    )
    plain = _stand_in(findings.sampler)
    corrected, steps = remedy.solver(plain, len(findings.grid) - 1)
    if steps != len(findings.grid) - 1:
        raise InputError(f"the remedy '{remedy.name}' changes the grid and has no response on it")
    ends = [
        _walked(model, method, findings.grid, len(variances))
        for model, method in ((remedy.around(field), corrected), (field, plain))
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(np.abs(ends[0])) - np.log(np.abs(ends[1]))
    return np.where(np.isfinite(found), found, np.nan)


def _stand_in(name: str) -> Sampler:
    """Fresh noise has no place on an axis: the deterministic step that is nearest to the sampler."""
    return sampler(name if name in ("euler", "heun", "heun-last-euler", "recombine") else "recombine")


def _walked(model: object, method: Sampler, grid: np.ndarray, axes: int) -> np.ndarray:
    start, cond = torch.ones(1, axes, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    states = [x for _, x in walk(model, method, start, cond, torch.from_numpy(grid))]  # type: ignore[arg-type]
    return torch.cat(states[1:]).numpy()


def at_times(findings: Findings, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """(rows of grid[1:], columns of the curve) of the times that both have, the last of the grid left out.

    Raises:
        InputError: they have none in common.
    """
    inner = findings.grid[1:-1]
    gaps = np.abs(inner[:, None] - curve.t[None, :])
    rows, columns = np.nonzero(gaps <= SAME_TIME)
    if not len(rows):
        raise InputError(
            f"{findings.source} was not measured at any time between the ends of its own grid; nothing can be fitted"
        )
    return rows, columns


def solve(
    observed: Float[np.ndarray, "rows observations"], predicted: Predicted, start: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "rows p"]:
    """Constants for which the prediction is nearest to what was observed: weighted least squares.

    Gauss-Newton with the slopes at strength 0, which are nearly those everywhere: a walk a round, and few rounds.

    Args:
        observed: the estimate in row 0, resamples below. An observation weighs one over its variance over the resamples.
        predicted: the forward model, nearly linear over the range of interest.
        start: constants at strength 0.

    Returns:
        Constants of every row; resamples by the linear model.
    """
    spread = observed[1:].var(axis=0) if len(observed) > 2 else np.ones(observed.shape[1])
    weight = 1.0 / np.maximum(spread, max(float(spread.max()), 1.0) * CLOSE)
    found = np.asarray(start, dtype=np.float64)
    slopes = np.stack(
        [(predicted(found + STEP * one) - predicted(found - STEP * one)) / (2.0 * STEP) for one in np.eye(len(found))]
    )
    at = predicted(found)
    for _ in range(ROUNDS):
        move = _least_squares(slopes, weight, observed[:1] - at)[0]
        found, at = found + move, predicted(found + move)
        if np.abs(move).max() < SMALL:
            break
    return found + _least_squares(slopes, weight, observed - at)


def _least_squares(slopes: np.ndarray, weight: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """[rows, p]."""
    normal = (slopes * weight) @ slopes.T
    return np.linalg.solve(normal, (slopes * weight) @ rest.T).T
