"""The paper's qualitative findings, each as differences between arms of a study with the sign that the paper states.

    row      value(arm) - value(against), paired by seed and sample id, at the longest length both have
    as stated / contrary    its 95 % interval lies on the stated side of zero, or on the other; else undecided
    no change               stated as zero: contrary outside zero, as stated only where the interval is also short

    no gain                 that a gain grows is undecided, not as stated, where there is no gain

A finding is confirmed when every decided row is as stated, contradicted when every one is contrary, and mixed otherwise. Rows
are many and one in twenty errs by chance, so a verdict needs two decided rows and a quarter of all of them; the counts are
always given. What has no finished arm is missing, which is no verdict.
Source of the statements: MixFlow, arXiv 2512.19311, section 4 and its ablation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slowflow.sweep import pooled
from slowflow.sweep.folder import BASE, CONTROL, SWEPT, StudyResult

SHORT = 0.05
"""An interval around no change is short when it stays within this share of the number it is compared with."""
LEAST, LEAST_SHARE = 2, 0.25
"""Decided rows that a verdict needs."""
COLUMNS = ["study", "finding", "what", "metric", "length", "budget", "seeds", "value", "low", "high", "word"]
WORDS = ("as stated", "contrary", "undecided")
BOTH_SIDES = ("jitter-0.8", "jitter-0.4", "m-anywhere-beta21", "m-anywhere-uniform")
"""Arms whose labels err to both sides: the paper's ablation, and the control with MixFlow's own widths."""


@dataclass(frozen=True)
class Case:
    """A study and one metric."""

    study: StudyResult
    metric: str


Rows = Callable[[Case], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Finding:
    """One statement of the paper.

    Args:
        name: short. statement: what the paper says.
        rows: case -> numbers with `what`, `sign` and `scale`.
        needs: arms without which a part of it cannot be judged.
    """

    name: str
    statement: str
    rows: Rows
    needs: tuple[str, ...]


def judged(study: StudyResult, metric: str = "fd") -> pd.DataFrame:
    """Every row of every finding that the study has arms for; columns as in COLUMNS."""
    found, case = [], Case(study, metric)
    for finding in FINDINGS:
        for row in finding.rows(case):
            word = _word(row["value"], row["low"], row["high"], row.pop("sign"), row.pop("scale"))
            word = "undecided" if row.pop("moot", False) and word == "as stated" else word
            found.append({"study": study.protocol["name"], "finding": finding.name, **row, "word": word})
    return pd.DataFrame(found, columns=COLUMNS)


def missing(study: StudyResult) -> dict[str, list[str]]:
    """finding -> arms that it needs and that have no finished cell here, be they still to come or not in the plan."""
    return {f.name: gone for f in FINDINGS if (gone := [arm for arm in f.needs if arm not in study.arms])}


def verdict(rows: pd.DataFrame) -> str:
    """confirmed, contradicted, mixed, undecided, or not measured, from the rows of one finding."""
    count = rows["word"].value_counts()
    if rows.empty:
        return "not measured"
    stated, contrary = int(count.get("as stated", 0)), int(count.get("contrary", 0))
    if stated + contrary < max(LEAST, LEAST_SHARE * len(rows)):
        return "undecided"
    return "mixed" if stated and contrary else ("confirmed" if stated else "contradicted")


def _word(value: float, low: float, high: float, sign: int, scale: float) -> str:
    if sign == 0:
        if not low <= 0.0 <= high:
            return "contrary"
        return "as stated" if max(-low, high) <= SHORT * scale else "undecided"
    if low <= 0.0 <= high:
        return "undecided"
    return "as stated" if (value > 0) == (sign > 0) else "contrary"


def _pairs(*pairs: tuple[str, str, int]) -> Rows:
    """Rows of arm minus against; the sign is that of a metric where lower is better."""

    def rows(case: Case) -> Iterable[dict[str, Any]]:
        for arm, against, sign in pairs:
            if not {arm, against} <= set(case.study.arms):
                continue
            table = pooled.differences(case.study, against)
            table = table[(table["arm"] == arm) & (table["metric"] == case.metric)]
            for one in table[table["length"] == table["length"].max()].to_dict("records"):
                scale = abs(_level(case, against, one["length"], one["budget"]))
                kept = {key: one[key] for key in ("metric", "length", "budget", "seeds", "value", "low", "high")}
                yield {"what": f"{arm} − {against}", **kept, "sign": sign, "scale": scale}

    return rows


def _steps(case: Case) -> Iterable[dict[str, Any]]:
    """The gain over plain post-training at the fewest steps minus that at the most, as a difference of log ratios; moot where
    the arm is not clearly better than plain at the fewest."""
    if CONTROL not in case.study.arms:
        return
    table = pooled.gain_by_steps(case.study, case.metric)
    table = table[(table["group"] == SWEPT) & table["gamma"].isin([0.4, 0.8])]
    gain = pooled.differences(case.study, CONTROL).set_index(["arm", "metric", "length", "budget"])["high"]
    for one in pooled.at_longest(table).to_dict("records"):
        kept = {key: one[key] for key in ("metric", "length", "budget", "seeds", "value", "low", "high")}
        what = f"log ratio {one['arm']} / plain, {one['few']} − {one['budget']} steps"
        moot = gain[one["arm"], one["metric"], one["length"], one["few"]] >= 0.0
        yield {"what": what + (" (no gain)" if moot else ""), **kept, "sign": -1, "scale": 1.0, "moot": moot}


def _fan(case: Case) -> Iterable[dict[str, Any]]:
    """Width of the fan (the band's gamma) and every lag, against the base, in units of gamma; they are no metric, so they are
    given once, with fd. Lags are paired by sample id, widths are not: their interval is that of two independent numbers."""
    if case.metric != "fd":
        return
    lags = pooled.lags_over_seeds(case.study)
    about = {"metric": "lag", "budget": _probe_steps(case.study), "sign": -1, "scale": 1.0}
    mine = (lags["group"] == SWEPT) & lags["gamma"].isin([0.4, 0.8])
    width = (lags["kind"] == "excess") & (lags["reading"] == "band")
    for before in lags[width & (lags["arm"] == BASE)].to_dict("records"):
        for after in lags[width & mine].to_dict("records"):
            value = after["value"] - before["value"]
            half = math.hypot(*(one["high"] - one["low"] for one in (before, after))) / 2.0
            yield {
                "what": f"band of {after['arm']} − base", "length": after["length"], "seeds": after["seeds"],
                "value": value, "low": value - half, "high": value + half, **about,
            }  # fmt: skip
    for one in lags[(lags["kind"] == "change") & mine].to_dict("records"):
        kept = {key: one[key] for key in ("length", "seeds", "value", "low", "high")}
        yield {"what": f"lag of {one['arm']} − base, by {one['reading']}", **kept, **about}


def _probe_steps(study: StudyResult) -> int:
    steps = (study.protocol.get("probe") or {}).get("steps", 0)
    return int(steps[0] if isinstance(steps, list) else steps)


def _level(case: Case, arm: str, length: int, budget: int) -> float:
    """What the arm itself comes to there, at its own length where it is not trained."""
    rows = case.study.rows
    here = rows[(rows["arm"] == arm) & (rows["metric"] == case.metric) & (rows["budget"] == budget)]
    return float(here.loc[here["length"].isin([0, length]), "value"].mean())


FINDINGS = (
    Finding(
        "MixFlow helps",
        "Post-training with MixFlow ends nearer to the data than plain post-training of the same length.",
        _pairs(("mixflow-0.8", "plain", -1), ("mixflow-0.4", "plain", -1)),
        ("plain", "mixflow-0.8", "mixflow-0.4"),
    ),
    Finding(
        "only the noisier direction",
        "Inputs noisier than their label help; inputs on both sides of it do not.",
        _pairs(
            ("mixflow-0.8", "jitter-0.8", -1),
            ("mixflow-0.4", "jitter-0.4", -1),
            ("mixflow-1", "m-anywhere-beta21", -1),
            *((arm, CONTROL, -1) for arm in ("mixflow-1", "mixflow-0.8", "mixflow-0.4")),
            *((arm, CONTROL, 1) for arm in BOTH_SIDES),
        ),
        (CONTROL, "mixflow-0.8", "mixflow-0.4", "mixflow-1", *BOTH_SIDES),
    ),
    Finding(
        "Beta(2,1)",
        "Times drawn from Beta(2,1) are better than uniform ones.",
        _pairs(("mixflow-1", "mixflow-uniform-t-1", -1), ("mixflow-0.4", "mixflow-uniform-t-0.4", -1)),
        ("mixflow-1", "mixflow-0.4", "mixflow-uniform-t-1", "mixflow-uniform-t-0.4"),
    ),
    Finding(
        "plain post-training",
        "Plain post-training changes nothing.",
        _pairs(("plain", BASE, 0)),
        ("plain",),
    ),
    Finding(
        "fewer steps",
        "The gain over plain post-training grows with fewer steps.",
        _steps,
        ("plain", "mixflow-0.8", "mixflow-0.4"),
    ),
    Finding(
        "over-slowing",
        "Slowing much more does not help, and from 0.8 to 1 nothing changes.",
        _pairs(("over-slowed", "mixflow-0.8", 1), ("over-slowed", CONTROL, 1), ("mixflow-1", "mixflow-0.8", 0)),
        (CONTROL, "mixflow-0.8", "mixflow-1", "over-slowed"),
    ),
    Finding(
        "the fan narrows",
        "After MixFlow the fan is narrower and states lag less.",
        _fan,
        ("mixflow-0.8", "mixflow-0.4"),
    ),
)
"""Every finding, in the order it is shown."""
