"""FD at infinite n: planted distances come back without the bias, with an interval that holds them."""

from __future__ import annotations

import numpy as np
import pytest

from slowflow.evaluating.extrapolate import largest_cut, to_infinity
from slowflow.evaluating.frechet import distance
from slowflow.evaluating.moments import Moments, moments

D = 8


def sets(seed: int, n: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return scale * draw.normal(size=(n, D)), draw.normal(size=(n, D))


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_planted_distances_come_back_without_the_bias(scale: float) -> None:
    truth = D * (scale - 1.0) ** 2
    found, raw = [], []
    for seed in range(25):
        made, real = sets(seed, 400, scale)
        found.append(to_infinity(made, real, seed))
        raw.append(distance(moments(made), moments(real)))
    values = np.array([one.value for one in found])
    standard_error = values.std() / 5
    assert abs(values.mean() - truth) < 3 * standard_error + 0.003  # the bend of the line leaves a few thousandths
    assert np.mean(raw) - truth > 10 * abs(values.mean() - truth)  # what finite n adds
    assert sum(one.low <= truth <= one.high for one in found) >= 20  # 95 % of 25, three deviations below


def test_a_reference_of_exact_moments_is_met_too() -> None:
    truth = Moments(np.zeros(D), np.eye(D), 0)
    found = [to_infinity(sets(seed, 400, 1.2)[0], truth, seed) for seed in range(15)]
    assert np.mean([one.value for one in found]) == pytest.approx(D * 0.04, abs=0.06)


def test_it_does_not_depend_on_chance_and_says_its_n() -> None:
    made, real = sets(0, 300, 1.1)
    assert to_infinity(made, real, 5) == to_infinity(made, real, 5)
    assert to_infinity(made, real, 5).n == 300


@pytest.mark.parametrize(("n", "width", "cut"), [(400, 64, 2), (400, 8, 5), (50_000, 2048, 5), (200, 64, 1)])
def test_sets_are_never_smaller_than_twice_the_width(n: int, width: int, cut: int) -> None:
    assert largest_cut(n, width) == cut


def test_too_few_samples_are_not_extrapolated() -> None:
    made, real = sets(0, 100, 1.0)
    assert to_infinity(made, real) is None
    assert to_infinity(np.zeros((200, 64)), np.zeros((200, 64))) is None
