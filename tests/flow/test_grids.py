"""The resolution warp and grids of sampling times."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.flow.grids import uniform_grid, unwarp, warp

shifts = st.floats(0.1, 50.0)
times = st.floats(0.0, 1.0)


def scalar(t):
    return torch.tensor(t, dtype=torch.float64)


@given(t=times, s=shifts)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_unwarp_inverts_warp(t, s):
    # rounding is amplified by at most s = 50
    assert float(unwarp(warp(scalar(t), s), s)) == pytest.approx(t, abs=1e-13)
    assert float(warp(unwarp(scalar(t), s), s)) == pytest.approx(t, abs=1e-13)


@given(t=times, s=shifts)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_warp_is_the_noise_ward_shift_seen_from_the_data_end(t, s):
    n = 1 - t
    expected = 1 - s * n / (1 + (s - 1) * n)
    assert float(warp(scalar(t), s)) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("s", [0.2, 1.0, 3.0, math.sqrt(48)])
def test_warp_is_increasing_and_keeps_the_ends(s):
    warped = warp(torch.linspace(0.0, 1.0, 501, dtype=torch.float64), s)
    assert bool((warped.diff() > 0).all())
    assert float(warped[0]) == 0.0
    assert float(warped[-1]) == pytest.approx(1.0, abs=1e-15)


def test_a_shift_above_one_spends_time_near_the_noise():
    assert float(warp(scalar(0.5), 3.0)) == pytest.approx(0.25)


def test_shift_one_returns_the_times_themselves():
    t = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(warp(t, 1.0), t)
    assert torch.equal(unwarp(t, 1.0), t)


def test_shift_is_a_group():
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    torch.testing.assert_close(warp(warp(t, 3.0), 2.0), warp(t, 6.0), rtol=0, atol=1e-15)


def test_golden_rae_grid():
    s = math.sqrt(48)
    end = float(warp(scalar(0.999), s))
    noise_ward = 1 - uniform_grid(49, end=end, shift=s)
    # by hand the third is 6.64571 / 6.68647 = 0.99390; a note on the official grid prints it as 0.99392
    expected = torch.tensor([1.0, 0.99700, 0.99390, 0.23198, 0.13151, 0.0068873], dtype=torch.float64)
    # the published numbers have five digits
    torch.testing.assert_close(noise_ward[[0, 1, 2, -3, -2, -1]], expected, rtol=0, atol=5.1e-6)
    # printed without rounding up: 0.00688737
    assert float(noise_ward[-1]) == pytest.approx(0.0068873, abs=1e-7)
    assert len(noise_ward) == 50


def test_plain_grid_is_linspace():
    expected = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    torch.testing.assert_close(uniform_grid(8), expected, rtol=0, atol=1e-16)


@given(steps=st.integers(1, 200), s=st.floats(0.1, 20.0), end=st.floats(0.5, 1.0))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_grid_has_steps_plus_one_increasing_float64_times_with_exact_ends(steps, s, end):
    grid = uniform_grid(steps, end=end, shift=s)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == torch.float64
    assert (float(grid[0]), float(grid[-1])) == (0.0, end)
    assert bool((grid.diff() > 0).all())


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_halving_a_grid_keeps_every_second_time(s):
    fine, coarse = uniform_grid(20, shift=s), uniform_grid(10, shift=s)
    torch.testing.assert_close(fine[::2], coarse, rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [0, -3])
def test_too_few_steps_are_refused(steps):
    with pytest.raises(InputError, match=f"steps is {steps}"):
        uniform_grid(steps)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (0.0, 1.1), (0.5, 0.5), (0.8, 0.2), (0.0, math.nan)])
def test_bad_ends_are_refused(start, end):
    with pytest.raises(InputError, match="expected 0 <= start < end <= 1"):
        uniform_grid(4, start=start, end=end)
