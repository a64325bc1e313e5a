"""The nearest time on one given pair: exact on genuine states, unclipped outside, independent of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.data.bank import Bank
from slowflow.errors import InputError
from slowflow.flow.interpolants import interpolant
from slowflow.measuring.closest import closest_time
from slowflow.measuring.references import REFERENCES, Trajectories

PATHS = ("linear", "gvp", "vp")


def pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(size=shape)), torch.from_numpy(0.7 * draw.normal(size=shape) + 0.2)


@pytest.mark.parametrize("name", PATHS)
@settings(max_examples=60, deadline=None)
@given(
    t=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5),
    shape=st.sampled_from([(8,), (1, 3, 3), (3, 4, 4), (2, 50)]),
    seed=st.integers(0, 10_000),
)
def test_a_genuine_state_is_at_its_own_time(name: str, t: list[float], shape: tuple[int, ...], seed: int) -> None:
    noise, data = pair(seed, len(t), *shape)
    path, times = interpolant(name), torch.tensor(t, dtype=torch.float64)
    found = closest_time(path.state(noise, data, times), noise, data, path)
    np.testing.assert_allclose(found.m, t, rtol=0, atol=1e-9)  # float64 rounding, far above 1e-12 of the bisection
    assert found.distance.max() < 1e-6  # 1e-9 in m times a path shorter than 1e3


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("spread", [0.05, 1.0, 5.0])
def test_brute_force_over_a_grid_finds_the_same_time(name: str, spread: float) -> None:
    noise, data = pair(3, 40, 12)
    path, t = interpolant(name), torch.linspace(0.02, 0.98, 40, dtype=torch.float64)
    state = path.state(noise, data, t) + spread * pair(4, 40, 12)[0]
    found = closest_time(state, noise, data, path)
    grid = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)
    curve = path.alpha(grid)[:, None, None] * data + path.sigma(grid)[:, None, None] * noise
    distance = (state - curve).norm(dim=2)
    np.testing.assert_allclose(
        np.clip(found.m, 0, 1), grid[distance.argmin(0)].numpy(), rtol=0, atol=6e-5
    )  # one step: 5e-5
    least = distance.min(0).values.numpy()
    assert (found.distance <= least + 1e-9).all()
    np.testing.assert_allclose(
        found.distance, least, rtol=0, atol=1e-3
    )  # VP moves by 0.5 / sqrt(step) in the last step


@pytest.mark.parametrize("m", [-0.3, -0.01, 1.01, 1.4])
def test_a_time_outside_the_unit_interval_is_reported_and_flagged(m: float) -> None:
    noise, data = pair(5, 3, 1, 4, 4)
    found = closest_time(m * data + (1 - m) * noise, noise, data, interpolant("linear"))
    np.testing.assert_allclose(found.m, m, rtol=0, atol=1e-12)
    assert found.boundary.all()
    beyond = abs(m - np.clip(m, 0, 1)) * (data - noise).flatten(1).norm(dim=1).numpy()
    np.testing.assert_allclose(found.distance, beyond, rtol=1e-9)


def test_a_time_inside_is_not_flagged() -> None:
    noise, data = pair(6, 3, 20)
    for name in PATHS:
        path = interpolant(name)
        found = closest_time(path.state(noise, data, torch.tensor(0.5).double()), noise, data, path)
        assert not found.boundary.any()


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_curved_paths_flag_states_beyond_their_ends(name: str) -> None:
    noise, data = torch.eye(6, dtype=torch.float64)[:1], torch.eye(6, dtype=torch.float64)[1:2]
    late = closest_time(2 * data, noise, data, interpolant(name))
    early = closest_time(2 * noise - 0.1 * data, noise, data, interpolant(name))
    assert (late.m[0], bool(late.boundary[0])) == (1.0, True)
    assert (early.m[0], bool(early.boundary[0])) == (0.0, True)


@pytest.mark.parametrize("s", [0.25, 0.5, 2.0])
def test_the_exact_flow_of_a_gaussian_bends_on_its_own_chord_as_derived(s: float) -> None:
    t = np.linspace(0.05, 1.0, 20)
    noise = np.random.default_rng(1).normal(size=(5, 32))
    scale = np.sqrt((1 - t) ** 2 + s**2 * t**2)  # the exact flow of N(0, s^2) maps x0 to this multiple of x0
    states = noise[:, None, :] * scale[None, :, None]
    batch = Trajectories(states, noise, s * noise, np.zeros(5, dtype=np.int64), t, interpolant("linear"), np.arange(5))
    unused = Bank({0: noise}, "unused", "0")
    found = REFERENCES.get("own").assign(batch, unused, "torch")
    expected = np.broadcast_to((scale - 1) / (s - 1), found.m.shape)
    np.testing.assert_allclose(found.m, expected, rtol=0, atol=1e-9)  # algebra, rounding only
    inside = (expected > 1e-9) & (expected < 1 - 1e-9)
    np.testing.assert_array_equal(found.boundary[:, :-1], ~inside[:, :-1])


def test_a_degenerate_pair_is_refused_by_its_number() -> None:
    noise, data = pair(7, 3, 5)
    data[1] = noise[1]
    with pytest.raises(InputError, match="pair 1 has equal noise and data"):
        closest_time(noise + 0.1, noise, data, interpolant("linear"))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("d", [3, 64, 784, 12_000])
def test_a_row_has_the_same_bits_in_every_batch(name: str, d: int) -> None:
    noise, data = pair(8, 33, d)
    path = interpolant(name)
    state = path.state(noise, data, torch.linspace(0, 1, 33, dtype=torch.float64)) + 0.3 * pair(9, 33, d)[0]
    whole = closest_time(state, noise, data, path)
    for first, last in ((0, 1), (5, 6), (3, 10), (1, 33)):
        part = closest_time(state[first:last], noise[first:last], data[first:last], path)
        np.testing.assert_array_equal(part.m, whole.m[first:last])
        np.testing.assert_array_equal(part.distance, whole.distance[first:last])
