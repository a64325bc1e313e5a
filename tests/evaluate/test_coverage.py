"""Precision, recall, density, coverage: cases that can be counted by hand, a plain loop, and what dropping modes does."""

from __future__ import annotations

import numpy as np
import pytest

from slowflow.errors import InputError
from slowflow.evaluating import coverage
from slowflow.evaluating.coverage import Neighbourhood, neighbourhood, squared_radii

REAL = np.array([[0.0], [1.0], [3.0], [10.0]])  # with one neighbour the radii are 1, 1, 2 and 7


def of(real: np.ndarray, made: np.ndarray, neighbours: int = 5, weights: np.ndarray | None = None) -> Neighbourhood:
    drawn = np.ones((1, len(made))) if weights is None else weights[None]
    return neighbourhood(real, made, drawn, neighbours=neighbours, peers=min(neighbours, 3))


def test_balls_reach_to_the_nearest_other_sample() -> None:
    np.testing.assert_array_equal(squared_radii(REAL, (1,))[:, 0], [1.0, 1.0, 4.0, 49.0])
    np.testing.assert_array_equal(squared_radii(REAL, (2, 1)), [[9.0, 1.0], [4.0, 1.0], [9.0, 4.0], [81.0, 49.0]])


def test_a_case_that_is_counted_by_hand() -> None:
    made = np.array([[0.5], [2.0], [3.5], [-5.0]])
    # real balls: 0 +- 1 and 1 +- 1 (rims belong), 3 +- 2, 10 +- 7; the samples lie in 2, 2, 2 and none of them
    found = of(REAL, made, neighbours=1)
    assert found.density[0] == (2 + 2 + 2 + 0) / 4
    assert found.coverage[0] == 1.0
    assert found.precision[0] == 3 / 4
    # generated balls: 0.5 +- 1.5, 2 +- 1.5, 3.5 +- 1.5, -5 +- 5.5; 0, 1 and 3 lie in some, 10 in none
    assert found.recall[0] == 3 / 4


def plain(real: np.ndarray, made: np.ndarray, k: int, dc: int) -> tuple[float, float, float, float]:
    """The four definitions as sums over pairs."""

    def radius(x: np.ndarray, i: int, n: int) -> float:
        return float(np.sort(np.linalg.norm(x - x[i], axis=1))[n])  # position 0 is the sample itself

    far = np.linalg.norm(real[:, None] - made[None], axis=2)
    near3 = np.array([radius(real, i, k) for i in range(len(real))])
    near5 = np.array([radius(real, i, dc) for i in range(len(real))])
    reach = np.array([radius(made, i, k) for i in range(len(made))])
    precision = np.mean([any(far[i, j] <= near3[i] for i in range(len(real))) for j in range(len(made))])
    recall = np.mean([any(far[i, j] <= reach[j] for j in range(len(made))) for i in range(len(real))])
    density = np.sum(far <= near5[:, None]) / dc / len(made)
    return float(precision), float(recall), float(density), float(np.mean((far <= near5[:, None]).any(axis=1)))


@pytest.mark.parametrize("block", [2**23, 40, 1])
def test_blocks_give_what_a_plain_loop_gives(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(coverage, "BLOCK", block)
    draw = np.random.default_rng(3)
    real, made = draw.normal(size=(30, 3)) + 100.0, 0.8 * draw.normal(size=(40, 3)) + 100.3
    found = of(real, made)
    wanted = plain(real, made, 3, 5)
    np.testing.assert_allclose([found.precision[0], found.recall[0], found.density[0], found.coverage[0]], wanted)


def test_samples_in_one_place_are_dense_and_cover_little() -> None:
    found = of(REAL, np.full((5, 1), 0.5), neighbours=1)
    assert (found.density[0], found.coverage[0], found.precision[0], found.recall[0]) == (2.0, 0.5, 1.0, 0.0)


def test_samples_far_away_have_nothing() -> None:
    found = of(REAL, np.array([[99.0], [99.5], [100.0]]), neighbours=1)
    assert (found.density[0], found.coverage[0], found.precision[0], found.recall[0]) == (0.0, 0.0, 0.0, 0.0)


def test_precision_and_density_of_a_resample_are_those_of_its_samples() -> None:
    draw = np.random.default_rng(5)
    real, made = draw.normal(size=(20, 2)), draw.normal(size=(20, 2))
    weights = (np.arange(20) % 3).astype(float)
    found, kept = of(real, made, weights=weights), np.repeat(made, weights.astype(int), axis=0)
    assert found.density[0] == pytest.approx(of(real, kept).density[0])
    assert found.precision[0] == pytest.approx(of(real, kept).precision[0])


@pytest.mark.parametrize("block", [2**23, 40])
def test_recall_and_coverage_of_a_resample_add_up_what_each_sample_is_worth(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(coverage, "BLOCK", block)
    draw = np.random.default_rng(6)
    real, made = 1.3 * draw.normal(size=(20, 2)), draw.normal(size=(12, 2))
    whole = of(real, made)
    without = [of(real, np.delete(made, j, axis=0)) for j in range(12)]
    counts = draw.multinomial(12, np.full(12, 1 / 12), size=4).astype(float)
    found = neighbourhood(real, made, counts)
    for name in ("recall", "coverage"):
        value = getattr(whole, name)[0]
        worth = 11 * (value - np.array([getattr(one, name)[0] for one in without]))
        assert worth.std() > 0
        wanted = value + counts @ (worth - worth.mean()) / 12
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-9)


@pytest.mark.parametrize(("scale", "d"), [(1.0, 3), (1.2, 3), (1.1, 32)])
def test_resamples_scatter_at_least_as_new_samples_do(scale: float, d: int) -> None:
    draw, n = np.random.default_rng(0), 150
    real = draw.normal(size=(n, d))
    ones = np.ones((1, n))
    counts = draw.multinomial(n, np.full(n, 1 / n), size=200).astype(float)
    new = [neighbourhood(real, scale * draw.normal(size=(n, d)), ones) for _ in range(80)]
    again = [neighbourhood(real, scale * draw.normal(size=(n, d)), counts) for _ in range(8)]
    for name in ("precision", "recall", "density", "coverage"):
        true = np.std([getattr(one, name)[0] for one in new])
        told = np.mean([getattr(one, name).std() for one in again])
        assert told > 0.75 * true, name  # sd of a sd of 80 numbers is 8 %
        assert told < 2.5 * true, name


def test_dropping_modes_lowers_coverage_and_recall_and_keeps_density_and_precision() -> None:
    draw = np.random.default_rng(0)
    centres, labels = 20 * draw.normal(size=(10, 4)), np.arange(500) % 10
    real, made = (centres[labels] + draw.normal(size=(500, 4)) for _ in range(2))
    whole, half = of(real, made), of(real, made[labels < 5])
    assert whole.coverage[0] > 0.9  # five neighbours, equal n: 1 - 2^-5 expected
    assert half.coverage[0] == pytest.approx(0.5 * whole.coverage[0], abs=0.05)  # half the modes
    assert half.recall[0] == pytest.approx(0.5 * whole.recall[0], abs=0.05)
    assert half.density[0] == pytest.approx(whole.density[0], abs=0.2)  # sd of a density is about 0.05
    assert half.precision[0] == pytest.approx(whole.precision[0], abs=0.05)


def test_sharper_samples_are_denser_and_more_precise() -> None:
    draw = np.random.default_rng(1)
    real = draw.normal(size=(300, 4))
    found = [of(real, scale * draw.normal(size=(300, 4))) for scale in (2.0, 1.0, 0.5)]
    assert [f.density[0] for f in found] == sorted(f.density[0] for f in found)
    assert [f.precision[0] for f in found] == sorted(f.precision[0] for f in found)


def test_a_set_against_itself_is_whole() -> None:
    real = np.random.default_rng(2).normal(size=(50, 3))
    found = of(real, real)
    assert (found.coverage[0], found.precision[0], found.recall[0]) == (1.0, 1.0, 1.0)


def test_too_few_features_are_refused() -> None:
    with pytest.raises(InputError, match="5 real features are too few for 5 neighbours"):
        of(np.zeros((5, 2)), np.zeros((6, 2)))
    with pytest.raises(InputError, match="4 generated features are too few for 3 neighbours and the next"):
        of(np.zeros((9, 2)), np.zeros((4, 2)))
