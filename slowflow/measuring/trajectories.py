"""Make the trajectories that are measured: the model's, genuine ones, and those of a perfect model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.flow.count import network_calls
from slowflow.flow.exact import ExactMixture
from slowflow.flow.generate import fresh_noise, labels_of, noise_of, state_dtype
from slowflow.flow.grids import refine
from slowflow.flow.guidance import guided
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import FlowModel, Predictor, conditions
from slowflow.flow.samplers import Sampler, sampler, walk
from slowflow.flow.samplers.heun import Heun
from slowflow.measuring.references import Trajectories
from slowflow.records import Probe

CPU = torch.device("cpu")
FINE = 100
"""The perfect model is solved with Heun on at least this many intervals."""


@dataclass(frozen=True)
class Source:
    """Everything trajectories are made from.

    Args:
        model: the checkpoint under test.
        heldout: real data that is neither in the bank nor trained on; genuine states and the perfect model use it.
        seen: the data of the bank.
        probe: the settings.
    """

    model: FlowModel
    heldout: ImageSet
    seen: ImageSet
    probe: Probe

    def ids(self, kind: str) -> np.ndarray:
        """Sample ids of a kind: states of real images are as many as there are images, each used once."""
        ids = np.arange(self.probe.samples)
        if kind not in ("genuine", "seen"):
            return ids
        counts = np.bincount(conditions(self.model, self._real(kind).labels), minlength=max(self.model.classes, 1))
        usable = ids[ids // max(self.model.classes, 1) < counts[labels_of(ids, self.model.classes)]]
        if len(usable) < 2:
            raise InputError(f"'{self._real(kind).name}' holds too few images for a null; at least 2 are needed")
        return usable

    def _real(self, kind: str) -> ImageSet:
        return self.seen if kind == "seen" else self.heldout

    def make(self, kind: str, ids: np.ndarray, steps: int) -> Trajectories:
        """Trajectories of the given samples on the grid with this many intervals."""
        grid = sampler(self.probe.sampler).grid(self.model, steps, self.probe.shift)
        if kind in ("genuine", "seen"):
            return self._interpolated(kind, ids, grid)
        if kind == "model":
            field: Predictor = guided(self.model, self.probe.guidance)
            return self._sampled(field, sampler(self.probe.sampler), ids, grid, every=1, device=self.model.device)
        # the field of single images is infinite at t = 1, so a last step is never corrected there
        heun, path = Heun(last_euler=True), self.model.interpolant
        if kind == "coarse":
            method = heun if self.probe.sampler == "heun" else sampler(self.probe.sampler)
            return self._sampled(self.perfect(path), method, ids, grid, every=1)
        every = -(-FINE // steps)
        # a table of noise levels has no derivative: its perfect flow is solved on the path that has the same states
        twin, fine = path.twin(refine(grid, every))
        solved = self._sampled(self.perfect(twin, float(fine[-1])), heun, ids, fine, every)
        return replace(solved, grid=grid[1:].numpy(), path=path)

    def perfect(self, path: Interpolant, t_max: float | None = None) -> ExactMixture:
        """The exact flow of the held-out images: its states have the law of genuine states, at every time."""
        labels, data = conditions(self.model, self.heldout.labels), self.heldout.data.to(torch.float64)
        return ExactMixture(data, labels, 0.0, path, t_max=self.model.t_max if t_max is None else t_max)

    def _interpolated(self, kind: str, ids: np.ndarray, grid: Tensor) -> Trajectories:
        images = self._real(kind)
        labels, classes = labels_of(ids, self.model.classes), max(self.model.classes, 1)
        rows = np.empty(len(ids), dtype=np.int64)
        for label in np.unique(labels):
            own = np.flatnonzero(conditions(self.model, images.labels) == label)
            order = own[rng.permutation(self.probe.seed, kind, len(own), int(label))]
            rows[labels == label] = order[ids[labels == label] // classes]
        data = images.data[torch.from_numpy(rows)].to(torch.float64)
        noise = torch.from_numpy(rng.normal(self.probe.seed, f"{kind}/noise", ids.tolist(), self.model.shape))
        states = torch.stack([self.model.interpolant.state(noise, data, t) for t in grid[1:]], dim=1)
        return self._record(states, noise, data, labels, grid)

    @torch.no_grad()
    def _sampled(
        self,
        field: Predictor,
        method: Sampler,
        ids: np.ndarray,
        grid: Tensor,
        every: int,
        device: torch.device = CPU,
    ) -> Trajectories:
        labels = labels_of(ids, self.model.classes)
        noise = noise_of(self.probe.seed, ids, self.model.shape)
        start, cond = noise.to(device, state_dtype(device)), torch.from_numpy(labels).to(device)
        fresh = fresh_noise(self.probe.seed, ids, self.model.shape)
        states = [x for k, x in walk(field, method, start, cond, grid, fresh) if k and k % every == 0]
        stacked = torch.stack(states, dim=1).cpu().to(torch.float64)
        return self._record(stacked, noise, stacked[:, -1], labels, grid[::every])

    def _record(
        self, states: Tensor, noise: Tensor, endpoint: Tensor, labels: np.ndarray, grid: Tensor
    ) -> Trajectories:
        return Trajectories(
            states=states.flatten(2).numpy(),
            noise=noise.flatten(1).numpy(),
            endpoint=endpoint.flatten(1).numpy(),
            labels=labels,
            grid=grid[1:].numpy(),
            path=self.model.interpolant,
        )


def nfe(model: FlowModel, probe: Probe, steps: int) -> int:
    """Network calls of one sample."""
    return network_calls(model, probe.sampler, steps, guidance=probe.guidance, shift=probe.shift)
