"""What a network returns, and what (data, noise) follows from it.

With state x, alpha, sigma and D = alpha sigma' - sigma alpha':

    velocity u:  data = (sigma' x - sigma u) / D        noise = (alpha u - alpha' x) / D
    noise e:     data = (x - sigma e) / alpha           noise = e
    data x1:     data = x1                              noise = (x - alpha x1) / sigma
    score s:     as noise, with e = -sigma s
    v:           data = alpha x - sigma v               noise = sigma x + alpha v      (alpha^2 + sigma^2 = 1)

Where a formula divides by a coefficient that vanishes (noise and score at t = 0, data at t = 1) the coefficient
is held at FLOOR; samplers never evaluate there except at the very first step of a noise-predicting network.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from slowflow.flow.interpolants import Interpolant, expand

Prediction = Literal["velocity", "noise", "data", "score", "v"]
PREDICTIONS: tuple[str, ...] = ("velocity", "noise", "data", "score", "v")
FLOOR = 1e-3
"""Smallest coefficient a prediction is divided by; SiT starts noise and score sampling at t = 1e-3."""


def regression_target(path: Interpolant, prediction: str, noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """The quantity a network of this prediction kind is trained to return at time t."""
    if prediction == "velocity":
        return path.velocity(noise, data, t)
    if prediction == "noise":
        return noise
    if prediction == "data":
        return data
    if prediction == "score":
        return -noise / expand(path.sigma(t).clamp_min(FLOOR), noise)
    return expand(path.alpha(t), data) * noise - expand(path.sigma(t), data) * data


def convert(path: Interpolant, prediction: str, state: Tensor, out: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(data, noise) from a prediction at `state`, time t; the table at the top of this file."""
    alpha, sigma = expand(path.alpha(t), state), expand(path.sigma(t), state)
    if prediction == "velocity":
        alpha_dot, sigma_dot = expand(path.alpha_dot(t), state), expand(path.sigma_dot(t), state)
        wronskian = alpha * sigma_dot - sigma * alpha_dot
        return (sigma_dot * state - sigma * out) / wronskian, (alpha * out - alpha_dot * state) / wronskian
    if prediction == "data":
        return out, (state - alpha * out) / sigma.clamp_min(FLOOR)
    if prediction == "v":
        return alpha * state - sigma * out, sigma * state + alpha * out
    noise = out if prediction == "noise" else -sigma * out
    return (state - sigma * noise) / alpha.clamp_min(FLOOR), noise
