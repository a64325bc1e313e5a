"""The variance-preserving path of DDPM as it is: a table of K noise levels.

    alpha_k = sqrt(abar_k),    sigma_k = sqrt(1 - abar_k),    k = 0 (almost clean) ... K-1 (almost noise)
    t = 1 - (k + 1) / K,       t = 1 is the clean state;      label of the network: k = K (1 - t) - 1

Between table times log-SNR is interpolated linearly, so a training time may be any number. A cell that ends where
log-SNR is infinite cannot be: from the last table time to t = 1 sigma falls to 0 in proportion to 1 - t, and where a
table starts at zero SNR alpha rises from 0 in proportion to t.

A table has no derivative, so velocities are refused (DDIM, here `recombine`, needs none). Its states lie on the circle
alpha^2 + sigma^2 = 1 all the same, which is gvp's path on another clock: `twin` names gvp's time of the same state.
Source: Ho et al. 2020, DDPM (arXiv 2006.11239); zero terminal SNR: Lin et al. 2024 (arXiv 2305.08891).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import GVP, INTERPOLANTS, Interpolant, interpolant


def linear_betas(levels: int = 1000, first: float = 1e-4, last: float = 0.02) -> Float[Tensor, " levels"]:
    """abar of betas that rise linearly from `first` to `last`: DDPM's and DiT's table."""
    return torch.cumprod(1.0 - torch.linspace(first, last, levels, dtype=torch.float64), 0)


@INTERPOLANTS.register(
    "table",
    summary="DDPM's table of noise levels; betas 1e-4 to 0.02 unless the model brings its own",
    source="Ho et al. 2020, DDPM (arXiv 2006.11239)",
)
class Table(Interpolant):
    """A variance-preserving path given by its noise levels.

    Args:
        alphas_cumprod: abar_k for k = 0 ... K-1, falling strictly inside [0, 1); DDPM's linear betas when None.

    Raises:
        InputError: fewer than two levels, or levels that do not fall strictly within [0, 1).
    """

    name = "table"

    def __init__(self, alphas_cumprod: Float[Tensor, " levels"] | None = None) -> None:
        abar = linear_betas() if alphas_cumprod is None else alphas_cumprod.detach().cpu().to(torch.float64)
        falls = abar.ndim == 1 and len(abar) > 1 and bool((abar.diff() < 0).all())
        if not falls or not 0.0 <= float(abar[-1]) < float(abar[0]) < 1.0:
            raise InputError(
                "a table of noise levels needs at least two values of abar that fall strictly within [0, 1)"
            )
        self.levels = len(abar)
        self.alphas_cumprod = abar
        # in the order of t: knot j is t = j / K, that is k = K - 1 - j
        self._log_snr = (torch.log(abar) - torch.log1p(-abar)).flip(0)
        self._first_sigma, self._last_alpha = math.sqrt(1.0 - float(abar[0])), math.sqrt(float(abar[-2]))
        if alphas_cumprod is not None:
            self.name = f"table-{hashlib.sha256(np.round(abar.numpy(), 9).tobytes()).hexdigest()[:8]}"

    def time(self, k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Canonical time of table index k."""
        return 1.0 - (k + 1.0) / self.levels

    def label(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Table index of canonical time t, what the network is told; held at 0 beyond the last level.

        A time that is a level but for the rounding of float32 gives the whole number the network was trained on.
        """
        k = (self.levels * (1.0 - t) - 1.0).clamp(0.0, self.levels - 1.0)
        return torch.where((k - k.round()).abs() < 1e-3, k.round(), k)

    def grid(self, indices: Sequence[int], end: float = 1.0) -> Float[Tensor, " times"]:
        """Sampling times of falling table indices, then `end`: a respaced schedule."""
        times = self.time(torch.tensor(list(indices), dtype=torch.float64))
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])

    def _angle(self, t: Tensor) -> Tensor:
        """atan2(alpha, sigma) in float64: 0 = noise, pi/2 = data."""
        place = t.to(torch.float64).clamp(0.0, 1.0) * self.levels
        j = place.floor().clamp(0, self.levels - 1)
        share, cell = place - j, j.long()
        knots = self._log_snr.to(t.device)
        low, high = knots[cell], knots[(cell + 1).clamp(max=self.levels - 1)]
        inner = torch.atan(torch.exp(0.5 * (low + share * (high - low))))
        last = torch.acos((self._first_sigma * (1.0 - share)).clamp(0.0, 1.0))
        first = torch.asin(self._last_alpha * share)
        found = torch.where(cell == self.levels - 1, last, inner)
        return torch.where(torch.isinf(low), first, found)

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """sqrt(abar) at table times, between them as at the top of this file."""
        return torch.sin(self._angle(t)).to(t.dtype)

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """sqrt(1 - abar), exactly 0 at t = 1."""
        return torch.where(t >= 1.0, torch.zeros_like(t), torch.cos(self._angle(t)).to(t.dtype))

    def alpha_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Refused."""
        raise self._no_derivative()

    def sigma_dot(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Refused."""
        raise self._no_derivative()

    def _no_derivative(self) -> InputError:
        return InputError(
            f"the path '{self.name}' is a table of noise levels and has no derivative, so there is no velocity on it; "
            "sample with recombine (DDIM) or ancestral, and predict noise, data or v"
        )

    def time_of_log_snr(self, log_snr: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The inverse of `log_snr`; 0 below the table's first level."""
        value, knots = log_snr.to(torch.float64), self._log_snr.to(log_snr.device)
        cell = (torch.searchsorted(knots, value.contiguous(), right=True) - 1).clamp(0, self.levels - 1)
        low, high = knots[cell], knots[(cell + 1).clamp(max=self.levels - 1)]
        share = ((value - low) / torch.where(high > low, high - low, torch.ones_like(low))).clamp(0.0, 1.0)
        last = 1.0 - torch.exp(-0.5 * torch.nn.functional.softplus(value)) / self._first_sigma
        first = torch.exp(0.5 * torch.nn.functional.logsigmoid(value)) / self._last_alpha
        share = torch.where(cell == self.levels - 1, last.clamp(0.0, 1.0), share)
        share = torch.where(torch.isinf(low), first.clamp(0.0, 1.0), share)
        return ((cell + share) / self.levels).to(log_snr.dtype)

    def twin(self, t: Float[Tensor, "..."]) -> tuple[Interpolant, Float[Tensor, "..."]]:
        """gvp and its time of the same coefficients: 2/pi times the angle."""
        return GVP(), (self._angle(t) * (2.0 / math.pi)).to(t.dtype)


def levels_of(path: Interpolant) -> list[float] | None:
    """abar of a table that a model brought itself, for a record; None for paths that a name is enough for."""
    return path.alphas_cumprod.tolist() if isinstance(path, Table) and path.name != "table" else None


def recorded(name: str, levels: list[float] | None) -> Interpolant:
    """The path of a record: a table by its levels, any other by its name."""
    return interpolant(name) if levels is None else Table(torch.tensor(levels, dtype=torch.float64))
