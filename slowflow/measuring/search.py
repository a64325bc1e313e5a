"""Nearest ground truth over a bank: the joint minimum over data i and time m of

    |state - alpha(m) data_i - sigma(m) noise|,        the noise of the state being known.

Two exact ways that must agree:

* `faiss`: for a fixed m the distance is alpha(m) times that of a nearest-data query at (state - sigma(m) noise) /
  alpha(m). A few m of a provable window give a shortlist; a bound certifies that nothing outside it can win, and
  states that cannot be certified go to the other way.
* `torch`: <state, data_i>, <noise, data_i> and the norms give the best m of every candidate in closed form.

Both end in `closest_time`, row by row in float64, so the answer depends neither on the engine nor on the batch.
A third one, `approximate`, is never chosen by itself: a graph index misses neighbours, and what it misses shifts m itself.
It is there for banks too large for anything else, and every measurement made with it carries its recall and its signed
error in m on a subsample.
This is the only module that imports FAISS, and torch is imported first (their CUDA runtimes differ).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.measuring import products
from slowflow.measuring.closest import Closest, closest_time

try:
    import faiss
except Exception:  # a broken GPU wheel raises RuntimeError, not ImportError
    faiss = None  # type: ignore[assignment]

LARGEST_MATRIX = 4096
"""Rows up to which `auto` takes matrix products: FAISS asks nine queries a state, and what it cannot certify is searched by
matrix products all the same, so that on a bank of this size it costs four times as much for the same answer."""
WINDOW_POINTS = 8
NEIGHBOURS = 16
"""Links a node of the approximate index keeps."""
LEAST = 1e-3
"""Least m that FAISS is asked about; a window that reaches below it proves nothing."""
ROUNDING = 1e-4
"""Relative error allowed to FAISS's float32 distances when a shortlist is certified."""
DECIDED = 256
"""States, or rows of a bank, that are worked on together: what is derived of each stays small."""


def backends() -> list[str]:
    """Search engines that work here, the preferred one first."""
    return ["faiss", "torch"] if faiss is not None else ["torch"]


def backend(name: str, path: Interpolant, rows: int = LARGEST_MATRIX + 1) -> str:
    """The engine that is used. `auto` takes FAISS, but matrix products on curved paths and for small banks.

    Args:
        name: auto, faiss, torch or approximate.
        path: the interpolant.
        rows: images of the largest class in the bank.

    Raises:
        InputError: unknown name, or FAISS was asked for and is not installed or the path is curved.
    """
    if name not in ("auto", "faiss", "torch", "approximate"):
        raise InputError(f"unknown search backend '{name}' (known: auto, faiss, torch, approximate)")
    if name in ("faiss", "approximate") and "faiss" not in backends():
        raise InputError(f"the backend '{name}' was asked for but FAISS is not installed: pip install 'slowflow[cpu]'")
    if name in ("faiss", "approximate") and not path.straight:
        raise InputError(
            f"the backend '{name}' searches straight paths only; '{path.name}' is curved, use auto or torch"
        )
    if name != "auto":
        return name
    return "torch" if not path.straight or rows <= LARGEST_MATRIX else backends()[0]


@dataclass(frozen=True)
class Nearest:
    """The nearest ground truth of each state: `closest` as for a single pair, and the row of the bank that won.

    certified: share of states whose FAISS shortlist was proved complete (1 for the matrix engine). On lines the
    others went to the matrix engine; on curves they rest on the probe's subsample check.
    """

    closest: Closest
    index: np.ndarray
    certified: float


def nearest(state: np.ndarray, noise: np.ndarray, rows: np.ndarray, path: Interpolant, engine: str = "auto") -> Nearest:
    """Joint minimum over the rows of one bank shard and over m in [0, 1].

    Args:
        state, noise: [n, d] float64.
        rows: [N, d] float64, the data of one class.
        path: the interpolant.
        engine: auto, faiss, torch or approximate.

    Raises:
        InputError: shapes do not match or a row of the bank equals a noise.
    """
    if state.shape != noise.shape or state.shape[1] != rows.shape[1]:
        raise InputError(f"states {state.shape}, noise {noise.shape} and bank {rows.shape} do not match")
    chosen = backend(engine, path, len(rows))
    if chosen == "torch":
        shortlist, clear = products.shortlist(state, noise, rows, path)
        return _decide(state, noise, rows, path, shortlist, 1.0, clear)
    if chosen == "approximate":
        return _decide(state, noise, rows, path, _approximate_shortlist(state, noise, rows, path), 0.0)
    shortlist, certified = _faiss_shortlist(state, noise, rows, path)
    for doubtful in _parts(np.flatnonzero(~certified)):
        shortlist[doubtful], _ = products.shortlist(state[doubtful], noise[doubtful], rows, path)
    return _decide(state, noise, rows, path, shortlist, float(certified.mean()))


def _decide(
    state: np.ndarray,
    noise: np.ndarray,
    rows: np.ndarray,
    path: Interpolant,
    shortlist: np.ndarray,
    certified: float,
    clear: np.ndarray | None = None,
) -> Nearest:
    """The best of each shortlist by exact distance; the lower row wins a tie.

    clear: [n], True where the first of the shortlist has won already and only its m is wanted.
    """
    m, distance = np.empty(len(state)), np.empty(len(state))
    boundary, index = np.empty(len(state), dtype=bool), np.empty(len(state), dtype=np.int64)
    won = np.zeros(len(state), dtype=bool) if clear is None else clear
    ordered = np.sort(shortlist, axis=1)
    for candidates, wanted in ((shortlist[:, :1], won), (ordered, ~won)):
        for part in _parts(np.flatnonzero(wanted)):
            x, x0 = torch.from_numpy(state[part]), torch.from_numpy(noise[part])
            found = [closest_time(x, x0, torch.from_numpy(rows[column]), path) for column in candidates[part].T]
            winner = np.argmin(np.stack([c.distance for c in found], axis=1), axis=1)
            pick = np.arange(len(winner))
            m[part] = np.stack([c.m for c in found], axis=1)[pick, winner]
            distance[part] = np.stack([c.distance for c in found], axis=1)[pick, winner]
            boundary[part] = np.stack([c.boundary for c in found], axis=1)[pick, winner]
            index[part] = candidates[part][pick, winner]
    return Nearest(Closest(m, distance, boundary), index, certified)


def _faiss_shortlist(
    state: np.ndarray, noise: np.ndarray, rows: np.ndarray, path: Interpolant
) -> tuple[np.ndarray, np.ndarray]:
    """([n, k] best rows, [n] True where the shortlist is proved to hold the minimum).

    Centred first: FAISS loses neighbours at a common offset.
    """
    centred = _Centred.of(rows)
    index = _flat_index(rows.shape[1])
    centred.fill(index)
    k = min(products.SHORTLIST, len(rows))
    shortlists, certificates = [], []
    for i in range(0, len(state), DECIDED):
        x, x0 = state[i : i + DECIDED], noise[i : i + DECIDED]
        low, high, whole = _window(index, x, x0, centred)
        times = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, WINDOW_POINTS)[None, :]
        found, energy = _query(index, x, x0, times, path, centred.centre, k)
        shortlist, runner_up = _best_of(found, energy, k)
        proved = whole & _certified(x, x0, centred, shortlist, runner_up, energy, high - low)
        shortlists.append(shortlist)
        certificates.append(proved if k < len(rows) else np.full(len(x), True))
    return np.concatenate(shortlists), np.concatenate(certificates)


def _flat_index(size: int) -> faiss.Index:
    """An exact index, on the GPU where FAISS has one and finds room there beside the network."""
    index, resources = faiss.IndexFlatL2(size), _gpu()
    if resources is None:
        return index
    try:
        return faiss.index_cpu_to_gpu(resources, 0, index)
    except RuntimeError:  # no memory is left: the answer is the same on the CPU
        return index


@functools.cache
def _gpu() -> Any:
    """FAISS's hold on the first GPU, taken once: it reserves memory. None for a build without GPUs, or where none works."""
    if not getattr(faiss, "get_num_gpus", int)():
        return None
    try:
        return faiss.StandardGpuResources()
    except (AttributeError, RuntimeError):  # built without GPUs, or the GPU is full
        return None


@dataclass(frozen=True)
class _Centred:
    """A bank about its mean. rows: [N, d]. centre: [d]. spread: greatest distance of a row from it."""

    rows: np.ndarray
    centre: np.ndarray
    spread: float

    @classmethod
    def of(cls, rows: np.ndarray) -> _Centred:
        centre = rows.mean(axis=0)
        return cls(rows, centre, max(float(np.linalg.norm(part - centre, axis=1).max()) for part in _parts(rows)))

    def fill(self, index: faiss.Index) -> None:
        """Put the rows into an index, a part at a time."""
        for part in _parts(self.rows):
            index.add(np.ascontiguousarray(part - self.centre, dtype=np.float32))


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    """Rows, or indices, DECIDED at a time."""
    return [rows[i : i + DECIDED] for i in range(0, len(rows), DECIDED)]


def _approximate_shortlist(state: np.ndarray, noise: np.ndarray, rows: np.ndarray, path: Interpolant) -> np.ndarray:
    """[n, k] rows that a graph index (HNSW) finds at a few m; nothing is proved."""
    centred = _Centred.of(rows)
    index = faiss.IndexHNSWFlat(rows.shape[1], NEIGHBOURS)
    centred.fill(index)
    k = min(products.SHORTLIST, len(rows))
    low, high, _ = _window(index, state, noise, centred)
    times = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, WINDOW_POINTS)[None, :]
    found, energy = _query(index, state, noise, times, path, centred.centre, k)
    # a graph may return fewer than k rows, marked -1: the row found first stands in
    found = np.where(found < 0, found[:, :, :1], found)
    return np.maximum(_best_of(found, energy, k)[0], 0)


def _query(
    index: faiss.Index,
    state: np.ndarray,
    noise: np.ndarray,
    times: np.ndarray,
    path: Interpolant,
    centre: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest k rows at each of the given times: (row [n, times, k], squared distance to the interpolation)."""
    found = np.empty((*times.shape, k), dtype=np.int64)
    energy = np.empty((*times.shape, k), dtype=np.float64)
    for j in range(times.shape[1]):
        m = torch.from_numpy(np.ascontiguousarray(times[:, j]))
        a, s = path.alpha(m).numpy()[:, None], path.sigma(m).numpy()[:, None]
        query = np.ascontiguousarray((state - s * noise) / a - centre, dtype=np.float32)
        distance, found[:, j] = index.search(query, k)
        energy[:, j] = a**2 * distance
    return found, energy


def _window(
    index: faiss.Index, state: np.ndarray, noise: np.ndarray, bank: _Centred
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds outside which no m can win on a line, from one probe.

    With r = state - noise, v = data - noise and D the least distance, |r| - m |v| <= D and m |v| - |r| <= D, so
    (|r| - D) / max|v| <= m <= (|r| + D) / min|v|; any known distance is an upper bound of D. The last value is True
    where the whole window lies above LEAST.
    """
    r = state - noise
    length = np.linalg.norm(r, axis=1)
    to_centre = np.linalg.norm(noise - bank.centre, axis=1)
    shortest, longest = np.maximum(to_centre - bank.spread, 0.0), to_centre + bank.spread
    guess = np.clip(length / np.maximum(to_centre, 1e-12), LEAST, 1.0)
    query = np.ascontiguousarray(noise + r / guess[:, None] - bank.centre, dtype=np.float32)
    nearest_row = index.search(query, 1)[1][:, 0]
    v = bank.rows[nearest_row] - noise
    m = _foot(r, v)
    bound = np.linalg.norm(r - m[:, None] * v, axis=1)
    low = (length - bound) / np.maximum(longest, 1e-12)
    high = np.clip((length + bound) / np.maximum(shortest, 1e-12), LEAST, 1.0)
    return np.minimum(np.clip(low, LEAST, 1.0), high), high, low >= LEAST


def _foot(r: np.ndarray, v: np.ndarray) -> np.ndarray:
    """m of the nearest point of the segment [0, v] to r; a zero segment is reported by `closest_time` later."""
    length = np.einsum("nd,nd->n", v, v)
    return np.clip(np.einsum("nd,nd->n", r, v) / np.maximum(length, 1e-300), 0.0, 1.0)


def _best_of(found: np.ndarray, energy: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k distinct rows with the least energy at any probed time, and the energy of the next one (inf if none)."""
    n = len(found)
    flat_rows, flat_energy = found.reshape(n, -1), energy.reshape(n, -1)
    by_energy = np.argsort(flat_energy, axis=1, kind="stable")
    flat_rows, flat_energy = np.take_along_axis(flat_rows, by_energy, 1), np.take_along_axis(flat_energy, by_energy, 1)
    # first appearance of each row: sort by row (stable, so the least energy comes first), mark changes, undo
    by_row = np.argsort(flat_rows, axis=1, kind="stable")
    sorted_rows = np.take_along_axis(flat_rows, by_row, 1)
    first_sorted = np.ones_like(sorted_rows, dtype=bool)
    first_sorted[:, 1:] = sorted_rows[:, 1:] != sorted_rows[:, :-1]
    first = np.empty_like(first_sorted)
    np.put_along_axis(first, by_row, first_sorted, axis=1)
    energy_of_first = np.where(first, flat_energy, np.inf)
    order = np.argsort(energy_of_first, axis=1, kind="stable")[:, : k + 1]
    ranked = np.take_along_axis(energy_of_first, order, 1)
    shortlist = np.take_along_axis(flat_rows, order[:, :k], 1)
    return shortlist, ranked[:, k] if ranked.shape[1] > k else np.full(n, np.inf)


def _certified(
    state: np.ndarray,
    noise: np.ndarray,
    bank: _Centred,
    shortlist: np.ndarray,
    runner_up: np.ndarray,
    energy: np.ndarray,
    width: np.ndarray,
) -> np.ndarray:
    """True where no row outside the shortlist can be nearer.

    At every probed time a row outside has at least the energy e = min(k-th energy there, runner-up). Its energy is a
    parabola in m of curvature |v|^2, so between two probes a distance h apart it stays above e - |v|^2 h^2 / 4.
    """
    floor = np.minimum(energy[:, :, -1].min(axis=1), runner_up)
    v = bank.rows[shortlist[:, 0]] - noise
    r = state - noise
    m = _foot(r, v)
    rest = r - m[:, None] * v
    reached = np.einsum("nd,nd->n", rest, rest)
    longest = np.linalg.norm(noise - bank.centre, axis=1) + bank.spread
    sag = (longest * width / (WINDOW_POINTS - 1)) ** 2 / 4
    # below the window nothing can win, except at m = 0, where every row has the energy |r|^2
    return (floor - sag) * (1.0 - ROUNDING) - ROUNDING * np.einsum("nd,nd->n", r, r) > reached
