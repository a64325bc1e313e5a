"""Closed-form weights and inputs of the golden numbers, and their summary (models.md, appendix A)."""

import math

import numpy as np
import torch

DOUBLE = torch.float64
TIMES = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE)


def det(k, shape=(3, 4, 8, 8)):
    """sqrt(2) sin(1.7 i + 0.9 k + 0.2 sin(0.01 i^2)) over the flat index i, float64."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    values = math.sqrt(2) * np.sin(1.7 * i + 0.9 * k + 0.2 * np.sin(0.01 * i**2))
    return torch.from_numpy(values.reshape(shape))


def filled(net):
    """The n-th parameter by name, positions apart, gets 0.15 sin(0.1 (n + 1) + 0.37 i), rounded to float32."""
    net = net.double()
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for n, name in enumerate(sorted(parameters.keys() - {"pos_embed"})):
            parameter = parameters[name]
            values = 0.15 * np.sin(0.1 * (n + 1) + 0.37 * np.arange(parameter.numel(), dtype=np.float64))
            parameter.copy_(torch.from_numpy(values.astype(np.float32)).double().view_as(parameter))
    return net.eval()


def summary(out):
    """First four values, mean, root mean square, last value."""
    flat = out.detach().flatten()
    return np.array([*flat[:4].tolist(), float(flat.mean()), float(flat.square().mean().sqrt()), float(flat[-1])])


def noise(step, like, shape=None):
    """The j-th draw of stochastic samplers, j = 1, 2, ..., is det(., 10 + j)."""
    return det(11 + step, tuple(like.shape))
