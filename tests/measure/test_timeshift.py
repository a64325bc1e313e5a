"""The variance rule of the Time-Shift Sampler: its published null, and what the correction can and cannot see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.flow.interpolants import interpolant
from slowflow.measuring.references import REFERENCES, Assigned, Trajectories

D = 64
TIMES = np.linspace(0.1, 0.9, 9)
PATTERN = np.array([1.0, -1.0] * (D // 2)) * np.sqrt((D - 1) / D)  # pixel variance (ddof 1) exactly 1


def bank(*data_variances: float) -> Bank:
    """One class for each pixel variance, each image of exactly that variance."""
    shards = {c: np.stack([0.3 + np.sqrt(v) * PATTERN, -np.sqrt(v) * PATTERN]) for c, v in enumerate(data_variances)}
    return Bank(shards, "flat", "")


def batch(
    states: np.ndarray, times: np.ndarray, path: str = "linear", labels: np.ndarray | None = None
) -> Trajectories:
    unused = np.zeros((len(states), D))
    labels = np.zeros(len(states), dtype=np.int64) if labels is None else labels
    return Trajectories(states, unused, unused, labels, times, interpolant(path), np.arange(len(states)))


def of_variance(variance: np.ndarray) -> np.ndarray:
    """States [n, time, D] of exactly the given pixel variances, on different means."""
    return np.sqrt(variance)[..., None] * PATTERN + 0.7


def expected(path: str, m: np.ndarray, data: float) -> np.ndarray:
    way, at = interpolant(path), torch.from_numpy(m)
    return way.sigma(at).numpy() ** 2 + data * way.alpha(at).numpy() ** 2


def assigned(
    name: str, states: np.ndarray, times: np.ndarray = TIMES, path: str = "linear", data: float = 0.25
) -> Assigned:
    return REFERENCES.get(name).assign(batch(states, times, path), bank(data), "torch")


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_published_rule_inverts_sigma(path: str) -> None:
    found = assigned("timeshift", of_variance(expected(path, TIMES, 0.0))[None], path=path)
    np.testing.assert_allclose(found.m[0], TIMES, rtol=0, atol=1e-9)  # bisection in float64
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-9)
    assert not found.boundary.any()


@pytest.mark.parametrize("data", [0.25, 0.5])
def test_the_published_null_is_slow(data: float) -> None:
    """A genuine state with exactly the mean variance: 1 - m = sqrt((1 - t)^2 + s^2 t^2)."""
    found = assigned("timeshift", of_variance(expected("linear", TIMES, data))[None], data=data)
    null = 1.0 - np.sqrt((1.0 - TIMES) ** 2 + data * TIMES**2)
    np.testing.assert_allclose(found.m[0], null, rtol=0, atol=1e-9)
    assert (found.m[0] < TIMES).all()


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_at_the_data_the_published_rule_reads_the_variance_of_the_image_as_noise(path: str) -> None:
    found = assigned("timeshift", of_variance(np.array([[0.25, 0.25]])), np.array([0.9, 1.0]), path)
    sigma = interpolant(path).sigma(torch.from_numpy(found.m[0])).numpy()
    np.testing.assert_allclose(sigma, 0.5, rtol=0, atol=1e-9)


def genuine(times: np.ndarray, data: float, n: int = 600) -> np.ndarray:
    draw, t = np.random.default_rng(0), times[:, None]
    return (1 - t) * draw.normal(size=(n, 1, D)) + t * np.sqrt(data) * draw.normal(size=(n, 1, D))


def test_random_genuine_states_come_out_at_the_published_null_and_at_t_when_corrected() -> None:
    states, early = genuine(TIMES, 0.25), TIMES < 0.6
    rule, corrected = assigned("timeshift", states), assigned("timeshift-corrected", states)
    null = 1.0 - np.sqrt((1.0 - TIMES) ** 2 + 0.25 * TIMES**2)
    # a variance of 64 pixels has a relative sd of 0.18, so m has one of 0.09 (1 - t): 0.004 for the mean of 600; the
    # square root pulls it by another 0.004
    np.testing.assert_allclose(rule.m.mean(axis=0), null, rtol=0, atol=0.012)
    # the minimum is at 0.8; further from it than the spread of m, the correction has no bias but that of the root
    np.testing.assert_allclose(corrected.m.mean(axis=0)[early], TIMES[early], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("path", "data"), [("linear", 0.25), ("linear", 2.0), ("gvp", 0.25), ("vp", 0.25), ("gvp", 3.0)]
)
def test_the_correction_finds_t_on_either_branch(path: str, data: float) -> None:
    found = assigned("timeshift-corrected", of_variance(expected(path, TIMES, data))[None], path=path, data=data)
    # at t = 0.8 = 1/(1 + s^2) the curve has no slope, and a variance good to 1e-16 gives m to 1e-8; VP at t = 0.1 too
    np.testing.assert_allclose(found.m[0], TIMES, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-9)


def test_the_root_nearest_the_states_own_time_is_taken() -> None:
    """With s^2 = 1 the variances at 0.3 and 0.7 are equal; t alone decides."""
    states = of_variance(np.full(3, expected("linear", np.array(0.3), 1.0)))[None]
    found = assigned("timeshift-corrected", states, np.array([0.2, 0.49, 0.6]), data=1.0)
    np.testing.assert_allclose(found.m[0], [0.3, 0.3, 0.7], rtol=0, atol=1e-9)


@pytest.mark.parametrize("lag", [0.1, -0.1])
def test_a_planted_lag_is_seen_before_the_minimum(lag: float) -> None:
    early = np.linspace(0.1, 0.6, 6)
    found = assigned("timeshift-corrected", of_variance(expected("linear", (1 - lag) * early, 0.25))[None], early)
    np.testing.assert_allclose(found.m[0], (1 - lag) * early, rtol=0, atol=1e-6)


def test_a_variance_that_no_time_has_is_flagged_at_the_nearest_point() -> None:
    states = of_variance(np.array([[0.1, 0.19, 0.21]]))  # the minimum is s^2 / (1 + s^2) = 0.2
    found = assigned("timeshift-corrected", states, np.array([0.5, 0.8, 0.8]))
    np.testing.assert_array_equal(found.boundary[0], [True, True, False])
    np.testing.assert_allclose(found.m[0, :2], 0.8, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.residual[0], [1.0, 0.01 / 0.19, 0.0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["timeshift", "timeshift-corrected"])
def test_m_is_not_confined_on_the_linear_path_but_flagged(name: str) -> None:
    loud = of_variance(np.array([[1.44]]))
    found = assigned(name, loud, np.array([0.1]), data=0.25)
    root = 1.0 - 1.2 if name == "timeshift" else (1 - np.sqrt(1 + 1.25 * 0.44)) / 1.25
    assert found.m[0, 0] == pytest.approx(root, abs=1e-9)
    assert found.boundary.all()
    assert found.residual[0, 0] == pytest.approx(0.44 / 1.44, abs=1e-9)  # against the variance at m = 0
    curved = assigned(name, loud, np.array([0.1]), path="gvp")
    assert curved.m[0, 0] == 0.0
    assert curved.boundary.all()


def test_a_flat_curve_says_nothing_and_says_so() -> None:
    """Variance preserving, data of variance 1: every time has variance 1."""
    found = assigned("timeshift-corrected", of_variance(np.array([[0.9, 1.1]])), np.array([0.3, 0.6]), "vp", data=1.0)
    assert found.boundary.all()
    assert np.isfinite(found.m).all()


def test_each_class_has_its_own_variance() -> None:
    labels, data = np.array([1, 0, 1]), np.array([0.5, 0.1, 0.5])
    states = of_variance(np.stack([expected("linear", np.array([0.3, 0.5]), v) for v in data]))
    one = batch(states, np.array([0.3, 0.5]), labels=labels)
    found = REFERENCES.get("timeshift-corrected").assign(one, bank(0.1, 0.5), "torch")
    np.testing.assert_allclose(found.m, np.broadcast_to([0.3, 0.5], (3, 2)), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.index, np.full((3, 2), -1))


def test_neither_shares_noise_nor_asks_for_other_trajectories() -> None:
    for name in ("timeshift", "timeshift-corrected"):
        reference = REFERENCES.get(name)
        assert reference.start == "noise"
        assert not reference.shares_noise
