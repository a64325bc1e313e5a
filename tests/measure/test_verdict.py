"""The verdict from three readings: every combination of sides, the shape of slack, and flows whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from slowflow.measuring.estimators import Curves, Draws, mean_curves
from slowflow.measuring.gamma import fit
from slowflow.measuring.shape import shape
from slowflow.measuring.slack import Clock, Reading, Slack
from slowflow.measuring.verdict import Lag, joint_level, judge, lag, warnings
from slowflow.records import Estimate, GammaFit


def about(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value, value - half, value + half, 400)


def reads(
    name: str, genuine: float, exact: float | None = None, *, floor: float = 0.0, steps: float | None = None
) -> Lag:
    zeros = {"genuine": about(genuine), "exact": about(genuine if exact is None else exact)}
    return Lag(name, zeros, floor, strength=abs(genuine) / 0.005, steps=steps)


def three(level: float, signal: float, noise: float, *, steps: tuple[float | None, ...] = (None,) * 3) -> list[Lag]:
    values = zip(("level", "signal clock", "noise clock"), (level, signal, noise), steps, strict=True)
    return [reads(name, value, steps=share) for name, value, share in values]


TABLE = [
    # level, signal, noise -> verdict
    ((0.0, 0.0, 0.0), "none detectable"),
    ((0.0, 0.2, 0.0), "detected"),
    ((0.2, 0.0, 0.0), "detected"),
    ((0.1, 0.2, 0.1), "detected"),
    ((0.0, 0.0, -0.1), "fast"),
    ((-0.1, -0.2, 0.0), "fast"),
    ((0.0, 0.2, -0.1), "off path"),
    ((-0.1, 0.0, 0.2), "off path"),
    ((-0.015, 0.2, 0.0), "detected"),  # a tenth of 0.2 is 0.02: a remark
    ((0.015, 0.0, -0.2), "fast"),
]


@pytest.mark.parametrize(("values", "verdict"), TABLE)
def test_sides_make_the_verdict(values: tuple[float, float, float], verdict: str) -> None:
    found, reason = judge(three(*values), None)
    assert found == verdict, reason
    assert all(str(about(value)) in reason for value in values)  # every number stands in the sentence
    assert "98.3%" in reason


def test_a_small_reading_of_the_other_sign_is_said() -> None:
    _, reason = judge(three(-0.015, 0.2, 0.0), None)
    assert "a little fast by level" in reason
    assert "no single m is exact" in reason


def test_steps_are_judged_by_the_strongest_slow_reading() -> None:
    assert judge(three(0.05, 0.2, 0.0, steps=(0.1, 0.8, 0.0)), None)[0] == "steps dominate"
    assert judge(three(0.2, 0.05, 0.0, steps=(0.1, 0.8, 0.0)), None)[0] == "detected"
    assert judge(three(0.0, 0.2, -0.1, steps=(0.0, 0.8, 0.9)), None)[0] == "steps dominate"  # all of the disagreement
    assert judge(three(0.0, 0.2, -0.1, steps=(0.0, 0.8, 0.1)), None)[0] == "off path"
    assert judge(three(0.0, 0.0, -0.1, steps=(0.0, 0.0, 0.9)), None)[0] == "fast"


def test_both_nulls_must_agree_and_the_floor_must_be_passed() -> None:
    for one in (reads("level", 0.2, -0.2), reads("level", 0.2, 0.0)):
        verdict, reason = judge([one], None)
        assert verdict == "none detectable"
        assert "not both" in reason
    verdict, reason = judge([reads("level", 0.2, 0.06, floor=0.1)], None)  # one null below the floor is enough
    assert verdict == "none detectable"
    assert "0.100 (level)" in reason
    assert judge([reads("level", 0.2, floor=0.1)], None)[0] == "detected"


def test_residuals_come_first_and_missing_nulls_end_it() -> None:
    verdict, reason = judge(three(0.2, 0.2, 0.2), about(2.0))
    assert (verdict, "times as far" in reason) == ("off path", True)
    assert judge(three(0.2, 0.2, 0.2), about(1.505))[0] == "detected"  # its interval holds 1.5
    verdict, reason = judge([Lag("level", {}, 0.0, 0.0, None)], None)
    assert (verdict, "no null was measured" in reason) == ("none detectable", True)


def test_unguided_sampling_is_named() -> None:
    assert judge(three(0.2, 0.2, 0.2), None, guided=True)[1].endswith("which the nulls belong to")
    assert judge(three(0.2, 0.2, 0.2), about(2.0), guided=True)[1].endswith("which the nulls belong to")


def test_the_joint_level_is_bonferroni() -> None:
    assert [joint_level(k) for k in (1, 2, 3)] == pytest.approx([0.95, 0.975, 1 - 0.05 / 3])


T = np.linspace(0.1, 1.0, 10)


def made(mean: float = 0.0, width: float = 0.0, sd: float = 0.05, n: int = 400, seed: int = 0) -> Slack:
    draw = np.random.default_rng(seed)
    r = mean + width * draw.uniform(size=(n, len(T))) + sd * draw.normal(size=(n, len(T)))
    return Slack((1 - r) * T, T, np.ones_like(r))


def of(**kinds: Slack) -> Curves:
    return mean_curves("level", kinds, Draws(0))


def test_a_lag_is_read_with_floor_share_of_steps_and_level() -> None:
    curves = of(
        model=made(0.1), genuine=made(seed=1), exact=made(seed=2), coarse=made(0.04, seed=3), seen=made(0.02, seed=4)
    )
    wide, narrow = lag(curves, "model", 0.99), lag(curves, "model", 0.95)
    assert wide.zeros["genuine"].low < narrow.zeros["genuine"].low
    assert wide.floor == pytest.approx(0.04, abs=0.01)
    assert wide.steps == pytest.approx(0.4, abs=0.05)
    assert wide.side == 1
    assert not wide.by_steps


def test_chance_speaks_no_more_often_for_three_readings() -> None:
    """120 draws of nothing: 5 % of verdicts at most, though six intervals are looked at each time."""
    draw, spoken, draws = np.random.default_rng(5), 0, Draws(0)
    for _ in range(120):
        readings = {}
        for name in ("level", "signal clock", "noise clock"):
            r = 0.1 * draw.normal(size=(2, 60, 4))
            kinds = {
                kind: Slack((1 - x) * T[-4:], T[-4:], np.ones_like(x))
                for kind, x in zip(("model", "genuine"), r, strict=True)
            }
            readings[name] = mean_curves(name, kinds, draws)
        lags = [lag(one, "model", joint_level(3)) for one in readings.values()]
        spoken += judge(lags, None)[0] != "none detectable"
    assert spoken <= 12  # 6 expected, sd 2.4; percentile intervals at n = 60 speak a little too often


def test_warnings_name_blind_times_and_widths_that_disagree() -> None:
    error = np.where(T < 0.45, 2.0, 0.05)
    curves = of(model=made(0.2, sd=error), genuine=made(sd=error, seed=1))
    estimates = {"band": about(0.3), "excess_genuine": about(0.4), "spread": about(0.02), "edge": about(0.28)}
    found = warnings({"level": curves}, estimates, main="level", band="level", tested=["level"])
    assert any(w.startswith("'level' is blind at 2 times between t = 0.3 and t = 0.4") for w in found)
    assert any("mean 0.400" in w and "edge 0.280" in w for w in found)
    blind = of(model=made(sd=2.0), genuine=made(sd=2.0, seed=1))
    found = warnings(
        {"level": blind}, {**estimates, "spread": about(0.4)}, main="level", band="level", tested=["level"]
    )
    assert any("nearly blind" in w for w in found)


# --- shape -----------------------------------------------------------------------------------------------------------


def drawn(value: float, sd: float, seed: int) -> tuple[float, np.ndarray]:
    return value, value + sd * np.random.default_rng(seed).normal(size=500)


SHAPES = [
    (0.0, 0.0, "none"),
    (0.3, 0.3, "interval"),
    (0.3, 0.25, "interval"),
    (0.4, 0.05, "shift"),
    (0.0, 0.3, "jitter"),
    (0.05, 0.3, "jitter"),
    (-0.2, 0.0, "fast"),
]


@pytest.mark.parametrize(("mean", "spread", "name"), SHAPES)
def test_mean_and_spread_name_the_shape(mean: float, spread: float, name: str) -> None:
    found, reason = shape(drawn(mean, 0.01, 0), drawn(spread, 0.01, 1), 400)
    assert found == name, reason
    assert "[" in reason


def test_a_shape_is_named_from_intervals_not_from_values() -> None:
    found, reason = shape(drawn(0.3, 0.01, 0), drawn(0.1, 0.2, 1), 400)  # the spread may be 0.3 as well
    assert (found, "a shift cannot be told" in reason) == ("interval", True)
    assert "between an interval and a shift" in shape(drawn(0.3, 0.01, 0), drawn(0.2, 0.01, 1), 400)[1]
    assert "fit one width" in shape(drawn(0.3, 0.01, 0), drawn(0.3, 0.01, 1), 400)[1]
    assert shape(drawn(0.03, 0.001, 0), drawn(0.0, 0.01, 1), 400, floor=0.05)[0] == "none"
    assert shape(drawn(-0.005, 0.001, 0), drawn(0.0, 0.01, 1), 400)[0] == "none"


# --- flows whose truth is known --------------------------------------------------------------------------------------

VARIANCE = np.where(np.arange(300) < 120, 12.0 / np.arange(1, 301) ** 1.5, 1e-4)
"""A few strong axes and many that are nearly constant, as in MNIST."""


def flow(noise: np.ndarray, steps: int, substeps: int = 1, factor: float = 1.0, shrunk: float = 1.0) -> np.ndarray:
    """Euler on the exact velocity of N(0, VARIANCE), [n, steps, d]; velocity times `factor`, denoiser times `shrunk`."""
    state, found, total = noise.copy(), [], steps * substeps
    for k in range(total):
        t = k / total
        denoiser = shrunk * t * VARIANCE / (t**2 * VARIANCE + (1 - t) ** 2)
        state = state * (1.0 + factor * (denoiser - 1.0) / (1.0 - t) / total)
        if (k + 1) % substeps == 0:
            found.append(state)
    return np.stack(found, axis=1)


def readings_of(states: np.ndarray, t: np.ndarray) -> dict[str, Reading]:
    """Gaussian likelihood level, signal clock and noise clock."""
    grid = np.linspace(0.0, 0.999, 300)
    variance = grid[:, None] ** 2 * VARIANCE + (1 - grid[:, None]) ** 2
    score = np.square(states).reshape(-1, 300) @ (1.0 / variance).T + np.log(variance).sum(axis=1)
    squares, columns = np.empty((2, *states.shape[:2])), np.stack([VARIANCE, np.ones(300)])
    for k, time in enumerate(t):
        weight = 1.0 / (time**2 * VARIANCE + (1 - time) ** 2 + 0.01 * VARIANCE.mean()) ** 2
        squares[:, :, k] = np.linalg.solve((columns * weight) @ columns.T, columns * weight) @ np.square(states[:, k]).T
    return {
        "level": Slack(grid[score.argmin(axis=1)].reshape(states.shape[:2]), t, np.zeros(states.shape[:2])),
        "signal clock": Clock(squares[0], t, lambda value: value),
        "noise clock": Clock(squares[1], t, lambda value: 1.0 - value),
    }


def measured(steps: int, n: int = 120, **planted: float) -> GammaFit:
    draw, t = np.random.default_rng(0), np.arange(1, steps + 1) / steps
    noise, data, other = draw.normal(size=(3, n, 300))
    states = {
        "model": flow(noise, steps, **planted),
        "exact": flow(noise, steps, 200 // steps),
        "coarse": flow(noise, steps),
        "genuine": np.stack([s * data * np.sqrt(VARIANCE) + (1 - s) * other for s in t], axis=1),
    }
    by_kind = {kind: readings_of(one, t) for kind, one in states.items()}
    return fit(
        {name: {kind: one[name] for kind, one in by_kind.items()} for name in by_kind["model"]},
        band_reference="level",
        excess_reference="level",
    )


def test_ten_steps_on_an_exact_flow_are_invisible_to_level_and_plain_to_the_signal_clock() -> None:
    found = measured(10)
    assert found.verdict == "steps dominate"
    assert "100% as much under 'signal clock'" in found.reason
    assert abs(found.estimates["excess_exact"].value) < 0.01
    assert abs(found.estimates["noise_exact"].value) < 0.01  # Euler takes noise out on schedule
    assert found.estimates["signal_exact"].low > 0.2


def test_an_oversmoothed_denoiser_lags_in_the_signal_alone() -> None:
    found = measured(40, shrunk=0.95)
    assert found.verdict == "detected"
    assert abs(found.estimates["excess_exact"].value) < 0.01
    assert found.estimates["signal_genuine"].low > 0.1


# at 0.95 the signal runs ahead of a perfect model, but at n = 120 not clearly ahead of genuine states
@pytest.mark.parametrize(("factor", "side", "verdict"), [(0.95, 1, "detected"), (1.05, -1, "off path")])
def test_a_scaled_velocity_moves_the_clocks_apart(factor: float, side: int, verdict: str) -> None:
    found = measured(40, factor=factor)
    assert found.verdict == verdict, found.reason
    assert side * found.estimates["signal_exact"].value < 0.0
    assert ("run opposite ways" in found.reason) == (verdict == "off path")
    for name in ("excess_genuine", "excess_exact", "noise_genuine", "noise_exact"):
        one = found.estimates[name]
        assert side * one.value > 0
        assert one.excludes(0.0)
