"""Kernel distance: the double sum of its definition, no bias, the published subsets."""

from __future__ import annotations

import numpy as np
import pytest

from slowflow.errors import InputError
from slowflow.evaluating import kernel as module
from slowflow.evaluating.kernel import over_subsets, squared_mmd


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 5)) + shift


def defined(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, equation 4, term by term."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    own = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    real = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + real - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [2**23, 60, 1])
def test_it_is_the_sum_of_its_definition(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    x, y = features(20, 1, 0.3), features(25, 2)
    assert squared_mmd(x, y, np.ones((1, 20)))[0] == pytest.approx(defined(x, y), rel=1e-10)


def test_two_points_by_hand() -> None:
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [2.0]])
    # k(0,1) = 1; k(2,2) = 125; k(0,2) = 1, k(1,2) = 27
    assert squared_mmd(x, y, np.ones((1, 2)))[0] == 1.0 + 125.0 - 2 * (1 + 27) / 2


def test_it_has_no_bias_at_any_n() -> None:
    for n in (10, 40):
        found = [squared_mmd(features(n, 2 * s), features(n, 2 * s + 1), np.ones((1, n)))[0] for s in range(300)]
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)
        assert min(found) < 0


def test_resamples_scatter_as_new_samples_do() -> None:
    y, n = features(200, 1), 200
    new = [squared_mmd(features(n, 100 + s, 0.5), y, np.ones((1, n)))[0] for s in range(150)]
    draw = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=300).astype(float)
    scatter = np.mean([squared_mmd(features(n, 900 + s, 0.5), y, draw).std() for s in range(5)])
    assert scatter == pytest.approx(np.std(new), rel=0.3)


def test_the_mean_over_subsets_agrees_with_all_pairs() -> None:
    x, y = features(400, 1, 0.4), features(400, 2)
    mean, deviation = over_subsets(x, y, size=100, count=60)
    assert mean == pytest.approx(squared_mmd(x, y, np.ones((1, 400)))[0], abs=3 * deviation / np.sqrt(60))
    with pytest.raises(InputError, match="subsets of 1000"):
        over_subsets(x, y)


def test_it_grows_with_the_shift() -> None:
    y = features(200, 1)
    found = [squared_mmd(features(200, 2, shift), y, np.ones((1, 200)))[0] for shift in (0.0, 0.5, 1.0)]
    assert found == sorted(found)


def test_one_feature_has_no_pairs() -> None:
    with pytest.raises(InputError, match="at least 2"):
        squared_mmd(features(1, 0), features(5, 1), np.ones((1, 1)))
