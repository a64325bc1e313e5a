"""The contract of an interpolant: the properties that everything built on alpha and sigma relies on.

from slowflow.testing import check_interpolant
check_interpolant(MyPath())
"""

from __future__ import annotations

import torch
from torch import Tensor

from slowflow.flow.interpolants import Interpolant
from slowflow.testing.promises import require, require_close

STEP = 1e-5
"""Of central differences: their error is STEP**2 / 6 times a third derivative, beside rounding of 1e-11."""
SLOPE = 1e-6
"""How far they may be from the derivative, relative to its largest value."""
INNER = (0.02, 0.98)
"""Where derivatives and the inverse are looked at: they may be infinite at the ends."""


def check_interpolant(path: Interpolant, *, points: int = 97, seed: int = 0) -> None:
    """The contract of an interpolant with derivatives.

    The data end is pure data; alpha rises, sigma falls, log-SNR strictly rises and is inverted; the derivatives are those of
    the coefficients; state and velocity are linear in (noise, data), and a row's result does not depend on the other rows.

    Args:
        path: continuous in t; a table of noise levels has no derivatives and is not one of these.
        points: times looked at.
        seed: of the random pair.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    times = torch.linspace(0.0, 1.0, points, dtype=torch.float64)
    inner = torch.linspace(*INNER, points, dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    require_close(path.alpha(one), one, "alpha(1) = 1: the data end is data")
    require_close(path.sigma(one), 0.0 * one, "sigma(1) = 0: the data end holds no noise")
    require(bool((path.alpha(times).diff() > 0).all()), "alpha increases from noise to data")
    require(bool((path.sigma(times).diff() < 0).all()), "sigma decreases from noise to data")
    require(bool((path.log_snr(inner).diff() > 0).all()), "log-SNR strictly increases")
    require_close(path.time_of_log_snr(path.log_snr(inner)), inner, "time_of_log_snr inverts log_snr", 1e-8)
    for name, value, derivative in (("alpha", path.alpha, path.alpha_dot), ("sigma", path.sigma, path.sigma_dot)):
        slope = (value(inner + STEP) - value(inner - STEP)) / (2 * STEP)
        require_close(derivative(inner), slope, f"{name}_dot is the derivative of {name}", SLOPE)
    _check_mixing(path, seed)


def _check_mixing(path: Interpolant, seed: int) -> None:
    """States and velocities of random pairs."""
    draw = torch.Generator().manual_seed(seed)
    first, second = (_pair(draw), _pair(draw))
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    for name, function in (("state", path.state), ("velocity", path.velocity)):
        mixed = function(2.0 * first[0] - second[0], 2.0 * first[1] - second[1], t)
        apart = 2.0 * function(*first, t) - function(*second, t)
        require_close(mixed, apart, f"the {name} is linear in (noise, data)")
        together = function(*first, t)
        alone = torch.stack([function(noise, data, at) for noise, data, at in zip(*first, t, strict=True)])
        require(torch.equal(together, alone), f"the {name} of a row does not depend on the other rows")


def _pair(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    noise, data = (torch.randn((5, 3, 2, 2), generator=draw, dtype=torch.float64) for _ in range(2))
    return noise, data
