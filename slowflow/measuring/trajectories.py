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
from slowflow.flow.count import network_calls
from slowflow.flow.course import Correction, field_of, solver_of
from slowflow.flow.exact import ExactMixture
from slowflow.flow.exact_span import trajectory
from slowflow.flow.generate import fresh_noise, labels_of, noise_of, state_dtype
from slowflow.flow.grids import refine, uniform_grid
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.model import FlowModel, Predictor, conditions
from slowflow.flow.samplers import Sampler, walk
from slowflow.flow.samplers.euler import Euler
from slowflow.flow.samplers.heun import Heun
from slowflow.flow.samplers.recombine import Recombine
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
class Way:
    """How a kind is solved.

    Args:
        field, method: what is walked, and how. grid: the solver's times. every: its intervals in one of `times`.
        times: the same times on the model's path, one each `every` of the grid. device: where the field lives.
    """

    field: Predictor
    method: Sampler
    grid: Float[Tensor, " fine"]
    every: int
    times: Float[Tensor, " times"]
    device: torch.device


@dataclass(frozen=True)
class Source:
    """Everything trajectories are made from.

    Args:
        model: the checkpoint under test.
        heldout: real data that is neither in the bank nor trained on; genuine states and the perfect model use it.
        seen: the data of the bank.
        probe: the settings.
        remedy: what corrects the sampling that is measured; None = nothing.
    """

    model: FlowModel
    heldout: ImageSet
    seen: ImageSet
    probe: Probe
    remedy: Correction | None = None

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
        if kind in FROM_IMAGES:
            return self._interpolated(kind, ids, self.times(steps))
        way = self.way(kind, steps)
        if start == "late":
            return self._late(kind, way, ids)
        if start == "inverted":
            noise = self.inverted_noise(way.field, ids, way.device)
            return self._sampled(kind, way, ids, noise, self.images_of("genuine", ids))
        return self._sampled(kind, way, ids, noise_of(self.probe.seed, ids, self.model.shape))

    def times(self, steps: int) -> Float[Tensor, " times"]:
        """The grid of the user's sampler on the model's own times."""
        method, count = self._solver(steps)
        return method.grid(self.model, count, self.probe.shift)

    def _solver(self, steps: int) -> tuple[Sampler, int]:
        return solver_of(self.model, self.probe.sampler, steps, self.remedy)

    def field(self, guidance: float | None = None) -> Predictor:
        """The network under test, guided as the probe says unless told, and remedied."""
        return field_of(self.model, self.probe.guidance if guidance is None else guidance, self.remedy)

    def way(self, kind: str, steps: int) -> Way:
        """How a sampled kind is solved."""
        (user, count), model = self._solver(steps), self.model
        times, path = user.grid(model, count, self.probe.shift), model.interpolant
        every = -(-FINE // count)
        # the field of single images is infinite at t = 1, so a last step is never corrected there
        heun, twin = Heun(last_euler=True), path.twin(refine(times, every))
        if kind == "model":
            return Way(self.field(), user, times, 1, times, model.device)
        if kind == "unguided":
            return Way(self.field(1.0), user, times, 1, times, model.device)
        if kind == "fine":
            method = heun if twin[0] is path else user
            return Way(self.field(), method, refine(times, every), every, times, model.device)
        if kind == "coarse":
            return Way(self.perfect(path), heun if isinstance(user, Heun) else user, times, 1, times, CPU)
        # a table of noise levels has no derivative: its perfect flow is solved on the path that has the same states
        return Way(self.perfect(twin[0], float(twin[1][-1])), heun, twin[1], every, times, CPU)

    def perfect(self, path: Interpolant | None = None, t_max: float | None = None) -> ExactMixture:
        """The exact flow of the held-out images: its states have the law of genuine states, at every time."""
        labels, data = conditions(self.model, self.heldout.labels), self.heldout.data
        last = self.model.t_max if t_max is None else t_max
        return ExactMixture(data, labels, 0.0, path or self.model.interpolant, t_max=last)

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
        """The noise from which the field's own ODE reaches a real image: backwards from a genuine state at 0.99, finely.

        By Heun; by recombination (DDIM inversion) where the path is a table without derivatives.
        """
        first, last = float(self.times(1)[0]), min(INVERT_FROM, self.model.t_max)
        times = uniform_grid(max(FINE, *self.probe.grids), start=first, end=last, shift=self.probe.shift).flip(0)
        begin = self.model.interpolant.state(self.noise_in("genuine", ids), self.images_of("genuine", ids), times[0])
        path, own = field.interpolant, self.model.interpolant
        grid = times if path.name == own.name else own.twin(times)[1]  # a perfect field may live on the twin
        method = Heun() if path.twin(times)[0] is path else Recombine()
        state = begin.to(device, state_dtype(device))
        cond = torch.from_numpy(labels_of(ids, self.model.classes)).to(device)
        for _, reached in walk(field, method, state, cond, grid):
            state = reached
        return state.cpu().to(torch.float64)

    def _late(self, kind: str, way: Way, ids: np.ndarray) -> Trajectories:
        first = int(torch.searchsorted(way.times.contiguous(), LATE - 1e-9))
        noise, data = noise_of(self.probe.seed, ids, self.model.shape), self.images_of("genuine", ids)
        begin = self.model.interpolant.state(noise, data, way.times[first])
        rest = replace(way, grid=way.grid[first * way.every :], times=way.times[first:])
        return replace(self._sampled(kind, rest, ids, begin, data), noise=noise.flatten(1).numpy())

    @torch.no_grad()
    def _sampled(
        self, kind: str, way: Way, ids: np.ndarray, noise: Tensor, datum: Tensor | None = None
    ) -> Trajectories:
        cond = torch.from_numpy(labels_of(ids, self.model.classes)).to(way.device)
        begin = noise.to(way.device, state_dtype(way.device))
        fresh = fresh_noise(self.probe.seed, ids, self.model.shape)
        if isinstance(way.field, ExactMixture) and isinstance(way.method, Heun | Euler):
            reached = list(trajectory(way.field, way.method, begin, cond, way.grid, way.every))
        else:
            walked = walk(way.field, way.method, begin, cond, way.grid, fresh, ids)
            reached = [x for k, x in walked if k and k % way.every == 0]
        stacked = torch.stack(reached, dim=1).cpu().to(torch.float64)
        return self._record(kind, ids, stacked, noise, stacked[:, -1], way.times, datum)

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


def nfe(model: FlowModel, probe: Probe, steps: int, remedy: Correction | None = None) -> int:
    """Network calls of one sample."""
    return network_calls(model, probe.sampler, steps, guidance=probe.guidance, shift=probe.shift, remedy=remedy)
