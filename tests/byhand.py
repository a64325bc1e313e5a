"""The three paths written again from the papers, with the math module only."""

import math


def coefficients(path, t):
    """(alpha, sigma, alpha', sigma') with the math module."""
    if path == "linear":
        return t, 1 - t, 1.0, -1.0
    if path == "gvp":
        a = math.pi * t / 2
        return math.sin(a), math.cos(a), math.pi / 2 * math.cos(a), -math.pi / 2 * math.sin(a)
    n = 1 - t
    log_mean, rate = -(19.9 * n * n / 4 + 0.05 * n), 19.9 * n / 2 + 0.05
    alpha, sigma = math.exp(log_mean), math.sqrt(-math.expm1(2 * log_mean))
    return alpha, sigma, alpha * rate, -(alpha**2) * rate / sigma
