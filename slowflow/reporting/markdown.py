"""The report as Markdown: the same sentences and tables as the page, without pictures, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from slowflow.reporting import text
from slowflow.reporting.citations import citations
from slowflow.reporting.published import table as published_table
from slowflow.reporting.reading import passages
from slowflow.reporting.render import (
    cause_rows,
    comparison_rows,
    lag_rows,
    measured_arms,
    quality_rows,
    readable,
    subject,
)
from slowflow.results import RunResult

SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def render_markdown(result: RunResult, published: str | None = None) -> str:
    """The report as GitHub's Markdown; everything from outside is escaped.

    Args:
        result: what is shown.
        published: model of the published tables, where the checkpoint's name does not tell.

    Raises:
        InputError: the result says nothing about a model.
    """
    shown = subject(result)
    lines = [f"## SlowFlow: {plain(shown.config['model']['name'])} on {plain(shown.config['data']['name'])}", ""]
    for finding in text.findings(result):
        lines += [f"**{plain(finding.sentence)}**" + (f" {plain(finding.numbers)}" if finding.numbers else ""), ""]
    lines += [f"*{plain(text.advice(result))}*", ""]
    lines += [*_next(result), *_comparison(result), *_quality(result), *_published(result, published)]
    for passage in passages(result):
        lines += folded(passage.question, [f"- {plain(sentence)}" for sentence in passage.sentences])
    lines += [*_lags(result), *_protocols(result)]
    entries = [line for one in citations(result) for line in (f"{one.name}:", "", "```bibtex", one.bibtex, "```", "")]
    lines += folded("Citations", entries)
    lines.append(f"Made by SlowFlow {metadata.version('slowflow')}; brackets are 95 % intervals.")
    return "\n".join(lines) + "\n"


def plain(words: str) -> str:
    """Words that Markdown takes as they are."""
    return SPECIAL.sub(r"\\\1", str(words).replace("\n", " "))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table, and the blank line after it."""
    heads = list(heads)
    lines = ["| " + " | ".join(map(plain, heads)) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(map(plain, row)) + " |" for row in rows), ""]


def folded(title: str, lines: list[str]) -> list[str]:
    """Lines behind a click; blank lines let GitHub read Markdown inside."""
    return ["<details><summary>" + plain(title) + "</summary>", "", *lines, "", "</details>", ""] if lines else []


def _next(result: RunResult) -> list[str]:
    """gamma and the commands to paste."""
    if not result.measurements:
        return []
    fit = result.fit
    width = f"gamma {fit.gamma:.3f} ({text.origin(fit)}; {fit.time})"
    commands = [
        f"slowflow posttrain MODEL --data DATA --remedy mixflow --gamma {fit.gamma:.3f} --steps N --out DIR",
        "slowflow posttrain MODEL --data DATA --remedy plain --steps N --out DIR-control",
    ]
    warned = [f"- warning: {plain(text.typeset(line))}" for line in fit.warnings]
    return [
        f"{plain(text.width_sentence(result))} {plain(width)}.",
        "",
        *([plain(f"Why: {text.typeset(fit.chosen)}."), ""] if fit.chosen else []),
        "```",
        *commands,
        "```",
        "",
        *warned,
        *([""] if warned else []),
    ]


def _quality(result: RunResult) -> list[str]:
    """Every metric of every arm."""
    arms = [arm for arm in result.arms if arm.name in result.evaluations]
    rows = [[row["metric"], str(row["steps"]), *row["cells"]] for row in quality_rows(result)]
    return folded("All numbers", table(["metric", "steps", *(arm.title for arm in arms)], rows)) if rows else []


def _published(result: RunResult, model: str | None) -> list[str]:
    """The numbers beside published ones, and in what the protocols differ."""
    found = published_table(result, model)
    if found is None:
        return []
    rows = [
        [one.who, *one.cells, one.settings, "" if one.own else f"{one.differences} [{one.source}]"]
        for one in found.lines
    ]
    return ["Beside published numbers:", "", *table(["", *found.metrics, "protocol", "differs in"], rows)]


def _comparison(result: RunResult) -> list[str]:
    """Paired differences, in words where they are clear."""
    found = comparison_rows(result)
    if not found:
        return []
    rows = [
        [row["pair"], str(row["steps"]), *(f"{cell['text']} {cell['word']}" for cell in row["cells"])] for row in found
    ]
    return table(["paired difference", "steps", *found[0]["labels"]], rows)


def _lags(result: RunResult) -> list[str]:
    """Every estimate of gamma, and the lag divided."""
    if not result.measurements:
        return []
    rows = [[": ".join(filter(None, (r["group"], r["name"]))), *r["cells"]] for r in lag_rows(result)]
    lines = folded("Every estimate of gamma", table(["", *(arm.title for arm in measured_arms(result))], rows))
    divided = [
        [row["reading"], *(" ".join(filter(None, (c["text"], c["share"]))) for c in row["cells"])]
        for row in cause_rows(result)
    ]
    heads = ["reading", "whole lag", "step size", "error on real states", "accumulation"]
    return lines + (folded("The lag, divided", table(heads, divided)) if divided else [])


def _protocols(result: RunResult) -> list[str]:
    """How it was measured and evaluated."""
    lines = []
    if result.measurements:
        lines += folded("Protocol of the measurement", _pairs(result.measured.protocol()))
    if result.evaluations:
        first = next(iter(result.evaluations.values()))
        lines += folded("Protocol of the evaluation", _pairs(first.protocol(text.main_steps(result))))
    return lines


def _pairs(protocol: dict[str, Any]) -> list[str]:
    return table(["", ""], readable(protocol).items())
