"""gamma: the band by its definition, planted widths recovered, every verdict reachable, intervals by trajectory."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.measuring import gamma
from slowflow.measuring.bootstrap import interval, weights
from slowflow.measuring.estimators import quantile_edges
from slowflow.measuring.gamma import change, fit
from slowflow.measuring.named import place
from slowflow.measuring.slack import Clock, Reading, Slack
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


def clocks(a: np.ndarray, b: np.ndarray, seed: int = 0, n: int = N) -> tuple[Clock, Clock]:
    """Signal and noise clock of states with coefficients a and b [time] on the linear path."""
    draw = np.random.default_rng(seed)
    signal = a**2 * (1 + 0.3 * draw.normal(size=(n, len(T))))
    noise = b**2 * (1 + 0.1 * draw.normal(size=(n, len(T)))) + 1e-4 * draw.normal(size=(n, len(T)))
    return (
        Clock(signal, T, lambda value: value),
        Clock(noise, T, lambda value: 1.0 - value),
    )


def clocked(seed: int = 60, **kinds: tuple[float, float]) -> dict[str, dict[str, Reading]]:
    """Both clocks of kinds whose signal is slow by a share of t, and whose noise is slow by another."""
    found: dict[str, dict[str, Reading]] = {"signal clock": {}, "noise clock": {}}
    for offset, (kind, (late, noisy)) in enumerate(kinds.items()):
        pair = clocks(T * (1 - late), 1 - T * (1 - noisy), seed + offset)
        found["signal clock"][kind], found["noise clock"][kind] = pair
    return found


def judged(**kinds: Slack) -> GammaFit:
    return fit({"level": kinds}, band_reference="level", excess_reference="level")


def band_edge(slack: Slack, drawn: np.ndarray) -> np.ndarray:
    return quantile_edges(slack, drawn, [gamma.BAND])[0]


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
    fitted = judged(model=made(0.2, seed=6), genuine=made(seed=7))
    found = fitted.estimates
    assert found["excess_genuine"].value == pytest.approx(0.4, abs=0.02)  # twice the shift
    assert abs(found["spread"].value) < 0.06  # sqrt(12 x difference of two variances of 0.0025)
    assert fitted.shape == "shift"
    assert any("three ways to read one width disagree" in w for w in fitted.warnings)


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


READINGS = {"level": {"model": made(seed=50), "genuine": made(seed=51), "exact": made(seed=52)}}


def read(**kinds: tuple[float, float]) -> GammaFit:
    """`level` blind, the clocks as planted."""
    return fit({**READINGS, **clocked(**kinds)}, band_reference="level", excess_reference="level")


NULLS = {"genuine": (0.0, 0.0), "exact": (0.0, 0.0)}
CLOCKED = {
    "none detectable": {"model": (0.0, 0.0), **NULLS},
    "detected": {"model": (0.1, 0.0), **NULLS, "coarse": (0.02, 0.0)},
    "steps dominate": {"model": (0.1, 0.0), **NULLS, "coarse": (0.08, 0.0)},
    "off path": {"model": (0.1, -0.05), **NULLS},
    "fast": {"model": (0.0, -0.05), **NULLS},
}


@pytest.mark.parametrize("verdict", CLOCKED)
def test_clocks_speak_where_level_is_blind(verdict: str) -> None:
    found = read(**CLOCKED[verdict])
    assert found.verdict == verdict, found.reason
    assert all(name in found.reason for name in ("level", "signal clock", "noise clock"))
    assert "98.3%" in found.reason  # 1 - 0.05 / 3


def test_clocks_give_the_lag_that_was_planted_in_units_of_gamma() -> None:
    found = read(model=(0.1, 0.04), **NULLS).estimates
    for name, truth in (("signal_genuine", 0.2), ("signal_exact", 0.2), ("noise_genuine", 0.08), ("noise_exact", 0.08)):
        assert not found[name].excludes(truth), name
        assert found[name].high - found[name].low < 0.05
    assert abs(found["excess_genuine"].value) < 0.02


def test_without_clocks_the_level_alone_is_judged_at_95_percent() -> None:
    found = judged(**VERDICTS["detected"])
    assert str(found.estimates["excess_genuine"]) in found.reason
    assert "together" not in found.reason


def test_a_clock_has_no_band() -> None:
    with pytest.raises(InputError, match="no m for single states"):
        fit(clocked(model=(0.0, 0.0), **NULLS), band_reference="noise clock", excess_reference="noise clock")


def test_the_excess_can_be_read_from_a_clock() -> None:
    readings = {**READINGS, **clocked(model=(0.1, 0.0), **NULLS)}
    found = fit(readings, band_reference="level", excess_reference="signal clock")
    assert not found.estimates["excess_genuine"].excludes(0.2)
    assert "spread" not in found.estimates
    assert "single states have no m" in found.shape_reason
    assert "signal_genuine" not in found.estimates  # said once


def test_guided_states_are_compared_with_unguided_ones_and_these_with_the_nulls() -> None:
    guided, unguided = made(-0.3, seed=20), made(0.1, seed=20)
    kinds = {"model": guided, "unguided": unguided, "genuine": made(seed=21), "exact": made(seed=22)}
    found = judged(**kinds)
    assert found.verdict == "detected"
    assert found.reason.endswith("read from unguided sampling, which the nulls belong to")
    assert not found.estimates["excess_genuine"].excludes(0.2)
    added = found.estimates["guided_minus_unguided"]
    # 2 x -0.4, paired: no noise but that of the genuine curve which m is calibrated on
    assert added.value == pytest.approx(-0.8, abs=0.01)
    assert added.high - added.low < 0.01
    assert found.estimates["band"].value < 0.0  # the raw fan is that of the states as they were sampled


def test_step_counts_split_the_excess() -> None:
    def grid(steps: int, seed: int) -> dict[str, dict[str, Slack]]:
        t, draw = np.arange(1, steps + 1) / steps, np.random.default_rng(seed)
        error = 0.03 * draw.normal(size=(2, N, steps))
        lag = 0.2 * draw.uniform(size=(N, steps)) + 0.5 / steps / t
        rows = {"model": lag + error[0], "genuine": error[1]}
        return {"level": {kind: Slack((1 - r) * t, t, np.ones_like(r)) for kind, r in rows.items()}}

    found = fit(grid(20, 0), band_reference="level", excess_reference="level", steps=20, others={10: grid(10, 1)})
    assert found.laws == {"level": "gamma t + c h"}
    assert not found.estimates["slope"].excludes(0.2)
    total = found.estimates["slope"].value + found.estimates["step_term"].value
    assert total == pytest.approx(found.estimates["excess_genuine"].value, abs=0.01)
    assert set(found.tests) == {f"level: {law}" for law in ("none", "gamma t", "c h", "gamma t + c h")}
    alone = fit(grid(20, 0), band_reference="level", excess_reference="level", steps=20)
    assert not alone.laws
    assert "slope" not in alone.estimates


def test_a_fit_becomes_json_and_every_estimate_has_a_meaning() -> None:
    readings = {"level": VERDICTS["detected"] | {"seen": made(seed=24)}, **clocked(model=(0.1, 0.0), **NULLS)}
    log_snr = lambda t: 2 * np.log(t / (1 - t))  # noqa: E731
    found = fit(readings, band_reference="level", excess_reference="level", log_snr=log_snr)
    back = json.loads(json.dumps(canonical(found), allow_nan=False))
    assert back["shape"] == found.shape
    assert back["log_snr_gap"]["value"] > 0
    assert len(back["curve"]) == len(back["isotonic"])
    for name in found.estimates:
        assert place(name)[1] != name


def test_a_fit_takes_about_a_second_at_500_trajectories_and_50_times() -> None:
    t = np.linspace(0.02, 1.0, 50)
    draw = np.random.default_rng(0)
    kinds = {
        kind: Slack((1 - 0.05 * draw.normal(size=(500, 50))) * t, t, np.ones((500, 50)))
        for kind in ("model", "genuine", "exact", "coarse", "seen")
    }
    start = time.perf_counter()
    fit({"level": kinds}, band_reference="level", excess_reference="level")
    assert time.perf_counter() - start < 3.0  # about 0.4 s on one idle core


def test_change_reads_clocks_too() -> None:
    before, after, null = (clocked(model=(late, 0.0))["signal clock"]["model"] for late in (0.2, 0.1, 0.0))
    found = change(before, after, null, seed=0)
    assert found.value == pytest.approx(-0.2, abs=0.01)
    assert found.high - found.low < 0.02  # the same draws: pairing removes most of their noise


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
