"""Density and coverage: cases that can be counted by hand, and what dropping modes does to each."""

from __future__ import annotations

import numpy as np
import pytest

from slowflow.errors import InputError
from slowflow.evaluating import coverage as metrics
from slowflow.evaluating.coverage import inside


def density(hits, weights, neighbours=5):
    return float(metrics.density(hits, weights[None], neighbours)[0])


def coverage(hits, weights):
    return float(metrics.coverage(hits, weights[None])[0])


REAL = np.array([[0.0], [1.0], [3.0], [10.0]])  # with one neighbour the radii are 1, 1, 2 and 7


def ones(n: int) -> np.ndarray:
    return np.ones(n)


def test_balls_reach_to_the_nearest_other_real_sample() -> None:
    hits = inside(REAL, np.array([[0.5], [2.0], [3.5], [-5.0]]), neighbours=1)
    expected = [
        [True, False, False, False],  # 0 +- 1
        [True, True, False, False],  # 1 +- 1, the rim belongs to the ball
        [False, True, True, False],  # 3 +- 2
        [False, False, True, False],  # 10 +- 7
    ]
    np.testing.assert_array_equal(hits, expected)
    assert density(hits, ones(4), neighbours=1) == 6 / 4
    assert coverage(hits, ones(4)) == 1.0


def test_samples_in_one_place_are_dense_and_cover_little() -> None:
    hits = inside(REAL, np.full((5, 1), 0.5), neighbours=1)
    assert density(hits, ones(5), neighbours=1) == 2.0
    assert coverage(hits, ones(5)) == 0.5


def test_samples_far_away_have_neither() -> None:
    hits = inside(REAL, np.full((3, 1), 99.0), neighbours=1)
    assert density(hits, ones(3), neighbours=1) == 0.0
    assert coverage(hits, ones(3)) == 0.0


def test_weights_count_samples_and_zero_removes_them() -> None:
    made = np.array([[0.5], [3.5]])
    hits = inside(REAL, made, neighbours=1)
    for weights, repeats in ((np.array([2.0, 0.0]), made[[0, 0]]), (np.array([1.0, 3.0]), made[[0, 1, 1, 1]])):
        again = inside(REAL, repeats, neighbours=1)
        assert density(hits, weights, neighbours=1) == density(again, ones(len(repeats)), neighbours=1)
        assert coverage(hits, weights) == coverage(again, ones(len(repeats)))


def test_dropping_modes_lowers_coverage_and_keeps_density() -> None:
    draw = np.random.default_rng(0)
    centres, labels = 20 * draw.normal(size=(10, 4)), np.arange(500) % 10
    real, made = (centres[labels] + draw.normal(size=(500, 4)) for _ in range(2))
    whole, half = inside(real, made), inside(real, made[labels < 5])
    assert coverage(whole, ones(500)) > 0.9  # five neighbours, equal n: 1 - 2^-5 expected
    assert coverage(half, ones(250)) == pytest.approx(0.5 * coverage(whole, ones(500)), abs=0.05)  # half the modes
    assert density(half, ones(250)) == pytest.approx(
        density(whole, ones(500)), abs=0.2
    )  # sd of a density is about 0.05


def test_sharper_samples_are_denser() -> None:
    draw = np.random.default_rng(1)
    real = draw.normal(size=(300, 4))
    values = [density(inside(real, scale * draw.normal(size=(300, 4))), ones(300)) for scale in (2.0, 1.0, 0.5)]
    assert values == sorted(values)


def test_a_set_against_itself_covers_everything() -> None:
    real = np.random.default_rng(2).normal(size=(50, 3))
    assert coverage(inside(real, real), ones(50)) == 1.0


def test_too_few_real_features_are_refused() -> None:
    with pytest.raises(InputError, match="5 real features are too few for 5 neighbours"):
        inside(np.zeros((5, 2)), np.zeros((3, 2)))
