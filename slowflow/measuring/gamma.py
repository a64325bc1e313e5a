"""gamma from readings: every estimate, a shape and a verdict; the band stands as gamma until `recommending.py` takes another.

Slack is r = (t - m) / t. Two gammas are always shown side by side, because they answer different questions:

* `band`: the line through the origin below which 5 % of the states lie, gamma = 1 - slope. It is the width of the raw
  fan, what the paper's Figure 1 shows (about 0.8 for SiT), and contains whatever a perfect model would draw too.
  `q50` and `q90` are the same view at other shares. None of them has a null taken off.
* `excess`: 2 (mean slack of the model - mean slack of the null), for slack uniform on [0, gamma]. What is left above
  the null; negative when the model runs fast. `excess_genuine` subtracts real interpolations, `excess_exact` a perfect
  model with a fine solver on the same noise. `spread` and `edge` are the same width read off the variance and by
  maximum likelihood; `slope` and `step_term` split it by step counts. `signal_*` and `noise_*` are the excess of the
  two clocks, in the same units. The main reference is calibrated on genuine states first (`straight.py`).

Where sampling was guided and unguided states were measured beside it, the nulls belong to the unguided ones: every
excess, the shape and the verdict are theirs, and `guided_minus_unguided` says what guidance adds.
Source: MixFlow (arXiv 2512.19311) for the model of slack; the estimators (`estimators.py`, `edge.py`, `laws.py`),
the shape (`shape.py`) and the verdict (`verdict.py`) are SlowFlow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from slowflow.errors import InputError
from slowflow.measuring.bootstrap import RESAMPLES, total, weights
from slowflow.measuring.edge import edge
from slowflow.measuring.estimators import (
    T_MIN,
    Curves,
    Draws,
    log_snr_gap,
    mean_curves,
    quantile_edges,
    spread,
    time_weights,
    with_interval,
)
from slowflow.measuring.laws import Grid, compare, separate
from slowflow.measuring.shape import shape
from slowflow.measuring.slack import Reading, Slack, everyone
from slowflow.measuring.straight import straightened
from slowflow.measuring.verdict import joint_level, judge, lag, warnings
from slowflow.records import Estimate, GammaFit

BAND = 0.95
"""Share of states the band holds: a stated choice."""
VIEWS = {"band": BAND, "q50": 0.5, "q90": 0.9}
CLOCKS = {"signal clock": "signal", "noise clock": "noise"}
"""Readings that the verdict hears beside the main one -> prefix of their estimates."""
STEPPED = ("signal clock",)
"""Readings whose lag is split by step counts beside the main one: discretisation shows up in the signal."""
HEARD = ("model", "genuine", "exact", "coarse", "seen", "unguided")
"""Kinds that enter; others belong to other questions."""

Kinds = Mapping[str, Reading]


def fit(
    readings: Mapping[str, Kinds],
    *,
    band_reference: str,
    excess_reference: str,
    seed: int = 0,
    others: Mapping[int, Mapping[str, Kinds]] | None = None,
    steps: int | None = None,
    log_snr: Callable[[np.ndarray], np.ndarray] | None = None,
    resamples: int = RESAMPLES,
) -> GammaFit:
    """Every estimate of gamma, the recommended one, a shape and a verdict.

    Args:
        readings: reading -> kind -> slack or clock, with `model` and whichever nulls were measured.
        band_reference: whose raw fan gives the band; needs an m for every state.
        excess_reference: whose excess over the nulls gives the other estimates; the verdict hears the clocks too.
        seed: of the bootstrap and of the folds.
        others: the same at other step counts, same sample ids. steps: step count of `readings`.
        log_snr: t -> log SNR of the path, for the gap that survives a warp of time.
        resamples: of the bootstrap.

    Raises:
        InputError: the band's reading has no m for single states.
    """
    fan = readings[band_reference]["model"]
    if not isinstance(fan, Slack):
        raise InputError(
            f"'{band_reference}' has no m for single states, so it has no band; take own, nearest or level"
        )
    readings = {**readings, excess_reference: straightened(readings[excess_reference])}
    others = {
        count: {**one, excess_reference: straightened(one.get(excess_reference, {}))}
        for count, one in (others or {}).items()
    }
    case = _Case.of(readings, excess_reference, Draws(seed, resamples))
    main, width = case.curves[excess_reference], _spread(case)
    grids = _grids(case, others, steps)
    estimates = _views(fan, case.draws)
    for name, prefix in case.tested.items():
        estimates |= _excess(case, name, prefix)
        if name == excess_reference:
            estimates |= _widths(case, width)
        if name in grids and steps is not None:
            label = _label(prefix)
            split = separate(grids[name], subject_of(readings[name]), steps)
            estimates |= dict(zip((f"{label}slope", f"{label}step_term"), split, strict=True))
    laws = {name: compare(one, subject_of(readings[name]), seed) for name, one in grids.items()}
    heard = [name for name in case.tested if {"genuine", "exact"} & case.curves[name].n.keys()]
    lags = [lag(case.curves[name], subject_of(readings[name]), joint_level(len(heard))) for name in heard]
    off_path = _off_path(readings[band_reference], case.draws)
    verdict, reason = judge(lags, off_path, guided=case.subject == "unguided")
    form, form_reason = _shape(case, width)
    zero = estimates.get("excess_genuine", estimates.get("excess_exact"))
    free, isotonic = _by_time(main, case.subject)
    return GammaFit(
        gamma=float(np.clip(estimates["band"].value, 0.0, 1.0)),
        method="band",
        estimates=estimates,
        verdict=verdict,
        reason=reason,
        warnings=tuple(warnings(case.curves, estimates, main=main.name, band=band_reference, tested=case.tested)),
        band_reference=band_reference,
        excess_reference=excess_reference,
        shape=form,
        shape_reason=form_reason,
        log_snr_gap=log_snr_gap(zero, main, log_snr) if zero else None,
        curve=free,
        isotonic=isotonic,
        tests={f"{name}: {law}": score for name, (_, scores) in laws.items() for law, score in scores.items()},
        laws={name: winner for name, (winner, _) in laws.items()},
    )


def change(before: Reading, after: Reading, null: Reading, seed: int) -> Estimate:
    """2 x (mean slack after - mean slack before), paired by sample id; negative = the lag shrank.

    Args:
        before, after: the same sample ids under two models. null: gives the weights of the times.
        seed: of the bootstrap.

    Raises:
        InputError: the two were not measured on the same samples and times.
    """
    sizes = (len(before), len(before.t)), (len(after), len(after.t))
    if sizes[0] != sizes[1] or not np.allclose(before.t, after.t):
        raise InputError(f"measurements of {sizes[0]} and {sizes[1]} states cannot be paired by sample")
    weight = time_weights(null)
    kept = np.flatnonzero(weight)

    def moved(drawn: np.ndarray) -> np.ndarray:
        return 2.0 * (after.mean_slack(drawn) - before.mean_slack(drawn))[:, kept] @ weight[kept]

    resampled = moved(weights(len(before), RESAMPLES, seed, "model"))
    return with_interval(float(moved(everyone(before))[0]), resampled, len(before))


@dataclass(frozen=True)
class _Case:
    """What every part of a fit needs.

    readings, curves: by name. tested: readings the verdict hears -> prefix of their estimates, the main one first.
    """

    readings: Mapping[str, Kinds]
    curves: Mapping[str, Curves]
    tested: Mapping[str, str]
    draws: Draws

    @classmethod
    def of(cls, readings: Mapping[str, Kinds], main: str, draws: Draws) -> _Case:
        used = {
            name: {k: kinds[k] for k in HEARD if k in kinds} for name, kinds in readings.items() if "model" in kinds
        }
        clocks = {name: prefix for name, prefix in CLOCKS.items() if name in used and name != main}
        curves = {name: mean_curves(name, kinds, draws) for name, kinds in used.items()}
        return cls(used, curves, {main: "excess"} | clocks, draws)

    @property
    def kinds(self) -> Kinds:
        return self.readings[next(iter(self.tested))]

    @property
    def main(self) -> Curves:
        return self.curves[next(iter(self.tested))]

    @property
    def subject(self) -> str:
        return subject_of(self.kinds)


def subject_of(kinds: Kinds) -> str:
    """The kind that nulls are compared with: unguided states where sampling was guided, else the model's."""
    return "unguided" if "unguided" in kinds else "model"


def _pair(kinds: Kinds) -> tuple[Slack, Slack] | None:
    """Slack of the states and of genuine ones, where both have an m for single states."""
    states, null = kinds.get(subject_of(kinds)), kinds.get("genuine")
    return (states, null) if isinstance(states, Slack) and isinstance(null, Slack) else None


def _label(prefix: str) -> str:
    return "" if prefix == "excess" else f"{prefix}_"


def _views(fan: Slack, draws: Draws) -> dict[str, Estimate]:
    """Raw edges of the fan."""
    levels = list(VIEWS.values())
    values = quantile_edges(fan, everyone(fan), levels)[:, 0]
    resampled = quantile_edges(fan, draws.of("model", len(fan)), levels)
    rows = zip(VIEWS, values, resampled, strict=True)
    return {name: with_interval(float(value), drawn, len(fan)) for name, value, drawn in rows}


def _excess(case: _Case, name: str, prefix: str) -> dict[str, Estimate]:
    """Excess over every null, the floor and what guidance adds, under one reading."""
    curves, subject = case.curves[name], subject_of(case.readings[name])
    nulls = [null for null in ("genuine", "exact", "coarse") if null in curves.n]
    found = {f"{prefix}_{null}": curves.excess(subject, null) for null in nulls}
    if {"seen", "genuine"} <= curves.n.keys():
        # bank and axes know these images: what that alone does to m cannot be told from an effect
        found[f"{_label(prefix)}floor"] = curves.excess("seen", "genuine")
    if subject == "unguided":
        found[f"{_label(prefix)}guided_minus_unguided"] = curves.excess("model", "unguided")
    return found


def _spread(case: _Case) -> tuple[float, np.ndarray] | None:
    """Width by the spread and its resamples, where single states have an m."""
    pair = _pair(case.kinds)
    return spread(*pair, case.main, _drawn(case, pair)) if pair else None


def _drawn(case: _Case, pair: tuple[Slack, Slack]) -> list[np.ndarray]:
    return [case.draws.of(kind, len(one)) for kind, one in zip((case.subject, "genuine"), pair, strict=True)]


def _widths(case: _Case, width: tuple[float, np.ndarray] | None) -> dict[str, Estimate]:
    pair = _pair(case.kinds)
    if pair is None or width is None:
        return {}
    by_edge = edge(*pair, case.main.kept, *_drawn(case, pair))
    return {"spread": with_interval(*width, min(map(len, pair))), "edge": by_edge}


def _shape(case: _Case, width: tuple[float, np.ndarray] | None) -> tuple[str, str]:
    curves, subject = case.main, case.subject
    if "genuine" not in curves.n:
        return "none", "genuine states were not measured"
    floor = abs(curves.gap("seen", "genuine")[0]) if "seen" in curves.n else 0.0
    return shape(curves.gap(subject, "genuine"), width, min(curves.n[subject], curves.n["genuine"]), floor)


def _by_time(
    curves: Curves, subject: str
) -> tuple[tuple[tuple[float, float, float, float], ...], tuple[tuple[float, float], ...]]:
    """(rows t, gamma(t), low, high; rows t, isotonic gamma(t))."""
    if "genuine" not in curves.n:
        return (), ()
    free = zip(curves.t, curves.free(subject, "genuine"), strict=True)
    monotone = zip(curves.t, curves.isotonic(subject, "genuine"), strict=True)
    return tuple((float(t), e.value, e.low, e.high) for t, e in free), tuple((float(t), float(g)) for t, g in monotone)


def _grids(
    case: _Case, others: Mapping[int, Mapping[str, Kinds]] | None, steps: int | None
) -> dict[str, dict[int, Grid]]:
    """reading -> steps -> states, for readings whose lag is split and that have genuine states at two step counts."""
    found: dict[str, dict[int, Grid]] = {}
    if steps is None or not others:
        return found
    for name in [name for name, prefix in case.tested.items() if prefix == "excess" or name in STEPPED]:
        here = case.readings[name]
        needed = {subject_of(here), "genuine"}
        grids = {steps: Grid(here, case.curves[name])}
        for count, elsewhere in others.items():
            kinds = elsewhere.get(name, {})
            if count != steps and needed <= kinds.keys():
                grids[count] = Grid(kinds, mean_curves(name, kinds, case.draws))
        if len(grids) > 1 and needed <= here.keys():
            found[name] = grids
    return found


def _off_path(kinds: Kinds, draws: Draws) -> Estimate | None:
    """Distance left of the states over that of genuine ones, from T_MIN on; None where it says nothing."""
    pair = _pair(kinds)
    if pair is None:
        return None
    late = pair[0].t >= min(T_MIN, pair[0].t.max())
    ours, theirs = (one.residual[:, late].mean(axis=1) for one in pair)
    if theirs.mean() < 1e-6:  # every genuine state lies on its own line
        return None
    drawn = draws.of("model", len(ours)), draws.of("genuine", len(theirs))
    ratios = (total(drawn[0], ours) / len(ours)) / (total(drawn[1], theirs) / len(theirs))
    return with_interval(float(ours.mean() / theirs.mean()), ratios, min(len(ours), len(theirs)))
