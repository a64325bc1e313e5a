"""Nearest ground truth over a bank: two engines, any batch, one answer; and the algebra of shared noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.flow.interpolants import interpolant
from slowflow.measuring import search
from slowflow.measuring.closest import closest_time

LINE = interpolant("linear")
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def problem(
    n: int, rows: int, d: int, *, seed: int = 0, offset: float = 0.0, spread: float = 0.1, path: str = "linear"
) -> Arrays:
    """(states, noise, bank): states of data outside the bank, a little off the path."""
    draw = np.random.default_rng(seed)
    bank = 0.5 * draw.normal(size=(rows, d)) + offset
    noise, data = draw.normal(size=(n, d)), 0.5 * draw.normal(size=(n, d)) + offset
    t = torch.from_numpy(draw.uniform(0.05, 0.98, size=n))
    state = interpolant(path).state(torch.from_numpy(noise), torch.from_numpy(data), t).numpy()
    return state + spread * draw.normal(size=(n, d)), noise, bank


def distances(state: np.ndarray, noise: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Least distance of each state to the segment of each row, [n, rows], by plain loops in float64."""
    columns = []
    for row in bank:
        v, r = row - noise, state - noise
        m = np.clip((r * v).sum(1) / (v * v).sum(1), 0, 1)
        columns.append(np.linalg.norm(r - m[:, None] * v, axis=1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("engine", ["faiss", "torch"])
@pytest.mark.parametrize(("d", "offset"), [(64, 0.0), (784, 0.0), (64, 100.0), (784, 100.0)])
def test_the_answer_does_not_depend_on_the_query_batch(engine: str, d: int, offset: float) -> None:
    state, noise, bank = problem(512, 200, d, offset=offset)
    whole = search.nearest(state, noise, bank, LINE, engine)
    for size, covered in ((1, 12), (7, 70), (31, 93), (32, 96)):  # FAISS changes its algorithm at 20 queries
        for first, last in pairwise(range(0, covered + 1, size)):
            part = search.nearest(state[first:last], noise[first:last], bank, LINE, engine)
            np.testing.assert_array_equal(part.index, whole.index[first:last])
            np.testing.assert_array_equal(part.closest.m, whole.closest.m[first:last])


ENGINES = [("linear", "faiss"), ("linear", "torch"), ("gvp", "auto"), ("vp", "auto")]


@pytest.mark.parametrize(("d", "offset"), [(64, 0.0), (784, 0.0), (64, 100.0)])
def test_both_engines_name_the_same_row(d: int, offset: float) -> None:
    state, noise, bank = problem(200, 300, d, seed=1, offset=offset, path="linear")
    ours, check = (search.nearest(state, noise, bank, LINE, engine) for engine in ("faiss", "torch"))
    np.testing.assert_array_equal(ours.index, check.index)
    np.testing.assert_array_equal(ours.closest.m, check.closest.m)


@pytest.mark.parametrize(("name", "engine"), ENGINES[:3])
def test_a_brute_force_loop_finds_the_same_minimum(engine: str, name: str) -> None:
    path = interpolant(name)
    state, noise, bank = problem(30, 25, 6, seed=2, spread=0.3, path=name)
    found = search.nearest(state, noise, bank, path, engine)
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    a, s = path.alpha(grid).numpy(), path.sigma(grid).numpy()
    for i in range(len(state)):
        curves = a[:, None, None] * bank + s[:, None, None] * noise[i]
        distance = np.linalg.norm(state[i] - curves, axis=2)
        time, row = np.unravel_index(distance.argmin(), distance.shape)
        assert found.index[i] == row
        assert np.clip(found.closest.m[i], 0, 1) == pytest.approx(float(grid[time]), abs=3e-4)  # one grid step
        assert found.closest.distance[i] <= distance.min() + 1e-12


@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("c", [0.0, 0.6])
def test_shared_noise_gives_a_constant_ratio_below_one_on_genuine_states(s: float, c: float) -> None:
    draw, d, n = np.random.default_rng(3), 1024, 64
    noise, data = draw.normal(size=(n, d)), s * draw.normal(size=(n, d))
    other = c * data + np.sqrt(1 - c**2) * s * draw.normal(size=(n, d))
    ratios = []
    for t in (0.2, 0.5, 0.9):
        state = t * data + (1 - t) * noise
        found = [search.nearest(state[[i]], noise[[i]], other[[i]], LINE, "torch").closest.m[0] for i in range(n)]
        ratios.append(np.array(found) / t)
    np.testing.assert_allclose(ratios[0], ratios[2], rtol=1e-9)  # exact algebra: rivals 3.1
    expected = (1 + c * s**2) / (1 + s**2)
    assert np.mean(ratios) == pytest.approx(
        expected, abs=0.02
    )  # sd of one is about 1/sqrt(d) = 0.03, of the mean 0.004


def test_the_best_row_of_a_genuine_state_does_not_depend_on_t() -> None:
    draw = np.random.default_rng(4)
    noise, data, bank = draw.normal(size=(20, 64)), draw.normal(size=(20, 64)), draw.normal(size=(100, 64))
    winners = [search.nearest(t * data + (1 - t) * noise, noise, bank, LINE).index for t in (0.1, 0.5, 0.9)]
    np.testing.assert_array_equal(winners[0], winners[1])
    np.testing.assert_array_equal(winners[0], winners[2])


def assert_sound(state: np.ndarray, noise: np.ndarray, bank: np.ndarray) -> float:
    """No certified shortlist may miss the least distance; returns the certified share."""
    shortlist, certified = search._faiss_shortlist(state, noise, bank, LINE)
    exact = distances(state, noise, bank)
    reached = np.take_along_axis(exact, shortlist, 1).min(axis=1)
    slip = 1e-9 * np.linalg.norm(state - noise, axis=1)  # rounding of the loops themselves
    assert (reached <= exact.min(axis=1) + slip)[certified].all()
    return float(certified.mean())


def test_certificates_are_granted_on_ordinary_states() -> None:
    assert assert_sound(*problem(200, 300, 64, seed=5)) > 0.5  # otherwise soundness would say nothing


def close_call(gap: float, t: float, spread: float, d: int, offset: float, seed: int) -> Arrays:
    """25 states whose data lie among 40 rows that are `gap` apart."""
    draw = np.random.default_rng(seed)
    noise = draw.normal(size=(25, d))
    bank = draw.normal(size=(1, d)) + gap * draw.normal(size=(40, d)) + offset
    data = bank[draw.integers(0, 40, size=25)] + gap * draw.normal(size=(25, d))
    return t * data + (1 - t) * noise + spread * t * draw.normal(size=(25, d)), noise, bank


@settings(max_examples=150, deadline=None)
@given(
    gap=st.sampled_from([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]),
    t=st.sampled_from([0.01, 0.02, 0.1, 0.5, 0.9, 0.999, 1.0]),
    spread=st.sampled_from([0.0, 1e-4, 1e-2, 0.3, 1.0]),
    d=st.sampled_from([2, 5, 64]),
    offset=st.sampled_from([0.0, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_a_certificate_is_never_wrong_on_close_calls(
    gap: float, t: float, spread: float, d: int, offset: float, seed: int
) -> None:
    assert_sound(*close_call(gap, t, spread, d, offset, seed))


@pytest.mark.parametrize("t", [1e-3, 1e-4, 1e-5])
def test_a_certificate_is_never_wrong_close_to_the_noise(t: float) -> None:
    """The winner's m lies below the first probed time here; the bound must cover (0, 1e-3) or withhold."""
    for seed in range(10):
        assert_sound(*close_call(1.0, t, 0.0, 5, 0.0, seed))


@pytest.mark.parametrize(("path", "engine"), ENGINES)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_small_banks_are_searched_whole(engine: str, rows: int, path: str) -> None:
    state, noise, bank = problem(10, rows, 16, seed=6, path=path)
    found = search.nearest(state, noise, bank, interpolant(path), engine)
    singles = [
        closest_time(
            torch.from_numpy(state), torch.from_numpy(noise), torch.from_numpy(np.tile(row, (10, 1))), interpolant(path)
        )
        for row in bank
    ]
    distance = np.stack([one.distance for one in singles])
    np.testing.assert_array_equal(found.index, distance.argmin(axis=0))
    np.testing.assert_array_equal(found.closest.distance, distance.min(axis=0))


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_of_equal_rows_the_first_wins(engine: str) -> None:
    state, noise, bank = problem(50, 20, 16, seed=7)
    found = search.nearest(state, noise, np.tile(bank, (3, 1)), LINE, engine)
    np.testing.assert_array_equal(found.index, search.nearest(state, noise, bank, LINE, "torch").index)


@pytest.mark.parametrize("count", [5, 60])
def test_states_behind_the_noise_get_one_answer_from_both_engines(count: int) -> None:
    """At m <= 0 every row is at the distance |state - noise|: the tie must be broken by a rule, not by an engine."""
    draw = np.random.default_rng(8)
    bank, noise = draw.normal(size=(count, 16)) + 4.0, draw.normal(size=(20, 16))
    state = noise - 0.1 * (4.0 - noise)
    ours, check = (search.nearest(state, noise, bank, LINE, engine) for engine in ("faiss", "torch"))
    assert ours.closest.boundary.all()
    np.testing.assert_array_equal(ours.index, check.index)
    np.testing.assert_array_equal(ours.closest.m, check.closest.m)


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_a_bank_row_that_equals_the_noise_is_refused(engine: str) -> None:
    noise = np.random.default_rng(9).normal(size=(1, 8))
    with pytest.raises(InputError, match="equal noise and data"):
        search.nearest(noise + 0.1, noise, noise.copy(), LINE, engine)


def test_shapes_that_do_not_match_are_refused() -> None:
    state, noise, bank = problem(4, 5, 6)
    with pytest.raises(InputError, match="do not match"):
        search.nearest(state, noise, bank[:, :5], LINE)


def test_a_class_that_the_bank_lacks_is_named(images: ImageSet) -> None:
    rows = np.flatnonzero(images.labels.numpy() != 4)
    bank = Bank.of(images.take(rows, "without 4"), conditional=True)
    with pytest.raises(DataError, match="no image of class 4"):
        bank.shard(4)


def test_a_bank_holds_every_row_once_under_its_class(images: ImageSet) -> None:
    bank = Bank.of(images, conditional=True)
    assert len(bank) == len(images)
    for label, rows in bank.shards.items():
        np.testing.assert_array_equal(rows, images.data[images.labels == label].flatten(1).double().numpy())
    assert list(Bank.of(images, conditional=False).shards) == [0]


def test_without_faiss_the_matrix_engine_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    state, noise, bank = problem(10, 20, 8)
    with_faiss = search.nearest(state, noise, bank, LINE, "faiss")
    monkeypatch.setattr("slowflow.measuring.search.faiss", None)
    assert search.backends() == ["torch"]
    assert search.backend("auto", LINE) == "torch"
    np.testing.assert_array_equal(search.nearest(state, noise, bank, LINE, "auto").closest.m, with_faiss.closest.m)
    with pytest.raises(InputError, match=r"slowflow\[cpu\]"):
        search.backend("faiss", LINE)


def test_a_curved_path_is_searched_by_matrices_and_said_so() -> None:
    assert search.backend("auto", interpolant("gvp")) == "torch"
    with pytest.raises(InputError, match="straight paths only"):
        search.backend("faiss", interpolant("vp"))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="unknown search backend 'annoy'"):
        search.backend("annoy", LINE)


class FakeFaiss:
    """FAISS as a GPU build shows itself, on the CPU."""

    def __init__(self, gpus=1, full=False):
        self.real, self.gpus, self.full, self.moved, self.taken = search.faiss, gpus, full, 0, 0

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_num_gpus(self):
        return self.gpus

    def StandardGpuResources(self):
        self.taken += 1
        return self

    def index_cpu_to_gpu(self, resources, device, index):
        assert (resources, device) == (self, 0)
        if self.full:
            raise RuntimeError("Error in StandardGpuResources: out of memory")
        self.moved += 1
        return index


@pytest.mark.parametrize(("gpus", "full", "moved"), [(1, False, 2), (1, True, 0), (0, False, 0)])
def test_faiss_searches_on_a_gpu_where_there_is_one_with_room(monkeypatch, gpus, full, moved):
    pytest.importorskip("faiss")
    draw = np.random.default_rng(0)
    state, noise, rows = (draw.normal(size=(n, 12)) for n in (6, 6, 40))
    plain = search.nearest(state, noise, rows, LINE, "faiss")
    fake = FakeFaiss(gpus, full)
    monkeypatch.setattr(search, "faiss", fake)
    search._gpu.cache_clear()
    found = [search.nearest(state, noise, rows, LINE, "faiss") for _ in range(2)]
    search._gpu.cache_clear()
    assert (fake.moved, fake.taken) == (moved, gpus)  # the GPU is taken once, whatever is searched on it
    for one in found:
        np.testing.assert_array_equal(one.index, plain.index)
        np.testing.assert_array_equal(one.closest.m, plain.closest.m)
