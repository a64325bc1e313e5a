"""DDPM's table as a path: exact at table times, monotone between them, no velocity, the same circle as gvp."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler
from slowflow.flow.table import Table, linear_betas
from slowflow.measuring.closest import closest_time


def ddpm():
    """abar of DDPM's linear betas, written again with NumPy."""
    return np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))


def zero_terminal():
    """A cosine table whose last level holds no signal at all."""
    abar = np.cos(np.linspace(0.02, math.pi / 2, 40)) ** 2
    abar[-1] = 0.0
    return torch.from_numpy(abar)


TABLES = {"ddpm": Table(), "zero-terminal": Table(zero_terminal()), "two levels": Table(torch.tensor([0.9, 0.2]))}


def every(n=5003):
    return torch.linspace(0.0, 1.0, n, dtype=torch.float64)


def test_table_times_hold_the_table():
    path, k = Table(), torch.arange(1000, dtype=torch.float64)
    t = path.time(k)
    assert float(t[-1]) == 0.0
    assert float(t[0]) == pytest.approx(0.999, abs=1e-15)
    # 1e-9: log-SNR and back, amplified where abar is near 1 or 0
    np.testing.assert_allclose(path.alpha(t) ** 2, ddpm(), rtol=1e-9)
    np.testing.assert_allclose(path.sigma(t) ** 2, 1.0 - ddpm(), rtol=1e-9)
    np.testing.assert_allclose(path.label(t), k, atol=1e-9)


def test_labels_of_levels_are_whole_numbers_in_either_precision():
    path, k = Table(), torch.arange(1000, dtype=torch.float64)
    assert torch.equal(path.label(path.time(k)), k)
    assert torch.equal(path.label(path.time(k).float().double()), k)
    # between levels they are not, and they never leave the table
    between = path.label(torch.tensor([0.0004, 0.5005, 0.9995], dtype=torch.float64))
    np.testing.assert_allclose(between, [998.6, 498.5, 0.0], atol=1e-9)


def test_golden_noise_end_of_the_linear_table():
    # the value by which DDPM's table differs from the continuous VP path (4.3e-5)
    assert float(linear_betas()[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(Table().alpha(torch.tensor(0.0, dtype=torch.float64)) ** 2) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(interpolant("vp").alpha(torch.tensor(0.0, dtype=torch.float64)) ** 2) == pytest.approx(
        4.3e-5, rel=0.01
    )


@pytest.mark.parametrize("path", TABLES.values(), ids=TABLES)
def test_a_table_is_monotone_unit_and_ends_clean(path):
    t = every()
    alpha, sigma = path.alpha(t), path.sigma(t)
    assert bool((alpha.diff() > 0).all())
    assert bool((sigma.diff() < 0).all())
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-14)
    assert float(sigma[-1]) == 0.0
    assert float(alpha[-1]) == 1.0
    # no jump at a knot: neighbours 2e-4 apart in t stay close
    assert float(path.twin(t)[1].diff().abs().max()) < 0.05


def test_zero_terminal_tables_start_at_pure_noise():
    path = TABLES["zero-terminal"]
    assert float(path.alpha(torch.tensor(0.0, dtype=torch.float64))) == 0.0
    assert bool(torch.isfinite(path.alpha(every())).all())


@pytest.mark.parametrize("path", TABLES.values(), ids=TABLES)
@given(t=st.floats(0.001, 0.9999))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_log_snr_is_inverted(path, t):
    time = torch.tensor(t, dtype=torch.float64)
    assert float(path.time_of_log_snr(path.log_snr(time))) == pytest.approx(t, abs=1e-7)


@pytest.mark.parametrize("path", TABLES.values(), ids=TABLES)
def test_the_twin_has_the_same_coefficients(path):
    t = every(501)
    twin, times = path.twin(t)
    np.testing.assert_allclose(twin.alpha(times), path.alpha(t), atol=1e-14)
    np.testing.assert_allclose(twin.sigma(times), path.sigma(t), atol=1e-14)


@given(t=st.floats(0.01, 0.999), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_nearest_time_of_an_own_interpolation_is_t(t, seed):
    draw = torch.Generator().manual_seed(seed)
    noise, data = (torch.randn(3, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    path = Table()
    found = closest_time(path.state(noise, data, torch.tensor(t, dtype=torch.float64)), noise, data, path)
    np.testing.assert_allclose(found.m, t, atol=1e-8)
    assert not found.boundary.any()


@pytest.mark.parametrize("name", ["euler", "heun", "em"])
def test_samplers_that_need_a_velocity_refuse_a_table(name):
    model = FlowModel.from_callable(lambda x, t, c: x, shape=(1, 2, 2), interpolant="table", prediction="noise")
    state, t = torch.zeros(1, 1, 2, 2), torch.tensor([0.1, 0.2], dtype=torch.float64)
    with pytest.raises(InputError, match="no derivative, so there is no velocity on it; sample with recombine"):
        sampler(name).step(model, state, t[0], t[1], torch.zeros(1, dtype=torch.int64), state)


def test_a_respaced_grid_is_the_named_levels_and_the_end():
    np.testing.assert_allclose(Table().grid([999, 499, 0]), [0.0, 0.5, 0.999, 1.0], atol=1e-15)


@pytest.mark.parametrize("abar", [[0.5], [0.2, 0.9], [0.9, 0.9], [1.0, 0.5], [0.9, -0.1], [0.9, float("nan")]])
def test_levels_that_do_not_fall_are_refused(abar):
    with pytest.raises(InputError, match="at least two values of abar that fall strictly"):
        Table(torch.tensor(abar))


def test_a_model_with_its_own_table_has_its_own_name():
    names = {Table().name, Table(zero_terminal()).name, Table(torch.tensor([0.9, 0.2])).name}
    assert len(names) == 3
    assert interpolant("table").name == "table"
