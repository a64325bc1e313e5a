"""The exact optimum of MixFlow's loss: what a network of any size, trained for ever, would return.

MixFlow shows a network states x_m, m ~ U[(1-gamma) t, t], under the label t, with the velocity at m as target. The
least-squares answer is the mean of the exact velocity over the levels that the state may have:

    u(x, t) = E[ v*(x, m) | x ],      p(m | x) proportional to p(x | m) on [(1-gamma) t, t]

gamma = 0 is v* itself. In high dimension p(m | x) closes on the state's true level and u reads it off the state, whatever
the label says; where a state does not tell its level (low dimension, or a path that keeps every variance) u stays an
average that suits no level, and sampling with it is biased however fine the steps. Beside a trained network it divides
what the objective does from what training has not reached. The second pass of the quadrature looks only where the
first found weight, since p(m | x) may be narrower than a node's share of the interval.
Source: least squares; MixFlow Training, CVPR 2026 (arXiv 2512.19311) for the law of m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.planted import Labels, Planted, States, Times
from slowflow.flow.spectral import DOUBLE, NEGLIGIBLE, SpectralMixture

REACH = 5.0
"""Half-width of the second pass in posterior standard deviations."""


def level_scores(
    field: SpectralMixture,
    state: Float[Tensor, "sample *data"],
    m: Float[Tensor, " sample"],
    cond: Int[Tensor, " sample"],
) -> Float[Tensor, " sample"]:
    """log p(state | m) of the exact mixture, up to a constant, float64.

    Args:
        field: the mixture.
        state: states at unknown levels.
        m: the level supposed, one a state.
        cond: class of each state.

    Raises:
        InputError: a class without centres.
    """
    z = state.flatten(1).to(DOUBLE) @ field.axes
    time = m.to(DOUBLE)[:, None]
    alpha, sigma = field.interpolant.alpha(time), field.interpolant.sigma(time)
    variance = (alpha**2 * field.variances + sigma**2).clamp_min(NEGLIGIBLE**2)
    found = torch.empty(len(z), dtype=DOUBLE)
    for label in cond.unique().tolist():
        rows, group = cond == label, field.group(label)
        a, v = alpha[rows], variance[rows]
        offset = z[rows] - a * group.mean
        lumps = a * ((offset / v) @ group.spread.T) - 0.5 * a**2 * (v.reciprocal() @ group.spread.square().T)
        found[rows] = lumps.logsumexp(1) - 0.5 * (offset.square() / v + v.log()).sum(1)
    return found


@dataclass(frozen=True)
class MixFlowOptimum(Planted):
    """The field MixFlow's loss asks for, around an exact mixture.

    Args:
        model: the exact field.
        gamma: width of the slowed interval as a share of t, in [0, 1].
        nodes: levels in each of the two passes of the quadrature.

    Raises:
        InputError: gamma outside [0, 1], or fewer than 3 nodes.
    """

    model: SpectralMixture
    gamma: float = 0.8
    nodes: int = 33

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma is {self.gamma}, expected a share of t between 0 and 1")
        if self.nodes < 3:
            raise InputError(f"{self.nodes} nodes cannot carry a quadrature, expected at least 3")

    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """E[v*(state, m) | state] for labels t."""
        if self.gamma == 0.0:
            return self.model.velocity(state, t, cond)
        m, weights = self.levels(state, t, cond)
        found = torch.zeros_like(state, dtype=DOUBLE)
        for k in range(self.nodes):
            part = self.model.velocity(state.to(DOUBLE), m[:, k], cond)
            found += weights[:, k].reshape(-1, *[1] * (state.ndim - 1)) * part
        return found.to(state.dtype)

    def levels(
        self, state: States, t: Times, cond: Labels
    ) -> tuple[Float[Tensor, "sample nodes"], Float[Tensor, "sample nodes"]]:
        """Levels m and their posterior weights (sum 1), float64; their mean under the label is how far a state lags."""
        high = t.to(DOUBLE).expand(len(state))
        low = (1.0 - self.gamma) * high
        m, weights = self._weighed(state, cond, low, high)
        mean = (weights * m).sum(1)
        deviation = (weights * (m - mean[:, None]).square()).sum(1).sqrt()
        reach = torch.maximum(REACH * deviation, 1.5 * (high - low) / self.nodes)
        return self._weighed(state, cond, torch.maximum(mean - reach, low), torch.minimum(mean + reach, high))

    def _weighed(self, state: Tensor, cond: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Midpoints of equal shares of [low, high] and their weights."""
        shares = (torch.arange(self.nodes, dtype=DOUBLE) + 0.5) / self.nodes
        m = low[:, None] + (high - low)[:, None] * shares
        scores = torch.stack([level_scores(self.model, state, m[:, k], cond) for k in range(self.nodes)], dim=1)
        return m, torch.softmax(scores, dim=1)
