"""gamma: the band by its definition, planted widths recovered, every verdict reachable, intervals by trajectory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from slowflow.errors import InputError
from slowflow.measuring import gamma
from slowflow.measuring.bootstrap import interval, weights
from slowflow.measuring.gamma import Slack, band_edge, change, fit
from slowflow.records import GammaFit

T = np.linspace(0.1, 1.0, 10)
N = 400


def made(
    mean: float = 0.0, *, width: float = 0.0, sd: float = 0.05, n: int = N, seed: int = 0, residual: float = 0.2
) -> Slack:
    """Slack uniform on [0, width] for each state, plus `mean` and estimator noise."""
    draw = np.random.default_rng(seed)
    r = mean + width * draw.uniform(size=(n, len(T))) + sd * draw.normal(size=(n, len(T)))
    return Slack((1 - r) * T, T, np.full((n, len(T)), residual))


def judged(**kinds: Slack) -> GammaFit:
    return fit({"level": kinds}, band_reference="level", excess_reference="level")


def pinball(width: float, slack: Slack, count: np.ndarray) -> float:
    """Weighted pinball loss of the line t - m = width t at level BAND."""
    rest = slack.t - slack.m - width * slack.t
    return float((count[:, None] * np.where(rest > 0, gamma.BAND * rest, (gamma.BAND - 1) * rest)).sum())


@pytest.mark.parametrize("seed", range(6))
def test_the_band_edge_minimises_the_pinball_loss(seed: int) -> None:
    draw = np.random.default_rng(seed)
    slack = Slack(T * (1 - draw.normal(0.3, 0.4, size=(40, len(T)))), T, np.ones((40, len(T))))
    drawn = np.concatenate([np.ones((1, 40)), draw.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)])
    for count, edge in zip(drawn, band_edge(slack, drawn), strict=True):
        direct = minimize_scalar(
            pinball, bounds=(-3, 3), args=(slack, count), method="bounded", options={"xatol": 1e-10}
        )
        kinks = min(
            pinball(ratio, slack, count) for ratio in slack.r.ravel()
        )  # a convex broken line is least at a kink
        assert pinball(edge, slack, count) <= min(direct.fun, kinks) * (1 + 1e-12)  # rounding of a sum of 400


def test_the_band_holds_its_share_of_the_states() -> None:
    slack = made(width=0.8, seed=1)
    edge = band_edge(slack, np.ones((1, N)))[0]
    inside = np.average(slack.r <= edge, weights=np.broadcast_to(T, slack.r.shape))
    assert inside == pytest.approx(gamma.BAND, abs=1e-3)  # one state of 4,000


@pytest.mark.parametrize("width", [0.0, 0.2, 0.5, 0.8])
def test_a_planted_width_is_recovered_by_the_mean(width: float) -> None:
    found = judged(model=made(width=width, seed=2), genuine=made(seed=3)).estimates["excess_genuine"]
    assert not found.excludes(width) if width else abs(found.value) < 0.02
    assert found.high - found.low < 0.05  # a useless interval would hold anything


@pytest.mark.parametrize("width", [0.2, 0.5, 0.8])
def test_mean_and_spread_agree_where_slack_is_uniform(width: float) -> None:
    found = judged(model=made(width=width, seed=4), genuine=made(seed=5)).estimates
    assert found["spread"].value == pytest.approx(
        found["excess_genuine"].value, abs=0.03
    )  # sd of the spread is about 0.005


def test_a_constant_shift_has_mean_but_no_spread() -> None:
    found = judged(model=made(0.2, seed=6), genuine=made(seed=7)).estimates
    assert found["excess_genuine"].value == pytest.approx(0.4, abs=0.02)  # twice the shift
    assert abs(found["spread"].value) < 0.06  # sqrt(12 x difference of two variances of 0.0025)


def test_the_order_of_rows_does_not_matter() -> None:
    model, null = made(width=0.3, seed=8), made(seed=9)
    order = np.random.default_rng(0).permutation(N)
    shuffled = Slack(model.m[order], T, model.residual[order])
    a, b = judged(model=model, genuine=null).estimates, judged(model=shuffled, genuine=null).estimates
    for name in a:
        assert b[name].value == pytest.approx(a[name].value, abs=1e-12)
    assert a["excess_genuine"].low == pytest.approx(
        b["excess_genuine"].low, abs=0.003
    )  # another resampling of the same rows


def test_the_recommended_gamma_is_the_band_within_zero_and_one() -> None:
    assert judged(model=made(width=0.5, seed=10), genuine=made(seed=11)).gamma == pytest.approx(0.48, abs=0.03)
    assert judged(model=made(-0.4, seed=10), genuine=made(seed=11)).gamma == 0.0
    assert judged(model=made(1.5, seed=10), genuine=made(seed=11)).gamma == 1.0


VERDICTS = {
    "none detectable": {"model": made(seed=20), "genuine": made(seed=21), "exact": made(seed=22)},
    "detected": {
        "model": made(0.1, seed=20),
        "genuine": made(seed=21),
        "exact": made(seed=22),
        "coarse": made(0.01, seed=23),
    },
    "steps dominate": {
        "model": made(0.1, seed=20),
        "genuine": made(seed=21),
        "exact": made(seed=22),
        "coarse": made(0.08, seed=23),
    },
    "off path": {"model": made(0.1, seed=20, residual=0.5), "genuine": made(seed=21), "exact": made(seed=22)},
    "fast": {"model": made(-0.1, seed=20), "genuine": made(seed=21), "exact": made(seed=22)},
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_is_given_where_it_is_due(verdict: str) -> None:
    found = judged(**VERDICTS[verdict])
    assert found.verdict == verdict, found.reason
    assert found.reason


def test_nulls_that_disagree_detect_nothing() -> None:
    found = judged(model=made(0.05, seed=20), genuine=made(seed=21), exact=made(0.1, seed=22))
    assert found.verdict == "none detectable"
    assert "not both" in found.reason


def test_without_nulls_nothing_is_detected_and_a_warning_says_why() -> None:
    found = judged(model=made(0.3))
    assert found.verdict == "none detectable"
    assert any("nothing says what zero is" in w for w in found.warnings)


def test_the_verdict_is_read_from_its_own_reference() -> None:
    nearest, level = {"model": made(0.4), "genuine": made(seed=1)}, {"model": made(seed=2), "genuine": made(seed=3)}
    found = fit({"nearest": nearest, "level": level}, band_reference="nearest", excess_reference="level")
    assert found.verdict == "none detectable"
    assert found.gamma == pytest.approx(0.48, abs=0.02)  # 0.4 and 1.64 sd of 0.05
    assert (found.band_reference, found.excess_reference) == ("nearest", "level")


def test_few_trajectories_are_warned_about() -> None:
    warnings = judged(model=made(n=10), genuine=made(n=12, seed=1)).warnings
    assert any(w.startswith("only 10 trajectories") for w in warnings)
    assert any(w.startswith("only 12 genuine states") for w in warnings)
    assert not judged(model=made(sd=0.01), genuine=made(seed=1, sd=0.01)).warnings


def test_a_band_that_genuine_states_share_is_warned_about() -> None:
    found = judged(model=made(0.3), genuine=made(0.3, seed=1))
    assert any("far wider than the excess" in w for w in found.warnings)


def test_a_reference_whose_zero_is_off_is_warned_about() -> None:
    kinds = {"model": made(), "genuine": made(seed=1), "exact": made(0.05, seed=2)}
    assert any("even a perfect model differs" in w for w in judged(**kinds).warnings)


def test_change_is_paired_and_negative_where_the_lag_shrank() -> None:
    before, null = made(width=0.4, seed=30), made(seed=31)
    after = Slack(before.m + 0.05 * T, T, before.residual)
    found = change(before, after, null, seed=0)
    assert found.value == pytest.approx(-0.1, abs=1e-9)
    assert found.high - found.low < 1e-9  # every pair moved alike: pairing removes the spread of the trajectories
    assert change(after, before, null, seed=0).value == pytest.approx(0.1, abs=1e-9)


def test_change_of_nothing_is_exactly_zero() -> None:
    before = made(width=0.4, seed=30)
    found = change(before, before, before, seed=0)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_change_between_unlike_measurements_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be paired"):
        change(made(n=10), made(n=11), made(), seed=0)


def covered(values: np.ndarray, drawn: np.ndarray) -> bool:
    low, high = interval(drawn @ values / len(values))
    return bool(low <= 0.0 <= high)


def test_the_bootstrap_by_trajectory_covers_and_the_one_by_point_does_not() -> None:
    n, times, repetitions = 40, 12, 200
    draw = np.random.default_rng(40)
    by_trajectory, by_point = weights(n, 400, 0, "t"), weights(n * times, 400, 0, "p")
    hits = np.zeros(2)
    for _ in range(repetitions):
        values = draw.normal(size=(n, 1)) + 0.3 * draw.normal(size=(n, times))  # correlation 0.92 within a trajectory
        hits += covered(values.mean(axis=1), by_trajectory), covered(values.ravel(), by_point)
    # 95 % claimed; sd of a share of 200 is 0.015, and the percentile interval at n = 40 loses about 1 %
    assert hits[0] / repetitions >= 0.90
    # effective n is 40 instead of 480: z = 1.96 shrinks by sqrt(12), which covers about 45 %
    assert hits[1] / repetitions <= 0.75


def test_a_single_trajectory_has_no_bootstrap() -> None:
    with pytest.raises(InputError, match="at least 2"):
        weights(1, 10, 0, "x")
