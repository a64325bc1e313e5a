"""The part of a page about studies that takes MixFlow apart: what its law of t, its slowed inputs and its labels do each."""

from __future__ import annotations

from collections.abc import Sequence

from slowflow.reporting.study_parts import DIGITS, Part, Table, name, starred
from slowflow.sweep.folder import CONTROL, StudyResult
from slowflow.sweep.pooled import differences

SHOWN = ("fd", "coverage")
PAIRS = (
    ("times from Beta(2,1), inputs untouched", "mixflow-0", CONTROL),
    ("slowed inputs, times from Beta(2,1)", "mixflow-{gamma:g}", "mixflow-0"),
    ("slowed inputs, uniform times", "mixflow-uniform-t-{gamma:g}", CONTROL),
    ("the late label, at the same inputs", "mixflow-{gamma:g}", "same-marginal-{gamma:g}"),
    ("inputs on the noisier side rather than on both", "mixflow-{gamma:g}", "jitter-{gamma:g}"),
    ("no label at all", "noise-blind", CONTROL),
)
"""Ingredient, arm, arm it is judged against: names as the studies under reports/studies give them."""


def ingredients(studies: Sequence[StudyResult]) -> Part:
    """Differences between arms that differ in one ingredient, at the longest length both have."""
    rows, budgets = [], sorted({int(n) for study in studies for n in study.protocol["sampling"]["steps"]})
    for study in studies:
        for what, arm, against in _pairs(study):
            table = differences(study, against)
            table = table[(table["arm"] == arm) & table["metric"].isin(SHOWN)]
            table = table[table["length"] == table["length"].max()]
            for metric in (one for one in SHOWN if one in set(table["metric"])):
                found = {int(row["budget"]): row for row in table[table["metric"] == metric].to_dict("records")}
                cells = [starred(found[n], DIGITS.get(metric, 3)) if n in found else "–" for n in budgets]
                length, seeds = f"{int(table['length'].iloc[0]):,}", str(table["seeds"].min())
                shown = metric.replace("fd", "FD")
                rows.append([name(study), what, f"{arm} − {against}", shown, length, *cells, seeds])
    if not rows:
        return Part(
            "ingredients", "Which part of MixFlow does what", ["No two arms that differ in one part are finished."]
        )
    heads = ["study", "ingredient", "difference", "metric", "length", *(f"at {n} steps" for n in budgets), "seeds"]
    said = [
        "Two arms that differ in one ingredient, paired by seed and sample id, at the longest length both have. FD: lower is "
        "better; coverage: higher is better. A star: the interval excludes zero."
    ]
    return Part("ingredients", "Which part of MixFlow does what", said, [Table(heads, rows)])


def _pairs(study: StudyResult) -> list[tuple[str, str, str]]:
    """Every pair of PAIRS that this study has, at every gamma it has it for."""
    gammas = sorted(study.rows["gamma"].dropna().unique().tolist())
    found: dict[tuple[str, str, str], None] = {}
    for what, arm, against in PAIRS:
        for gamma in gammas:
            pair = (what, arm.format(gamma=gamma), against.format(gamma=gamma))
            if pair[1] != pair[2] and {*pair[1:]} <= set(study.arms):
                found[pair] = None
    return list(found)
