"""Exact velocity fields of data with correlations: Gaussians that share one covariance.

For data drawn from a class c as mean_{k in c} N(c_k, A diag(s^2) A^T), A orthonormal, the state at t has in the
coordinates z = A^T x independent axes with variances v_i = alpha^2 s_i^2 + sigma^2, and everything is closed-form:

    p(k | x) = softmax_k( -1/2 sum_i (z_i - alpha c_ki)^2 / v_i ),    c = sum_k p(k | x) c_k,    w = z - alpha c
    data_hat_i = c_i + alpha s_i^2 / v_i w_i,     noise_hat_i = sigma / v_i w_i,     u_i = alpha' c_i + v_i' / (2 v_i) w_i

With one centre a class c is constant, the field is linear and so is its solution:

    z_i(t) = alpha c_i + sqrt(v_i(t) / v_i(0)) (z_i(0) - alpha(0) c_i)

`slowflow.flow.exact` has the case of equal s_i. Variances of natural images fall over several decades, which decides
how far a sampler's coarse steps go astray on each axis; a truth that is to stand in for images needs them.
Source: Wang and Vastola 2023 (arXiv 2311.10892) for the Gaussian solution, 2024 (arXiv 2412.09726) for mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slowflow import rng
from slowflow.errors import InputError
from slowflow.flow.exact import FLOOR
from slowflow.flow.interpolants import Interpolant, interpolant

DOUBLE = torch.float64
NEGLIGIBLE = FLOOR**0.5
"""A sigma below this is 0: cos(pi / 2) rounds to 6e-17, which divided by a variance near 0 would be anything."""
ORTHONORMAL = 1e-8
"""Largest relative change of a random vector under A A^T that counts as rounding."""


class Place(NamedTuple):
    """Where states lie along the axes, float64 [sample, d] each.

    centre: posterior mean centre c. offset: w = z - alpha c. variance: v at the states' time.
    """

    centre: Tensor
    offset: Tensor
    variance: Tensor


class Group(NamedTuple):
    """The centres of one class along the axes: their mean [d], and what is left of each [k, d]."""

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class SpectralMixture:
    """The exact flow of equal-weight Gaussians per class that share the covariance `axes diag(variances) axes^T`.

    Args:
        centres: [k, *shape], float64.
        labels: class of each centre, int64; a sample of class c sees only the centres of c. Zeros: unconditional.
        axes: [d, d], float64, orthonormal columns, d the number of values in a state.
        variances: [d], float64, at least 0: s_i^2 along each axis.
        path: linear, gvp or vp.
        calls: network evaluations one `predict` is counted as.
        t_max: where sampling ends, in (0, 1].

    Raises:
        InputError: shapes or dtypes that do not fit, values that are not finite, a negative
            variance or label, axes that are not orthonormal, t_max outside (0, 1], an unknown path.
    """

    centres: Float[Tensor, "k *data"]
    labels: Int[Tensor, " labels"]
    axes: Float[Tensor, "rows columns"]
    variances: Float[Tensor, " d"]
    path: str | Interpolant = "linear"
    calls: int = 1
    t_max: float = 1.0
    _groups: dict[int, Group] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)
        along = self.centres.flatten(1) @ self.axes
        for label in self.labels.unique().tolist():
            own = along[self.labels == label]
            mean = own.mean(dim=0)
            self._groups[label] = Group(mean, own - mean)

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
        """One more than the largest label; 0, unconditional, when every label is 0."""
        largest = int(self.labels.max())
        return largest + 1 if largest else 0

    def predict(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> tuple[Float[Tensor, "sample *data"], Float[Tensor, "sample *data"]]:
        """(E[data | state], E[noise | state]); float64 inside, in the dtype of `state`."""
        alpha, sigma = _mixing(self.interpolant, t)
        place = self.locate(state, t, cond)
        rest = place.offset / place.variance
        data = self.assemble(place.centre + alpha * self.variances * rest, state)
        return data, self.assemble(sigma * rest, state)

    def velocity(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> Float[Tensor, "sample *data"]:
        """alpha' E[data | state] + sigma' E[noise | state]; finite up to t = 1 where variances are above 0."""
        path, time = self.interpolant, t.to(DOUBLE).reshape(-1, 1)
        (alpha, sigma), alpha_dot, sigma_dot = _mixing(path, t), path.alpha_dot(time), path.sigma_dot(time)
        # where sigma' is infinite (vp at t = 1) the path preserves variance: sigma sigma' = -alpha alpha'
        noise_part = torch.where(sigma_dot.isfinite(), sigma * sigma_dot, -alpha * alpha_dot)
        place = self.locate(state, t, cond)
        slope = (alpha * alpha_dot * self.variances + noise_part) / place.variance
        return self.assemble(alpha_dot * place.centre + slope * place.offset, state)

    def locate(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> Place:
        """Posterior centre, offset from it and variance of each state, along the axes.

        Raises:
            InputError: a class without centres.
        """
        z = state.flatten(1).to(DOUBLE) @ self.axes
        alpha, sigma = (x.expand(len(z), 1) for x in _mixing(self.interpolant, t))
        variance = (alpha**2 * self.variances + sigma**2).clamp_min(FLOOR)
        centre = torch.empty_like(z)
        for label in cond.unique().tolist():
            rows = cond == label
            centre[rows] = _posterior_centre(z[rows], alpha[rows], variance[rows], self.group(label))
        return Place(centre, z - alpha * centre, variance)

    def group(self, label: int) -> Group:
        """The centres of one class along the axes.

        Raises:
            InputError: a class without centres.
        """
        if label not in self._groups:
            raise InputError(f"the exact field has no centre of class {label}; it knows {sorted(self._groups)}")
        return self._groups[label]

    def assemble(
        self, along: Float[Tensor, "sample d"], like: Float[Tensor, "sample *data"]
    ) -> Float[Tensor, "sample *data"]:
        """Back from coordinates along the axes to states, in shape and dtype of `like`."""
        return (along @ self.axes.T).view(like.shape).to(like.dtype)


def _mixing(path: Interpolant, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma in float64, [1, 1] or [sample, 1]."""
    time = t.to(DOUBLE).reshape(-1, 1)
    sigma = path.sigma(time)
    return path.alpha(time), torch.where(sigma < NEGLIGIBLE, 0.0, sigma)


def _posterior_centre(z: Tensor, alpha: Tensor, variance: Tensor, group: Group) -> Tensor:
    """c of each state of one class.

    The squares are taken about the class mean and without the common |z|^2, which the softmax does not see: an axis
    on which all centres agree then cancels exactly, however small its variance.
    """
    rest = (z - alpha * group.mean) / variance
    scores = alpha * (rest @ group.spread.T) - 0.5 * alpha**2 * (variance.reciprocal() @ group.spread.square().T)
    return group.mean + torch.softmax(scores, dim=1) @ group.spread


def solve_gaussian(
    field: SpectralMixture,
    noise: Float[Tensor, "sample *data"],
    t: Float[Tensor, "..."],
    cond: Int[Tensor, " sample"],
) -> Float[Tensor, "sample *data"]:
    """The exact solution of the field's ODE at time t, started from `noise` at time 0.

    Args:
        field: with one centre a class, so that the field is linear.
        noise: states at t = 0.
        t: a time in [0, 1], or one a sample.
        cond: class of each sample.

    Returns:
        States at t, in the dtype of `noise`.

    Raises:
        InputError: a class with more than one centre, or without one.
    """
    groups = {label: field.group(label) for label in cond.unique().tolist()}
    for label, group in groups.items():
        if len(group.spread) != 1:
            raise InputError(
                f"class {label} has {len(group.spread)} centres; the closed form holds for one centre a class"
            )
    (alpha_0, sigma_0), (alpha, sigma) = (_mixing(field.interpolant, x) for x in (torch.zeros(()), t))
    growth = (alpha**2 * field.variances + sigma**2) / (alpha_0**2 * field.variances + sigma_0**2)
    centre = torch.stack([groups[label].mean for label in cond.tolist()])
    z = noise.flatten(1).to(DOUBLE) @ field.axes
    return field.assemble(alpha * centre + growth.sqrt() * (z - alpha_0 * centre), noise)


def draw(
    field: SpectralMixture, labels: Int[Tensor, " sample"], generator: np.random.Generator
) -> Float[Tensor, "sample *data"]:
    """Data points of the mixture.

    Args:
        field: the mixture.
        labels: class of each point wanted.
        generator: source of randomness.

    Returns:
        float64 [n, *shape].

    Raises:
        InputError: a class without centres.
    """
    along = torch.from_numpy(generator.standard_normal((len(labels), len(field.variances)))) * field.variances.sqrt()
    which = torch.from_numpy(generator.random(len(labels)))
    for label in labels.unique().tolist():
        rows, group = labels == label, field.group(label)
        along[rows] += group.mean + group.spread[(which[rows] * len(group.spread)).long()]
    return field.assemble(along, torch.empty(len(labels), *field.shape, dtype=DOUBLE))


def _check_shapes(field: SpectralMixture) -> None:
    k, d = len(field.centres), field.centres[:1].numel()
    if d == 0 or field.centres.ndim < 2:
        raise InputError(f"centres have shape {tuple(field.centres.shape)}, expected [k, *shape] with at least one")
    expected = {"labels": (k,), "axes": (d, d), "variances": (d,)}
    for name, shape in expected.items():
        found = tuple(getattr(field, name).shape)
        if found != shape:
            raise InputError(f"{name} have shape {found}, expected {shape} for centres of {d} values")
    for name in ("centres", "labels", "axes", "variances"):
        found, wanted = getattr(field, name).dtype, torch.int64 if name == "labels" else DOUBLE
        if found != wanted:
            raise InputError(f"{name} are {found}, expected {wanted}")


def _check_values(field: SpectralMixture) -> None:
    for name in ("centres", "axes", "variances"):
        if not bool(torch.isfinite(getattr(field, name)).all()):
            raise InputError(f"{name} hold NaN or infinity")
    if float(field.variances.min()) < 0:
        raise InputError(f"the smallest variance is {float(field.variances.min())}, expected at least 0")
    if int(field.labels.min()) < 0:
        raise InputError(f"the smallest label is {int(field.labels.min())}, expected at least 0")
    if not 0.0 < field.t_max <= 1.0:
        raise InputError(f"t_max is {field.t_max}, expected a time in (0, 1]")
    interpolant(field.path)
    # A A^T on random vectors instead of A^T A: d^2 work instead of d^3
    probe = torch.from_numpy(rng.normal(0, "orthonormal", range(4), (len(field.variances),)))
    change = float(((probe @ field.axes) @ field.axes.T - probe).norm() / probe.norm())
    if change > ORTHONORMAL:
        raise InputError(f"axes are not orthonormal: axes axes^T moves a random vector by {change:.1e} of its length")
