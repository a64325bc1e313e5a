"""Nearest ground truth by matrix products: the exact engine that is always there, and the check on the other.

    |state - alpha data_i - sigma noise|^2 = |state|^2 + alpha^2 |data_i|^2 + sigma^2 |noise|^2
                                             - 2 alpha <state, data_i> - 2 sigma <state, noise> + 2 alpha sigma <noise, data_i>

so <state, data_i>, <noise, data_i> and norms give every (i, m) with one product a state; on a line the best m of every
row is closed-form. Float64 throughout, on the GPU where there is one: only a shortlist comes back, and where rounding could
have made it the exact distance decides.
"""

from __future__ import annotations

import numpy as np
import torch

from slowflow.flow.interpolants import Interpolant
from slowflow.measuring.closest import LAST

SHORTLIST = 8
CURVE_POINTS = 64
MARGIN = 1e-10
"""Lead of the best row, relative to the squared norms, above which rounding in float64 cannot have made it."""
TILE = {"cpu": 2**19, "cuda": 2**25}
"""Distances held at once: 4 MB, which caches hold; larger tiles are slower and take more memory. A GPU wants more."""


def fastest() -> torch.device:
    """Where products are made: the GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shortlist(
    state: np.ndarray, noise: np.ndarray, rows: np.ndarray, path: Interpolant, where: torch.device | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """([n, k] the SHORTLIST best rows, best first, [n] True where the first wins beyond any rounding).

    Inner products in float64; on curves the distance is approximate, so nothing is won there.
    """
    where = where or fastest()
    k = min(SHORTLIST, len(rows))
    points = 1 if path.straight else CURVE_POINTS
    tile = max(TILE[where.type] // (len(rows) * points), 1)
    bank = torch.from_numpy(rows).to(where)
    norms = torch.linalg.vector_norm(bank, dim=1).square()
    parts, clear = [], np.zeros(len(state), dtype=bool)
    for i in range(0, len(state), tile):
        x, x0 = (torch.from_numpy(one[i : i + tile]).to(where) for one in (state, noise))
        of_noise = _of_noise(noise[i : i + tile], bank)
        score = (
            _line_energy(x, x0, bank, norms, of_noise)
            if path.straight
            else _curve_energy(x, x0, bank, norms, of_noise, path)
        )
        best = score.topk(k, dim=1, largest=False)
        parts.append(best.indices.cpu().numpy())
        if path.straight and k > 1:
            margin = MARGIN * (x.square().sum(1) + x0.square().sum(1) + norms.max())
            clear[i : i + tile] = (best.values[:, 1] - best.values[:, 0] > margin).cpu().numpy()
    return np.concatenate(parts), clear


def _of_noise(noise: np.ndarray, bank: torch.Tensor) -> torch.Tensor:
    """<noise, data_i>, [n, N]; the states of one trajectory follow one another and share a noise, multiplied once."""
    new = np.ones(len(noise), dtype=bool)
    new[1:] = (noise[1:] != noise[:-1]).any(axis=1)
    distinct, owner = (torch.from_numpy(one).to(bank.device) for one in (noise[new], np.cumsum(new) - 1))
    return (distinct @ bank.T)[owner]


def _line_energy(
    x: torch.Tensor, x0: torch.Tensor, bank: torch.Tensor, norms: torch.Tensor, of_noise: torch.Tensor
) -> torch.Tensor:
    """Squared distance of each state to each segment, [n, N], up to |x - x0|^2."""
    along = x @ bank.T - of_noise - ((x - x0) * x0).sum(1, keepdim=True)
    length = norms - 2 * of_noise + x0.square().sum(1, keepdim=True)
    m = (along / length).clamp(0.0, 1.0)
    return m * (m * length - 2 * along)


def _curve_energy(
    x: torch.Tensor,
    x0: torch.Tensor,
    bank: torch.Tensor,
    norms: torch.Tensor,
    of_noise: torch.Tensor,
    path: Interpolant,
) -> torch.Tensor:
    """Least squared distance over m, [n, N], up to |x|^2: a grid, refined by a parabola."""
    m = torch.linspace(0.0, LAST, CURVE_POINTS, dtype=torch.float64, device=x.device)
    a, s = path.alpha(m), path.sigma(m)
    xy, ny = (x @ bank.T).unsqueeze(2), of_noise.unsqueeze(2)
    xn, nn = (x * x0).sum(1)[:, None, None], x0.square().sum(1)[:, None, None]
    energy = a * a * norms[:, None] + 2 * a * s * ny + s * s * nn - 2 * a * xy - 2 * s * xn  # [n, N, times]
    # the vertex of the parabola through the best time and its neighbours: between two times the curve is nearly one
    best = energy.argmin(dim=2, keepdim=True).clamp(1, CURVE_POINTS - 2)
    left, centre, right = (energy.gather(2, best + k).squeeze(2) for k in (-1, 0, 1))
    bend = left - 2 * centre + right
    dip = torch.where(bend > 0, (left - right) ** 2 / (8 * bend.clamp_min(1e-300)), 0.0)
    return torch.minimum(centre - dip, torch.minimum(left, right))
