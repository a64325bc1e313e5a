"""The verdict: what the readings say together, in one of five words and one sentence.

Three readings are tested: `level` (or whichever reference the excess is read from), the signal clock and the noise
clock. One alone would not do: under Euler on an exact flow the signal lags by a step while the noise leaves on
schedule, and `level`, which sees mostly noise where most axes of the data hold little variance, reads zero.

A reading is slow, or fast, when its excess over genuine states and its excess over a perfect model both lie clear of
zero on the same side and beyond its floor, what the instrument makes by itself (seen minus genuine states). With k
readings the intervals are at level 1 - 0.05 / k, so that chance alone speaks in 5 % of the cases at most (Bonferroni);
the two nulls of one reading must both agree and need no such price.

Clocks that run opposite ways are called `off path`, not `detected`: no single m describes such a state, which is what
the words mean, and slowing the inputs of training, right for one clock, is wrong for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from slowflow.measuring.estimators import Curves
from slowflow.records import Estimate

ALPHA = 0.05
OFF_PATH = 1.5
"""Residual of the model over the genuine one above which no m fits."""
STEPS_SHARE = 0.5
"""Share of the excess that the step size must explain to dominate."""
AGAINST = 0.1
"""Share of the largest excess from which a reading of the other sign is a disagreement. Below it is a remark: a lag of
the signal alone (Euler, 10 steps: excess gamma 0.38) pulls `level` by 0.002 the other way."""
ZERO_ERROR = 0.01
"""Excess gamma of a perfect model over genuine states above which a reference's zero is called biased."""
FEW = 25
"""Fewest trajectories for which an interval is printed without a warning."""
NULLS = {"genuine": "genuine states", "exact": "a perfect model"}


@dataclass(frozen=True)
class Lag:
    """What one reading says.

    Args:
        name: of the reading.
        zeros: null -> excess gamma, with intervals at the joint level.
        floor: excess that the instrument makes by itself; nothing smaller is called an effect.
        strength: least |excess| in units of its own scatter under resampling.
        steps: share of the excess over a perfect model that the sampler's steps alone make; None where not measured.
    """

    name: str
    zeros: dict[str, Estimate]
    floor: float
    strength: float
    steps: float | None

    @property
    def clear(self) -> bool:
        """Every null is excluded, all on one side."""
        return (
            all(e.excludes(0.0) for e in self.zeros.values()) and len({e.value > 0 for e in self.zeros.values()}) == 1
        )

    @property
    def size(self) -> float:
        """The excess closest to zero, signed."""
        return min((e.value for e in self.zeros.values()), key=abs)

    @property
    def side(self) -> int:
        """1 slow, -1 fast, 0 neither."""
        return int(np.sign(self.size)) if self.clear and abs(self.size) > self.floor else 0

    @property
    def by_steps(self) -> bool:
        """The sampler's steps explain most of it."""
        return self.steps is not None and self.steps >= STEPS_SHARE

    def __str__(self) -> str:
        return f"{self.name} " + " and ".join(f"{e} against {NULLS[null]}" for null, e in self.zeros.items())


def joint_level(readings: int) -> float:
    """Level of each reading's intervals when several are tested together."""
    return 1.0 - ALPHA / max(readings, 1)


def lag(curves: Curves, subject: str, level: float) -> Lag:
    """What one reading says of `subject` states, with intervals at `level`."""
    nulls = [null for null in NULLS if null in curves.n]
    strengths = []
    for null in nulls:
        value, resampled = curves.gap(subject, null)
        strengths.append(abs(value) / max(float(resampled.std()), 1e-12))
    share = None
    if {"exact", "coarse"} <= curves.n.keys():
        whole = curves.gap(subject, "exact")[0]
        share = curves.gap("coarse", "exact")[0] / whole if whole != 0.0 else 0.0
    return Lag(
        name=curves.name,
        zeros={null: curves.excess(subject, null, level) for null in nulls},
        floor=abs(curves.gap("seen", "genuine")[0]) if {"seen", "genuine"} <= curves.n.keys() else 0.0,
        strength=min(strengths, default=0.0),
        steps=share,
    )


def judge(lags: Iterable[Lag], off_path: Estimate | None, *, guided: bool = False) -> tuple[str, str]:
    """(verdict, reason): one of the five legal verdicts and the sentence that carries it.

    Args:
        lags: what the readings say, at the joint level of their number.
        off_path: ratio of the distances left, where a reference has them.
        guided: the lags are those of unguided sampling, measured beside guided sampling.
    """
    lags = [one for one in lags if one.zeros]
    note = "; read from unguided sampling, which the nulls belong to" if guided else ""
    if off_path is not None and off_path.low > OFF_PATH:
        return (
            "off path",
            f"generated states stay {off_path} times as far from every ground truth as genuine ones do{note}",
        )
    if not lags:
        return "none detectable", "no null was measured, so the raw times mean nothing by themselves"
    verdict, reason = _read(lags)
    if len(lags) > 1:
        reason += f" (intervals at {joint_level(len(lags)):.1%}, which hold for {len(lags)} readings together)"
    return verdict, reason + note


def _read(lags: list[Lag]) -> tuple[str, str]:
    """Verdict and sentence from readings alone."""
    slow, fast = ([one for one in lags if one.side == side] for side in (1, -1))
    if not slow and not fast:
        return "none detectable", _silent(lags)
    rest = [one for one in lags if not one.side]
    silent = f"; not clearly so {_list(rest)}" if rest else ""
    most, least = (max((abs(one.size) for one in side), default=0.0) for side in (slow, fast))
    if min(most, least) >= AGAINST * max(most, least):
        if all(one.by_steps for one in slow + fast):
            return "steps dominate", _steps(slow, fast, silent)
        return "off path", (
            "the readings run opposite ways, so no single time m describes a state: slow by excess gamma "
            f"{_list(slow)}; fast by {_list(fast)}{silent}"
        )
    if most < least:
        parts = f"{_list(fast)}{silent}{_remark('slow', slow)}"
        return "fast", f"generated states run ahead of the ground truth: excess gamma {parts}"
    if max(slow, key=lambda one: one.strength).by_steps:
        return "steps dominate", _steps(slow, fast, silent)
    parts = f"{_list(slow)}{silent}{_remark('fast', fast)}"
    return "detected", f"generated states lag behind the ground truth: excess gamma {parts}"


def _steps(slow: list[Lag], fast: list[Lag], silent: str) -> str:
    strongest = max(slow, key=lambda one: one.strength)
    return (
        f"a perfect model under the same sampler and steps lags {strongest.steps:.0%} as much under '{strongest.name}' "
        f"(excess gamma {_list(slow)}{silent}{_remark('fast', fast)})"
    )


def _silent(lags: list[Lag]) -> str:
    below = [one for one in lags if one.clear]
    why = "not both lie clear of zero on the same side" if len(lags) == 1 else "nowhere do both lie clear of zero"
    if below:
        why = "the instrument alone makes up to " + ", ".join(f"{one.floor:.3f} ({one.name})" for one in below)
    return f"the excess gamma is {_list(lags)}; {why}"


def _list(lags: Iterable[Lag]) -> str:
    return ", ".join(str(one) for one in lags)


def _remark(word: str, lags: list[Lag]) -> str:
    return f"; a little {word} by {_list(lags)}, so no single m is exact" if lags else ""


def warnings(
    curves: Mapping[str, Curves], estimates: Mapping[str, Estimate], *, main: str, band: str, tested: Iterable[str]
) -> list[str]:
    """Sentences that every table and figure repeats.

    Args:
        curves: of every reading. estimates: of gamma. main: reference of the excess. band: reference of the band.
        tested: readings that the verdict is read from.
    """
    n = curves[main].n
    found = []
    if n["model"] < FEW:
        found.append(f"only {n['model']} trajectories: intervals are too narrow below {FEW}")
    if "genuine" not in n:
        return [*found, "genuine states were not measured, so nothing says what zero is"]
    if n["genuine"] < FEW:
        found.append(f"only {n['genuine']} genuine states stand behind the null")
    wide, excess = estimates["band"], estimates["excess_genuine"]
    if wide.value > 0.05 and excess.high < 0.5 * wide.value:
        found.append(
            f"the band ({wide.value:.2f}, reference '{band}') is far wider than the excess ({excess.value:.3f}, "
            f"reference '{main}'): it says how wide a mixture the paper's recipe would use, not how much "
            "exposure bias there is"
        )
    found += [_blindness(curves[name]) for name in tested if len(curves[name].blind)]
    found += _disagreement(estimates)
    return found + [line for one in curves.values() for line in _zero_off(one)]


def _blindness(curves: Curves) -> str:
    """Which times did not enter, or that all of them are blind."""
    if np.isin(curves.blind, curves.t).any():
        return f"'{curves.name}' is nearly blind: genuine states scatter beyond the limit at every time"
    many = f"{len(curves.blind)} time{'s' if len(curves.blind) > 1 else ''} between " if len(curves.blind) > 1 else ""
    ends = sorted({f"t = {t:.3g}" for t in (curves.blind.min(), curves.blind.max())})
    return f"'{curves.name}' is blind at {many}{' and '.join(ends)}, where genuine states scatter too much; left out"


def _disagreement(estimates: Mapping[str, Estimate]) -> list[str]:
    """Widths of one law by mean, spread and edge whose intervals do not even touch."""
    names = {"excess_genuine": "mean", "spread": "spread", "edge": "edge"}
    widths = {names[name]: estimates[name] for name in names if name in estimates}
    if len(widths) < 2 or max(e.low for e in widths.values()) <= min(e.high for e in widths.values()):
        return []
    listed = ", ".join(f"{name} {e}" for name, e in widths.items())
    return [f"three ways to read one width disagree ({listed}): slack is not uniform between 0 and one gamma"]


def _zero_off(curves: Curves) -> list[str]:
    """A perfect model that differs from genuine states."""
    if not {"exact", "genuine"} <= curves.n.keys():
        return []
    zero = curves.excess("exact", "genuine")
    if not zero.excludes(0.0) or abs(zero.value) <= ZERO_ERROR:
        return []
    return [
        f"under '{curves.name}' even a perfect model differs from genuine states (gamma {zero}): part of the excess "
        "over genuine states there belongs to the reference, not to this model"
    ]
