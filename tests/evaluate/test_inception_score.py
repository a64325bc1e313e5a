"""Inception Score: its closed forms, its definition, its splits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slowflow.evaluating.inception_score import inception_score


def score(p: np.ndarray, split: int = 5000) -> float:
    return float(inception_score(p, np.ones((1, len(p))), split)[0])


def random(n: int, classes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=n)


def test_sure_and_balanced_is_the_number_of_classes() -> None:
    assert score(np.eye(10)[np.arange(200) % 10]) == pytest.approx(10.0)


def test_sure_of_one_class_or_never_sure_is_one() -> None:
    assert score(np.eye(10)[np.zeros(50, dtype=int)]) == pytest.approx(1.0)
    assert score(np.full((50, 10), 0.1)) == pytest.approx(1.0)


def test_it_is_the_exponential_of_the_mean_divergence() -> None:
    p = random(300)
    wanted = np.exp(np.mean([stats.entropy(row, p.mean(axis=0)) for row in p]))
    assert score(p) == pytest.approx(wanted, rel=1e-10)


def test_splits_are_scored_apart_and_a_short_last_one_is_left_out() -> None:
    p = random(250)
    assert score(p, 100) == pytest.approx((score(p[:100]) + score(p[100:200])) / 2)
    assert score(p, 300) == pytest.approx(score(p))


def test_few_samples_score_too_low() -> None:
    p = random(4000, classes=100, seed=1)
    assert score(p, 50) < score(p, 500) < score(p)


def test_weights_repeat_samples() -> None:
    p, weights = random(40), np.arange(40) % 3
    found = inception_score(p, weights[None].astype(float))[0]
    assert found == pytest.approx(score(np.repeat(p, weights, axis=0)))
