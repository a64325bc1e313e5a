"""The parts of a page about studies that judge: the paper's findings, regret of suggested gammas, and what auto takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from slowflow.errors import InputError
from slowflow.reporting import text
from slowflow.reporting.study_parts import DIGITS, Part, Table, base_measured, estimate, name, starred
from slowflow.sweep import choice, findings
from slowflow.sweep.folder import SWEPT, StudyResult
from slowflow.sweep.grid import sweep_of
from slowflow.sweep.regret import pilot_table, regret, regret_table, suggestions

WHAT = (
    "Regret is the metric at a gamma minus that at the best gamma of the sweep, turned so that positive is worse. The best of a "
    "noisy sweep looks better than it is: it is therefore chosen on the other seeds and judged on the one left out; under one seed "
    "the bootstrap's correction stands in, and the interval knows nothing of training. A star: its interval lies above zero, so it "
    "is more than the sweep's own noise (the column 'noise' is the half-width of the difference between the two best gammas). "
    "Between two gammas of the sweep the metric is read off linearly. 'Best after N' is what a pilot of N steps would take. "
    "'No correction' is plain training of the same length, against the same best gamma: below zero, it did better than MixFlow."
)


def paper(studies: Sequence[StudyResult]) -> Part:
    """The paper's findings with a verdict each, and the rows behind them."""
    table = pd.concat([findings.judged(study) for study in studies], ignore_index=True)
    rows = []
    for one in findings.FINDINGS:
        cells = [one.statement]
        for study in studies:
            mine = table[(table["finding"] == one.name) & (table["study"] == name(study))]
            cells.append("; ".join([_counted(mine), *_without(study, one.name)]))
        rows.append(cells)
    behind = []
    for row in table.to_dict("records"):
        digits = 3 if row["what"].startswith("log ratio") else DIGITS.get(row["metric"], 3)
        behind.append(
            [row["study"], row["finding"], row["what"], f"{int(row['length']):,}", str(int(row["budget"])),
             text.signed(estimate(row), digits), str(row["seeds"]), row["word"]]
        )  # fmt: skip
    said = [
        "A row counts as decided where its 95 % interval excludes zero; rows are many, so one in twenty errs by chance. "
        "Confirmed: every decided row is as the paper says; contradicted: every one is contrary; mixed: both occur; "
        "undecided: fewer than two rows or a quarter of them are decided. These are small models on small data under this "
        "protocol, and a base that is not converged gains from any further training; the paper's are large and converged.",
    ]
    heads = ["study", "finding", "difference", "length", "steps", "value [95 % interval]", "seeds", "row"]
    verdicts = Table(
        ["the paper says", *map(name, studies)],
        rows,
        "Frechet distance, and the lag, at the longest length both arms have.",
    )
    every = Table(heads, behind, "Every row. Differences are paired by seed and sample id; lower distance is better.")
    heads = [_headline(study, table) for study in studies]
    return Part("paper", "The paper's findings", said, [verdicts, every], heads)


def _headline(study: StudyResult, judged: pd.DataFrame) -> str:
    """What a study says of the paper's findings, in a sentence."""
    mine = [judged[(judged["finding"] == one.name) & (judged["study"] == name(study))] for one in findings.FINDINGS]
    words = pd.Series([findings.verdict(rows) for rows in mine if len(rows)], dtype=str).value_counts()
    numbers = ", ".join(f"{count} {word}" for word, count in words.items()) or "none can be judged yet"
    gone = sum(rows.empty for rows in mine)
    left = f", {gone} not measured" if gone and len(words) else ""
    seeds = int(study.rows["seed"].nunique())
    seen = f"up to {seeds} seeds" if seeds > 1 else "1 seed, provisional"
    return f"{name(study)}, {seen}: of {len(mine)} findings of the paper {numbers}{left}."


def _without(study: StudyResult, finding: str) -> list[str]:
    """The arms that a finding lacks here: those still to come, and those this study was never to have."""
    planned = {arm for arm, _ in study.plan}
    gone = findings.missing(study).get(finding, [])
    listed = {
        "not finished": [arm for arm in gone if arm in planned],
        "not in this study": [arm for arm in gone if arm not in planned],
    }
    return [f"{why}: {', '.join(arms)}" for why, arms in listed.items() if arms]


def _counted(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "not measured"
    count, seeds = rows["word"].value_counts(), int(rows["seeds"].max())
    numbers = ", ".join(f"{int(count.get(word, 0))} {word}" for word in findings.WORDS)
    return f"{findings.verdict(rows)} ({numbers}; {seeds} seed{'s' if seeds > 1 else ', provisional'})"


def regrets(studies: Sequence[StudyResult]) -> Part:
    """Regret of every estimator's gamma, of the paper's, and of what a pilot would pick."""
    said, short, every = [], [], []
    budgets = sorted({int(n) for study in studies for n in study.protocol["sampling"]["steps"]})
    for study in studies:
        try:
            table = pd.concat([regret_table(study, suggestions(study)), pilot_table(study)], ignore_index=True)
        except InputError as error:
            said.append(f"{name(study)}: no regret yet: {str(error).replace(str(study.path), 'it')}.")
            continue
        swept = sorted(study.rows.loc[study.rows["group"] == "mixflow", "gamma"].unique().tolist())
        said.append(
            f"{name(study)}: {', '.join(f'{g:g}' for g in swept)} are the gammas that are finished; "
            f"{int(table['seeds'].max())} of {len(study.protocol['seeds'])} seeds have all of them."
        )
        said += [
            f"{name(study)}: the {method}'s gamma {gamma:.3f} lies outside them, so its regret is not known yet."
            for method, gamma in suggestions(study).items()
            if not swept[0] <= gamma <= swept[-1]
        ]
        said += told(study)
        short += _by_steps(table[(table["length"] == table["length"].max()) & (table["metric"] == "fd")], budgets)
        every += [_row(row) for row in table[table["metric"].isin(["fd", "coverage"])].to_dict("records")]
    heads = [*("study", "metric", "length", "steps", "method", "gamma", "best", "regret [95 % interval]"),
             *("noise", "chance of best", "seeds")]  # fmt: skip
    first = Table(
        ["study", "method", *(f"gamma, regret at {n} steps" for n in budgets)],
        short,
        "Regret in Frechet distance after the longest training [95 % interval].",
    )
    tables = [first, Table(heads, every, "Every length, and coverage.")] if every else []
    return Part("regret", "What a suggested gamma costs", [*said, WHAT], tables)


def told(study: StudyResult) -> list[str]:
    """What `suggest` says to whoever asks it about the base of a study, and whether the gamma it recommends is good enough
    there; nothing where the base was not measured."""
    measured = base_measured(study)
    if measured is None:
        return []
    fit = measured.suggest()
    swept = study.rows[(study.rows["group"] == SWEPT) & (study.rows["metric"] == "fd")]
    length = int(swept["length"].max())
    sweeps = {int(n): sweep_of(study, "fd", length, int(n)) for n in sorted(set(swept["budget"]))}
    inside = {n: regret(sweep, fit.gamma).within_noise for n, sweep in sweeps.items() if sweep.holds(fit.gamma)}
    where = [", ".join(str(n) for n, within in inside.items() if within is asked) for asked in (True, False)]
    parts = [f"{word} the sweep's noise at {n} steps" for word, n in zip(("within", "beyond"), where, strict=True) if n]
    regretted = f"; its regret is {' and '.join(parts)}" if parts else ""
    said = ". ".join(filter(None, [fit.chosen, fit.outlook]))
    return [
        f"{name(study)}: of its base `suggest` says '{fit.verdict}' and recommends gamma {fit.gamma:.3f} ({fit.method})"
        f"{regretted}. Whoever asks is told: {said}"
    ]


def _beyond(row: Mapping[Any, Any], digits: int) -> str:
    """Regret, with a star where it is more than the sweep's own noise, and a word where it is clearly below zero."""
    mark = "" if row["within_noise"] else " *"
    return text.signed(estimate(row), digits) + (" (better)" if row["high"] < 0.0 else mark)


def _gamma(row: Mapping[Any, Any], digits: int, then: str = "") -> str:
    """The gamma of a row, or nothing where no correction was made."""
    return "" if pd.isna(row["gamma"]) else f"{row['gamma']:.{digits}f}{then}"


def _by_steps(table: pd.DataFrame, budgets: Sequence[int]) -> list[list[str]]:
    """One row a study and method, one cell a step count."""
    rows = []
    for key, group in table.groupby(["study", "method"], sort=False):
        found = {int(row["budget"]): row for row in group.to_dict("records")}
        cells = [_gamma(found[n], 2, ": ") + _beyond(found[n], 1) if n in found else "–" for n in budgets]
        rows.append([*map(str, key), *cells])
    return rows


def _row(row: Mapping[Any, Any]) -> list[str]:
    digits = DIGITS.get(row["metric"], 3)
    return [
        row["study"], row["metric"], f"{int(row['length']):,}", str(int(row["budget"])), row["method"], _gamma(row, 3) or "–",
        f"{row['best']:g}", _beyond(row, digits), f"{row['noise']:.{digits}f}", f"{row['chance_best']:.2f}", str(row["seeds"]),
    ]  # fmt: skip


def automatic(studies: Sequence[StudyResult]) -> Part:
    """What `auto` takes by the rule, and the numbers behind it."""
    found = choice.choose(studies)
    said = [f"By these studies auto takes {found.why}."]
    if found.table.empty:
        return Part("auto", "What auto takes", [*said, "No sweep is finished, so there is no number yet."])
    budgets = sorted(set(found.table["budget"].tolist()))
    rows = []
    for key, group in found.table.groupby(["study", "method"], sort=False):
        by = {int(row["budget"]): row for row in group.to_dict("records")}
        cells = [f"x{by[n]['ratio']:.2f} ({starred(by[n], 1)})" if n in by else "–" for n in budgets]
        rows.append([*map(str, key), *cells, str(group["seeds"].iloc[0])])
    heads = ["study", "method", *(f"at {n} steps" for n in budgets), "seeds"]
    caption = (
        "Frechet distance after the longest training over the band's, and minus the band's [95 % interval]; a star: the interval "
        "excludes zero. Two given gammas are compared, so no best was selected."
    )
    return Part("auto", "What auto takes", said, [Table(heads, rows, caption)])
