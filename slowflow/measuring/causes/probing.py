"""Everything `diagnose` samples for one batch of sample ids: own runs, forced runs, inversion, small displacements.

One forced pass costs as much as one own run: the intervals between nodes tile the grid, and each starts from a real
state. Genuine states share their noise with the own run, which takes most of the sampling error out of the ratios.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slowflow import rng
from slowflow.flow.generate import fresh_noise, labels_of, noise_of, state_dtype
from slowflow.flow.grids import uniform_grid
from slowflow.flow.model import Predictor
from slowflow.flow.samplers import Sampler, sampler, walk
from slowflow.flow.samplers.euler import Euler
from slowflow.measuring.causes.bands import Bands
from slowflow.measuring.trajectories import INVERT_FROM, Source

NODES = 10
"""Intervals that the grid is cut into, at most."""
PUSH = 0.02
"""Displacement along the path, in units of t, whose growth is followed."""


def step_counts(steps: int) -> tuple[int, ...]:
    """The reported step count and two more: coarser ones where they are fine enough, else finer ones."""
    if steps >= 40 and steps % 4 == 0:
        return (steps, steps // 2, steps // 4)
    if steps >= 40 and steps % 5 == 0:
        return (steps, 2 * steps // 5, steps // 5)
    first = max(steps, 2)  # a single step has no time inside
    return (first, 2 * first, 4 * first)


def node_times(grid: np.ndarray) -> np.ndarray:
    """Times of the coarsest grid at which energies are read: at most NODES, the first one first, the end left out."""
    inner = np.unique(np.round(np.linspace(0, len(grid) - 2, min(NODES, len(grid) - 2) + 1)).astype(int))
    return grid[inner] if len(grid) > 2 else grid


@dataclass(frozen=True)
class Causes:
    """How one batch is probed.

    Args:
        source: model, held-out data and settings.
        field: the model under test, or any field to be probed in its place.
        bands: where energies are read.
        counts: step counts, the reported one first.
    """

    source: Source
    field: Predictor
    bands: Bands
    counts: tuple[int, ...]

    @property
    def nodes(self) -> np.ndarray:
        """[node], 0 first."""
        return node_times(self._grid(min(self.counts)).numpy())

    @torch.no_grad()
    def probe(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays with the samples along their first axis, by name."""
        noise = noise_of(self.source.probe.seed, ids, self.field.shape)
        data = self.source.images_of("genuine", ids)
        labels = labels_of(ids, self.field.classes)
        real = [self.field.interpolant.state(noise, data, t) for t in torch.from_numpy(self.nodes)]
        along = np.square(noise.flatten(1).numpy() @ self.bands.axes)
        found = {
            "genuine": self._energies(real[1:], labels),
            "noise": np.add.reduceat(along, self.bands.first, axis=1) / self.bands.size,
        }
        found |= self._runs(noise, real, ids)
        found |= {f"roundtrip-{count}": self._round_trip(noise, data, ids, count) for count in self.counts}
        found |= self._inverted(ids, labels)
        found |= self._growth(noise, data, real, ids)
        found["bend"] = self._bend(noise, ids, self.counts[0])
        return found

    @torch.no_grad()
    def null(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Own and forced runs of a perfect model on the same noise and images: where the parts of a lag have their zero."""
        noise, data = noise_of(self.source.probe.seed, ids, self.field.shape), self.source.images_of("genuine", ids)
        real = [self.field.interpolant.state(noise, data, t) for t in torch.from_numpy(self.nodes)]
        perfect = replace(self, field=self.source.perfect())
        return {f"null-{name}": energies for name, energies in perfect._runs(noise, real, ids).items()}

    def _runs(self, noise: Tensor, real: Sequence[Tensor], ids: np.ndarray) -> dict[str, np.ndarray]:
        """Energies of the field on its own output, and started in real states, at every step count."""
        labels, found = labels_of(ids, self.field.classes), {}
        for count in self.counts:
            own = list(self._between(noise, ids, count, self.nodes))
            forced = [list(self._between(x, ids, count, self.nodes[k : k + 2]))[-1] for k, x in enumerate(real[:-1])]
            found[f"own-{count}"] = self._energies(own, labels)
            found[f"forced-{count}"] = self._energies(forced, labels)
        return found

    def _device(self) -> torch.device:
        return self.source.model.device if self.field is self.source.model else torch.device("cpu")

    def _method(self) -> Sampler:
        return sampler(self.source.probe.sampler)

    def _grid(self, count: int) -> Tensor:
        return self.source.times(count)

    def _walk(self, state: Tensor, ids: np.ndarray, grid: Tensor, method: Sampler) -> Iterator[tuple[int, Tensor]]:
        device = self._device()
        cond = torch.from_numpy(labels_of(ids, self.field.classes)).to(device)
        fresh = fresh_noise(self.source.probe.seed, ids, self.field.shape)
        begin = state.to(device, state_dtype(device))
        for k, x in walk(self.field, method, begin, cond, grid, fresh):
            yield k, x.cpu().to(torch.float64)

    def _between(self, state: Tensor, ids: np.ndarray, count: int, times: np.ndarray) -> Iterator[Tensor]:
        """States at times[1:], from a state at times[0]; all of them lie on the grid."""
        grid = self._grid(count)
        stops = [int(torch.argmin((grid - t).abs())) for t in times]
        part = grid[stops[0] : stops[-1] + 1]
        for k, x in self._walk(state, ids, part, self._method()):
            if k + stops[0] in stops[1:]:
                yield x

    def _energies(self, states: Sequence[Tensor], labels: np.ndarray) -> np.ndarray:
        """[sample, node, 2, group] at nodes[1:]."""
        alphas = self.field.interpolant.alpha(torch.from_numpy(self.nodes[1:])).tolist()
        rows = [self.bands.energies(x.flatten(1).numpy(), labels, a) for x, a in zip(states, alphas, strict=True)]
        return np.stack(rows, axis=1)

    def _round_trip(self, noise: Tensor, data: Tensor, ids: np.ndarray, count: int) -> np.ndarray:
        """|x'' - x| / |x| for a real state x near the data, taken to noise and back in `count` steps each: [sample, 1]."""
        end = min(INVERT_FROM, self.field.t_max)
        first = float(self._grid(count)[0])
        grid = uniform_grid(count, start=first, end=end, shift=self.source.probe.shift)
        method = Euler() if self._method().stochastic else self._method()
        begin = self.field.interpolant.state(noise, data, grid[-1])
        state = begin
        for way in (grid.flip(0), grid):
            for _, reached in self._walk(state, ids, way, method):
                state = reached
        rest, size = ((x.flatten(1)).norm(dim=1) for x in (state - begin, begin))
        return (rest / size).numpy()[:, None]

    def _inverted(self, ids: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Energies and fourth moments of the noise that a fine inversion finds; standard normal for a perfect model."""
        noise = self.source.inverted_noise(self.field, ids, self._device()).flatten(1).numpy()
        path = self.field.interpolant
        alpha, sigma = (float(f(torch.zeros((), dtype=torch.float64))) for f in (path.alpha, path.sigma))
        along = noise @ self.bands.axes - alpha * np.stack([self.bands.means[int(label)] for label in labels])
        groups = np.add.reduceat(np.square(along), self.bands.first, axis=1) / self.bands.size
        fourth = np.mean((along / sigma) ** 4, axis=1, keepdims=True)
        return {"inverted": groups, "inverted-fourth": fourth}

    def _growth(self, noise: Tensor, data: Tensor, real: Sequence[Tensor], ids: np.ndarray) -> dict[str, np.ndarray]:
        """Growth of a small displacement over each interval: along the path (a state that lags) and at random."""
        path, nodes = self.field.interpolant, self.nodes
        found: dict[str, list[np.ndarray]] = {"growth-lag": [], "growth-random": []}
        other = torch.from_numpy(rng.normal(self.source.probe.seed, "push", ids.tolist(), self.field.shape))
        for k, x in enumerate(real[:-1]):
            span = nodes[k : k + 2]
            late = torch.tensor(max(nodes[k] - PUSH, 0.0) if k else PUSH, dtype=torch.float64)
            push = path.state(noise, data, late) - x
            size = push.flatten(1).norm(dim=1)
            turned = other * (size / other.flatten(1).norm(dim=1)).reshape(-1, *[1] * (x.ndim - 1))
            plain = list(self._between(x, ids, self.counts[0], span))[-1]
            for name, moved in (("growth-lag", push), ("growth-random", turned)):
                reached = list(self._between(x + moved, ids, self.counts[0], span))[-1]
                found[name].append(((reached - plain).flatten(1).norm(dim=1) / size).numpy())
        return {name: np.stack(rows, axis=1) for name, rows in found.items()}

    def _bend(self, noise: Tensor, ids: np.ndarray, count: int) -> np.ndarray:
        """int |u - (x1 - x0)|^2 dt / |x1 - x0|^2 of the model's own paths, 0 for straight ones: [sample, 1]."""
        grid, last, energy = self._grid(count), noise, torch.zeros(len(ids), dtype=torch.float64)
        for k, x in self._walk(noise, ids, grid, self._method()):
            if k:
                energy += (x - last).flatten(1).square().sum(1) / (grid[k] - grid[k - 1])
                last = x
        chord = (last - noise).flatten(1).square().sum(1)
        whole = float(grid[-1] - grid[0])
        return (energy * whole / chord - 1.0).numpy()[:, None]
