"""gamma from slowed timesteps. NumPy arrays in, numbers with intervals out.

Slack is r = (t - m) / t. Two gammas are always shown side by side, because they answer different questions:

* `band`: the line through the origin below which 5 % of the states lie, gamma = 1 - slope. It is the width of the raw
  fan, what the paper's Figure 1 shows (about 0.8 for SiT), and contains whatever a perfect model would draw too.
* `excess`: 2 (mean slack of the model - mean slack of the null), for slack uniform on [0, gamma]. What is left above
  the null; negative when the model runs fast. `excess_genuine` subtracts real interpolations, `excess_exact` a perfect
  model with a fine solver on the same noise; `spread` is the same width read off the variance, sqrt(12 (var - var)).

Times are weighted by the inverse variance of the null's slack, from T_MIN on: near the noise r is all error.
Source: MixFlow (arXiv 2512.19311) for the model of slack; the estimators are SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slowflow.errors import InputError
from slowflow.measuring.bootstrap import RESAMPLES, interval, weights
from slowflow.records import Estimate, GammaFit

BAND = 0.95
"""Share of states the band holds: a stated choice."""
T_MIN = 0.3
OFF_PATH = 1.5
"""Residual of the model over the genuine one above which no m fits."""
STEPS_SHARE = 0.5
"""Share of the excess that the step size must explain to dominate."""
ZERO_ERROR = 0.01
"""Excess gamma of a perfect model over genuine states above which a reference's zero is called biased."""
FEW = 25
"""Fewest trajectories for which an interval is printed without a warning."""


@dataclass(frozen=True)
class Slack:
    """Slowed timesteps of one kind under one reference.

    Args:
        m: [n, time]. t: [time], above 0. residual: [n, time].
    """

    m: np.ndarray
    t: np.ndarray
    residual: np.ndarray

    @property
    def r(self) -> np.ndarray:
        """(t - m) / t."""
        return 1.0 - self.m / self.t


def band_edge(slack: Slack, drawn: np.ndarray) -> np.ndarray:
    """gamma such that a share BAND of the points has t - m <= gamma t: [resamples].

    Quantile regression of t - m on t through the origin at level BAND. Its solution is the weighted BAND-quantile of
    the ratios r with weights t.
    """
    ratios = slack.r.ravel()
    order = np.argsort(ratios, kind="stable")
    owner = np.repeat(np.arange(len(slack.m)), slack.m.shape[1])[order]
    share = np.broadcast_to(slack.t, slack.m.shape).ravel()[order]
    edges = np.empty(len(drawn))
    for i, row in enumerate(drawn):
        mass = np.cumsum(row[owner] * share)
        edges[i] = ratios[order][np.searchsorted(mass, BAND * mass[-1])]
    return edges


def time_weights(null: Slack) -> np.ndarray:
    """Inverse variance of the null's slack at each time, zero below T_MIN, summing to 1."""
    variance = null.r.var(axis=0) + 1e-12
    w = np.where(null.t >= min(T_MIN, null.t.max()), 1.0 / np.maximum(variance, 0.01 * np.median(variance)), 0.0)
    return np.asarray(w / w.sum())


def moments(slack: Slack, w: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of r and weighted within-time variance of r in each resample, both [resamples]."""
    total = drawn.sum(axis=1, keepdims=True)
    first, second = drawn @ slack.r / total, drawn @ slack.r**2 / total
    return first @ w, np.maximum(second - first**2, 0.0) @ w


def _difference(model: Slack, null: Slack, seed: int, name: str) -> tuple[Estimate, Estimate]:
    """(2 x difference of mean slack, width from the difference of variances), each with an interval."""
    w = time_weights(null)
    drawn_model = weights(len(model.m), RESAMPLES, seed, "model")
    # the exact null starts from the same noise, so it is resampled with the model; genuine states are drawn apart
    paired = len(null.m) == len(model.m) and name in ("exact", "coarse")
    drawn_null = drawn_model if paired else weights(len(null.m), RESAMPLES, seed, name)
    ones_model, ones_null = np.ones((1, len(model.m))), np.ones((1, len(null.m)))
    n = min(len(model.m), len(null.m))

    def both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean_a, var_a = moments(model, w, a)
        mean_b, var_b = moments(null, w, b)
        gap = var_a - var_b
        return 2.0 * (mean_a - mean_b), np.sign(gap) * np.sqrt(12.0 * np.abs(gap))

    (mean, spread), (means, spreads) = both(ones_model, ones_null), both(drawn_model, drawn_null)
    return _with_interval(mean, means, n), _with_interval(spread, spreads, n)


def _with_interval(value: np.ndarray, resampled: np.ndarray, n: int) -> Estimate:
    low, high = interval(resampled)
    return Estimate(float(value[0]), float(low), float(high), n)


def fit(slack: dict[str, dict[str, Slack]], *, band_reference: str, excess_reference: str, seed: int = 0) -> GammaFit:
    """Every estimate of gamma, the recommended one, and a verdict.

    Args:
        slack: reference -> kind -> slack, with `model` and whichever nulls were measured.
        band_reference: whose raw fan gives the band.
        excess_reference: whose excess over the nulls gives the other estimates and the verdict.
        seed: of the bootstrap.
    """
    fan, kinds = slack[band_reference]["model"], slack[excess_reference]
    drawn = weights(len(fan.m), RESAMPLES, seed, "model")
    band = _with_interval(band_edge(fan, np.ones((1, len(fan.m)))), band_edge(fan, drawn), len(fan.m))
    estimates = {"band": band}
    for name in ("genuine", "exact", "coarse"):
        if name in kinds:
            excess, spread = _difference(kinds["model"], kinds[name], seed, name)
            estimates[f"excess_{name}"] = excess
            if name == "genuine":
                estimates["spread"] = spread
    floor = 0.0
    if "seen" in kinds and "genuine" in kinds and excess_reference == "level":
        # the principal axes were fitted to these images: what that alone does to m cannot be told from an effect
        estimates["floor"], _ = _difference(kinds["seen"], kinds["genuine"], seed, "genuine")
        floor = abs(estimates["floor"].value)
    verdict, reason = judge(kinds, estimates, floor, _off_path(slack[band_reference], seed))
    return GammaFit(
        gamma=float(np.clip(band.value, 0.0, 1.0)),
        method="band",
        estimates=estimates,
        verdict=verdict,
        reason=reason,
        warnings=tuple(_warnings(slack, kinds, estimates, band_reference, excess_reference, seed)),
        band_reference=band_reference,
        excess_reference=excess_reference,
    )


def change(before: Slack, after: Slack, null: Slack, seed: int) -> Estimate:
    """2 x (mean slack after - mean slack before), paired by sample id; negative = the lag shrank.

    Args:
        before, after: the same sample ids under two models. null: gives the weights of the times.
        seed: of the bootstrap.

    Raises:
        InputError: the two were not measured on the same samples and times.
    """
    if before.m.shape != after.m.shape or not np.allclose(before.t, after.t):
        raise InputError(f"measurements of {before.m.shape} and {after.m.shape} states cannot be paired by sample")
    gap, w = 2.0 * (after.r - before.r) @ time_weights(null), weights(len(before.m), RESAMPLES, seed, "model")
    return _with_interval(np.array([gap.mean()]), w @ gap / len(gap), len(gap))


def _off_path(kinds: dict[str, Slack], seed: int) -> Estimate | None:
    """Distance left of the model over that of genuine states, from T_MIN on; None where it says nothing."""
    if "genuine" not in kinds:
        return None
    model, genuine = kinds["model"], kinds["genuine"]
    late = model.t >= min(T_MIN, model.t.max())
    ours, theirs = model.residual[:, late].mean(axis=1), genuine.residual[:, late].mean(axis=1)
    if theirs.mean() < 1e-6:  # every genuine state lies on its own line
        return None
    drawn = weights(len(ours), RESAMPLES, seed, "model"), weights(len(theirs), RESAMPLES, seed, "genuine")
    ratios = (drawn[0] @ ours / len(ours)) / (drawn[1] @ theirs / len(theirs))
    return _with_interval(np.array([ours.mean() / theirs.mean()]), ratios, min(len(ours), len(theirs)))


def judge(
    kinds: dict[str, Slack], estimates: dict[str, Estimate], floor: float, off_path: Estimate | None
) -> tuple[str, str]:
    """(verdict, reason): one of the five legal verdicts and the sentence that carries it.

    Args:
        kinds: slack by kind under the reference of the verdict. estimates: of gamma.
        floor: excess that the instrument makes by itself; nothing smaller is called an effect.
        off_path: ratio of the distances left, where a reference has them.
    """
    if off_path is not None and off_path.low > OFF_PATH:
        return "off path", f"generated states stay {off_path} times as far from every ground truth as genuine ones do"
    zeros = {name: estimates[f"excess_{name}"] for name in ("genuine", "exact") if f"excess_{name}" in estimates}
    if not zeros:
        return "none detectable", "no null was measured, so the raw times mean nothing by themselves"
    parts = " and ".join(f"{e} against {_named(name)}" for name, e in zeros.items())
    if any(not e.excludes(0.0) for e in zeros.values()) or len({e.value > 0 for e in zeros.values()}) > 1:
        return "none detectable", f"the excess gamma is {parts}; not both lie clear of zero on the same side"
    if any(abs(e.value) <= floor for e in zeros.values()):
        return "none detectable", f"the excess gamma is {parts}; the instrument alone makes up to {floor:.3f}"
    if all(e.value < 0 for e in zeros.values()):
        return "fast", f"generated states run ahead of the ground truth: excess gamma {parts}"
    if "exact" in zeros and "coarse" in kinds:
        steps = _steps_share(kinds, zeros["exact"])
        if steps >= STEPS_SHARE:
            return (
                "steps dominate",
                f"a perfect model under the same sampler and steps lags {steps:.0%} as much ({parts})",
            )
    return "detected", f"generated states lag behind the ground truth: excess gamma {parts}"


def _steps_share(kinds: dict[str, Slack], excess: Estimate) -> float:
    w = time_weights(kinds["exact"])
    coarse, exact = (kinds[name].r.mean(axis=0) @ w for name in ("coarse", "exact"))
    return float(2.0 * (coarse - exact) / excess.value) if excess.value > 0 else 0.0


def _named(null: str) -> str:
    return {"genuine": "genuine states", "exact": "a perfect model"}[null]


def _warnings(
    slack: dict[str, dict[str, Slack]],
    kinds: dict[str, Slack],
    estimates: dict[str, Estimate],
    band_reference: str,
    excess_reference: str,
    seed: int,
) -> list[str]:
    found = []
    if len(kinds["model"].m) < FEW:
        found.append(f"only {len(kinds['model'].m)} trajectories: intervals are too narrow below {FEW}")
    if "genuine" not in kinds:
        found.append("genuine states were not measured, so nothing says what zero is")
        return found
    if len(kinds["genuine"].m) < FEW:
        found.append(f"only {len(kinds['genuine'].m)} genuine states stand behind the null")
    band, excess = estimates["band"], estimates["excess_genuine"]
    if band.value > 0.05 and excess.high < 0.5 * band.value:
        found.append(
            f"the band ({band.value:.2f}, reference '{band_reference}') is far wider than the excess ({excess.value:.3f}, "
            f"reference '{excess_reference}'): it says how wide a mixture the paper's recipe would use, not how much "
            "exposure bias there is"
        )
    for name, one in slack.items():
        if "exact" in one and "genuine" in one:
            zero, _ = _difference(one["exact"], one["genuine"], seed, "genuine")
            if zero.excludes(0.0) and abs(zero.value) > ZERO_ERROR:
                found.append(
                    f"under '{name}' even a perfect model differs from genuine states (gamma {zero}): part of the excess "
                    "over genuine states there belongs to the reference, not to this model"
                )
    return found
