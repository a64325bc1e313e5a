"""Exact velocity fields: what a perfect network would return.

For data drawn from a mixture of equal Gaussian bumps, mean_k N(c_k, s^2 I), the state at t has component densities
N(alpha c_k, v I) with v = alpha^2 s^2 + sigma^2, and everything is closed-form:

    p(k | x) = softmax_k( -|x - alpha c_k|^2 / (2 v) ),        c = sum_k p(k | x) c_k
    data_hat = c + alpha s^2 / v (x - alpha c),               noise_hat = sigma / v (x - alpha c)

One centre is a Gaussian, many centres a mixture, real images with a small s the smoothed law of a finite data set
(s = 0: the data set itself, which sampling then returns). These are first-class models: samplers and measures take
them like networks, so that every measure has a truth to be checked against.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant, expand, interpolant
from slowflow.flow.model import combine

FLOOR = 1e-24


@dataclass(frozen=True)
class ExactMixture:
    """The exact flow of a Gaussian mixture with one width.

    Args:
        centres: [k, *shape], float64.
        labels: class of each centre; a sample of class c sees only the centres of c. Zeros: one class.
        width: standard deviation s of each bump, at least 0.
        path: linear, gvp or vp.
    """

    centres: Float[Tensor, "k *data"]
    labels: Int[Tensor, " k"]
    width: float
    path: str | Interpolant = "linear"
    calls: int = 1
    t_max: float = 1.0
    _groups: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.width < 0:
            raise InputError(f"width is {self.width}, expected at least 0")

    @property
    def interpolant(self) -> Interpolant:
        """The path."""
        return interpolant(self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state."""
        return tuple(self.centres.shape[1:])

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(E[data | state], E[noise | state]); exact, in the dtype of `state`."""
        data, noise = torch.empty_like(state), torch.empty_like(state)
        for label in cond.unique().tolist():
            rows = cond == label
            times = t if t.ndim == 0 else t[rows]
            data[rows], noise[rows] = self._posterior_means(state[rows], times, self.of_class(label))
        return data, noise

    def of_class(self, label: int) -> Float[Tensor, "k d"]:
        """Centres of one class, float64; made when a state of the class comes, because a thousand classes need not fit.

        Raises:
            InputError: it has none.
        """
        if label not in self._groups:
            rows = (self.labels == label).nonzero().flatten()
            if not len(rows):
                raise InputError(f"the exact field has no centre of class {label}")
            self._groups[label] = self.centres[rows].flatten(1).to(torch.float64)
        return self._groups[label]

    def _posterior_means(self, state: Tensor, t: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        x = state.flatten(1).to(centres.dtype)
        alpha, sigma = (expand(f(t.to(centres.dtype)), x) for f in (self.interpolant.alpha, self.interpolant.sigma))
        variance = (alpha**2 * self.width**2 + sigma**2).clamp_min(FLOOR)
        # |x - alpha c|^2 without the common |x|^2, which the softmax does not see
        scores = (alpha * (x @ centres.T) - 0.5 * alpha**2 * centres.square().sum(1)) / variance
        centre = torch.softmax(scores, dim=1) @ centres
        rest = (x - alpha * centre) / variance
        data, noise = centre + alpha * self.width**2 * rest, sigma * rest
        return data.view_as(state).to(state.dtype), noise.view_as(state).to(state.dtype)

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """alpha' E[data | state] + sigma' E[noise | state]; finite up to t = 1 for any width above 0."""
        data, noise = self.predict(state, t, cond)
        return combine(self.interpolant, data, noise, t.to(state.dtype))


def gaussian(mean: Float[Tensor, "*data"], width: float, path: str | Interpolant = "linear") -> ExactMixture:
    """The exact flow of N(mean, width^2 I)."""
    return ExactMixture(mean.unsqueeze(0).to(torch.float64), torch.zeros(1, dtype=torch.int64), width, path)
