"""Make the trajectories that are measured: the model's, genuine ones, and those of a perfect model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture
from slowflow.flow.generate import fresh_noise, labels_of, noise_of, state_dtype
from slowflow.flow.grids import uniform_grid
from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel, Predictor, conditions
from slowflow.flow.samplers import Sampler, sampler, walk
from slowflow.flow.samplers.heun import Heun
from slowflow.measuring.references import Start, Trajectories
from slowflow.records import Probe

CPU = torch.device("cpu")
FINE = 100
"""The perfect model is solved with Heun on at least this many intervals."""
LATE = 0.05
"""Late trajectories begin at a real interpolation at the first time of the grid from here on."""
INVERT_FROM = 0.99
"""Inversion begins here: at t = 1 the field of single images is infinite and any field is stiff."""
FROM_IMAGES = ("genuine", "seen")
"""Kinds that are interpolations of real images; each image is used once."""
PERFECT = ("exact", "coarse")


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

    def ids(self, kind: str, start: Start = "noise") -> np.ndarray:
        """Sample ids of a kind: states that need real images are as many as there are images, each used once."""
        ids = np.arange(self.probe.samples)
        if kind not in FROM_IMAGES and start == "noise":
            return ids
        counts = np.bincount(conditions(self.model, self._real(kind).labels), minlength=max(self.model.classes, 1))
        # whole rounds over the classes: a null with another mix of classes than the model's states has another zero
        rounds = int(counts.min()) if counts.min() >= 2 else counts[labels_of(ids, self.model.classes)]
        usable = ids[ids // max(self.model.classes, 1) < rounds]
        if len(usable) < 2:
            raise InputError(f"'{self._real(kind).name}' holds too few images for a null; at least 2 are needed")
        return usable

    def _real(self, kind: str) -> ImageSet:
        return self.seen if kind == "seen" else self.heldout

    def make(self, kind: str, ids: np.ndarray, steps: int, start: Start = "noise") -> Trajectories:
        """Trajectories of the given samples on the grid with this many intervals."""
        grid = uniform_grid(steps, end=self.model.t_max, shift=self.probe.shift)
        if kind in FROM_IMAGES:
            return self._interpolated(kind, ids, grid)
        field, method, every = self.walker(kind, steps)
        if every > 1:
            grid = uniform_grid(steps * every, end=self.model.t_max, shift=self.probe.shift)
        device = CPU if kind in PERFECT else self.model.device
        if start == "late":
            return self._late(kind, field, method, ids, grid, every, device)
        if start == "inverted":
            noise, data = self.inverted_noise(field, ids, device), self.images_of("genuine", ids)
            return self._sampled(kind, field, method, ids, grid, every, device, noise=noise, datum=data)
        return self._sampled(kind, field, method, ids, grid, every, device)

    def walker(self, kind: str, steps: int) -> tuple[Predictor, Sampler, int]:
        """(field, sampler, intervals of the solver in one interval of the grid) of a sampled kind."""
        # the field of single images is infinite at t = 1, so a last step is never corrected there
        heun, user = Heun(last_euler=True), sampler(self.probe.sampler)
        fine = -(-FINE // steps)
        if kind == "model":
            return guided(self.model, self.probe.guidance), user, 1
        if kind == "unguided":
            return self.model, user, 1
        if kind == "fine":
            return guided(self.model, self.probe.guidance), heun, fine
        if kind == "coarse":
            return self.perfect(), heun if self.probe.sampler == "heun" else user, 1
        return self.perfect(), heun, fine

    def perfect(self) -> ExactMixture:
        """The exact flow of the held-out images: its states have the law of genuine states, at every time."""
        labels, data = conditions(self.model, self.heldout.labels), self.heldout.data.to(torch.float64)
        return ExactMixture(data, labels, 0.0, self.model.interpolant, t_max=self.model.t_max)

    def images_of(self, kind: str, ids: np.ndarray) -> Float[Tensor, "sample *data"]:
        """The real image that belongs to each sample id: of its class, a random one, each used once."""
        images, labels, classes = self._real(kind), labels_of(ids, self.model.classes), max(self.model.classes, 1)
        rows = np.empty(len(ids), dtype=np.int64)
        for label in np.unique(labels):
            own = np.flatnonzero(conditions(self.model, images.labels) == label)
            order = own[rng.permutation(self.probe.seed, kind, len(own), int(label))]
            rows[labels == label] = order[ids[labels == label] // classes]
        return images.data[torch.from_numpy(rows)].to(torch.float64)

    def noise_in(self, kind: str, ids: np.ndarray) -> Float[Tensor, "sample *data"]:
        """The noise inside genuine states."""
        return torch.from_numpy(rng.normal(self.probe.seed, f"{kind}/noise", ids.tolist(), self.model.shape))

    def _interpolated(self, kind: str, ids: np.ndarray, grid: Tensor) -> Trajectories:
        data, noise = self.images_of(kind, ids), self.noise_in(kind, ids)
        states = torch.stack([self.model.interpolant.state(noise, data, t) for t in grid[1:]], dim=1)
        return self._record(kind, ids, states, noise, data, grid, datum=data)

    @torch.no_grad()
    def inverted_noise(self, field: Predictor, ids: np.ndarray, device: torch.device) -> Float[Tensor, "sample *data"]:
        """The noise from which the field's own ODE reaches a real image: Heun backwards from a genuine state at 0.99."""
        last = min(INVERT_FROM, field.t_max)
        grid = uniform_grid(max(FINE, *self.probe.grids), end=last, shift=self.probe.shift).flip(0)
        begin = self.model.interpolant.state(self.noise_in("genuine", ids), self.images_of("genuine", ids), grid[0])
        state = begin.to(device, state_dtype(device))
        cond = torch.from_numpy(labels_of(ids, self.model.classes)).to(device)
        for _, reached in walk(field, Heun(), state, cond, grid):
            state = reached
        return state.cpu().to(torch.float64)

    def _late(
        self,
        kind: str,
        field: Predictor,
        method: Sampler,
        ids: np.ndarray,
        grid: Tensor,
        every: int,
        device: torch.device,
    ) -> Trajectories:
        coarse = grid[::every].contiguous()
        first = int(torch.searchsorted(coarse, LATE - 1e-9)) * every
        noise, data = noise_of(self.probe.seed, ids, self.model.shape), self.images_of("genuine", ids)
        begin = self.model.interpolant.state(noise, data, grid[first])
        made = self._sampled(kind, field, method, ids, grid[first:], every, device, noise=begin, datum=data)
        return replace(made, noise=noise.flatten(1).numpy())

    @torch.no_grad()
    def _sampled(
        self,
        kind: str,
        field: Predictor,
        method: Sampler,
        ids: np.ndarray,
        grid: Tensor,
        every: int,
        device: torch.device,
        noise: Tensor | None = None,
        datum: Tensor | None = None,
    ) -> Trajectories:
        noise = noise_of(self.probe.seed, ids, self.model.shape) if noise is None else noise
        cond = torch.from_numpy(labels_of(ids, self.model.classes)).to(device)
        begin, fresh = noise.to(device, state_dtype(device)), fresh_noise(self.probe.seed, ids, self.model.shape)
        states = [x for k, x in walk(field, method, begin, cond, grid, fresh) if k and k % every == 0]
        stacked = torch.stack(states, dim=1).cpu().to(torch.float64)
        return self._record(kind, ids, stacked, noise, stacked[:, -1], grid[::every], datum)

    def _record(
        self,
        kind: str,
        ids: np.ndarray,
        states: Tensor,
        noise: Tensor,
        endpoint: Tensor,
        grid: Tensor,
        datum: Tensor | None = None,
    ) -> Trajectories:
        return Trajectories(
            states=states.flatten(2).numpy(),
            noise=noise.flatten(1).numpy(),
            endpoint=endpoint.flatten(1).numpy(),
            labels=labels_of(ids, self.model.classes),
            grid=grid[1:].numpy(),
            path=self.model.interpolant,
            ids=ids,
            seed=self.probe.seed,
            kind=kind,
            datum=None if datum is None else datum.flatten(1).numpy(),
        )


def nfe(model: FlowModel, probe: Probe, steps: int) -> int:
    """Network calls of one sample."""
    return sampler(probe.sampler).network_calls(guided(model, probe.guidance), steps)
