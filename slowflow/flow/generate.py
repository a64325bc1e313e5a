"""Samples by id: noise, class and the fresh noise of stochastic steps all belong to the sample, not to the batch.

Sample i has class i mod classes, so any prefix of ids is balanced and the same in every run that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow import rng
from slowflow.flow.course import Correction, course
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import Noise, walk


def labels_of(ids: np.ndarray, classes: int) -> np.ndarray:
    """Class of each sample id; 0 for an unconditional model."""
    return ids % max(classes, 1)


def noise_of(seed: int, ids: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Starting noise of each sample id, float64 on the CPU."""
    return torch.from_numpy(rng.normal(seed, "noise", ids.tolist(), shape))


def fresh_noise(seed: int, ids: np.ndarray, shape: tuple[int, ...]) -> Noise:
    """Noise of stochastic steps, keyed by sample id and step."""

    def draw(step: int, like: Tensor) -> Tensor:
        draws = [rng.generator(seed, "sde", int(i), step).standard_normal(shape) for i in ids]
        return torch.from_numpy(np.stack(draws)).to(like)

    return draw


def state_dtype(device: torch.device) -> torch.dtype:
    """Dtype a trajectory is kept in: float64 on the CPU, float32 elsewhere, whatever the network's dtype."""
    return torch.float64 if device.type == "cpu" else torch.float32


@torch.no_grad()
def final_states(
    model: FlowModel,
    ids: np.ndarray,
    *,
    steps: int,
    method: str = "euler",
    guidance: float = 1.0,
    seed: int = 0,
    shift: float = 1.0,
    remedy: Correction | None = None,
    batch_size: int = 64,
    labels: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "sample *data"]:
    """Generated samples of the given ids, float32 on the CPU.

    Args:
        model: in canonical time.
        ids: sample ids.
        steps: intervals.
        method: sampler.
        guidance: scale; 1 = none.
        seed: of the noise.
        shift: further warp of the grid, on top of the model's own.
        remedy: what corrects sampling; None = nothing.
        batch_size: samples a network call.
        labels: class of each id; None = `labels_of`.
        progress: called with the number of samples done so far.
    """
    model.net.eval()
    way, device = course(model, method, steps, guidance=guidance, shift=shift, remedy=remedy), model.device
    classes = labels_of(ids, model.classes) if labels is None else labels
    parts = []
    for i in range(0, len(ids), batch_size):
        some = ids[i : i + batch_size]
        state = noise_of(seed, some, model.shape).to(device, state_dtype(device))
        cond = torch.from_numpy(classes[i : i + batch_size]).to(device)
        last = state
        fresh = fresh_noise(seed, some, model.shape)
        for _, reached in walk(way.field, way.method, state, cond, way.grid, fresh, some):
            last = reached
        parts.append(last.to("cpu", torch.float32))
        if progress is not None:
            progress(min(i + batch_size, len(ids)))
    return torch.cat(parts)


def quantise(images: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Pixels in [-1, 1] to uint8 [n, h, w, c], rounding to nearest (half up); values outside are clipped."""
    levels = torch.floor((images.clamp(-1.0, 1.0) + 1.0) * 127.5 + 0.5)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def dequantise(levels: np.ndarray) -> Float[Tensor, "n c h w"]:
    """uint8 [n, h, w, c] to float32 pixels in [-1, 1]."""
    return torch.from_numpy(levels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)
