"""The report as Markdown says what the page says, keeps its tables whole, and takes nothing from outside as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from slowflow.errors import InputError
from slowflow.reporting import text
from slowflow.reporting.citations import SOURCES, citations
from slowflow.reporting.markdown import plain, render_markdown, table
from slowflow.reporting.page import write_page
from slowflow.reporting.reading import passages
from slowflow.reporting.render import comparison_rows, quality_rows
from slowflow.results import Arm, RunResult, answer

HOSTILE = "<img src=x>|`*_[a](b)#"


@pytest.fixture(scope="module")
def page(result: RunResult) -> str:
    return render_markdown(result)


def test_the_findings_come_first_and_whole(page: str, result: RunResult) -> None:
    lines = [line for line in page.splitlines() if line]
    assert lines[0] == "## SlowFlow: tiny waves on waves"
    findings = text.findings(result)
    for line, finding in zip(lines[1:], findings, strict=False):
        assert line == f"**{plain(finding.sentence)}** {plain(finding.numbers)}".rstrip()
    assert lines[1 + len(findings)] == f"*{plain(text.advice(result))}*"


def test_the_sentences_at_the_top_agree_with_the_json(result: RunResult) -> None:
    known = answer(result)
    lag, remedy = text.lag_finding(result), text.remedy_finding(result)
    assert lag.sentence.startswith(text.HEADLINE[known["suggest"]["verdict"]])
    assert text.typeset(known["suggest"]["reason"].split(": ")[-1]) in lag.numbers
    steps = str(text.main_steps(result))
    distance = {
        arm: known["evaluate"][arm]["by_steps"][steps]["metrics"]["fd"]["value"] for arm in ("mixflow", "plain")
    }
    said = float(re.search(r"FD-pixels ([+−][\d.]+)", remedy.numbers)[1].replace("−", "-"))
    assert said == pytest.approx(distance["mixflow"] - distance["plain"], abs=0.0051)
    closer = said < 0
    assert ("closer to the real ones" in remedy.sentence) == closer


def test_every_table_is_whole(page: str, result: RunResult) -> None:
    widths: set[int] = set()
    for line in page.splitlines():
        if line.startswith("|"):
            widths.add(len(re.findall(r"(?<!\\)\|", line)))
        elif widths:
            assert len(widths) == 1, line
            widths = set()
    for row in [*quality_rows(result), *comparison_rows(result)]:
        for cell in row["cells"]:
            assert plain(cell if isinstance(cell, str) else cell["text"]) in page
    for passage in passages(result):
        assert all(plain(sentence) in page for sentence in passage.sentences)
    assert page.count("<details>") == page.count("</details>") >= 5


def test_names_from_outside_are_text(measured_only: RunResult) -> None:
    arm = replace(measured_only.arms[0], title=HOSTILE)
    words = render_markdown(replace(measured_only, arms=[Arm(arm.name, HOSTILE, "base")]))
    assert "<img" not in words.replace("\\<img", "")
    assert plain(HOSTILE) in words
    assert table(["a|b"], [["c|d"]])[0] == "| a\\|b |"


def test_the_ending_decides_the_format(measured_only: RunResult, tmp_path: Path) -> None:
    assert write_page(measured_only, tmp_path / "a.md").read_text().startswith("## SlowFlow")
    assert write_page(measured_only, tmp_path / "a.txt", "md").read_text().startswith("## SlowFlow")
    with pytest.raises(InputError, match="html or md"):
        write_page(measured_only, tmp_path / "a.txt")
    with pytest.raises(InputError, match="format is 'pdf'"):
        write_page(measured_only, tmp_path / "a.html", "pdf")


def test_an_evaluation_and_a_lone_measurement_make_pages(evaluated_only: RunResult, plain_only: RunResult) -> None:
    assert "Protocol of the evaluation" in render_markdown(evaluated_only)
    assert "Every estimate of gamma" in render_markdown(plain_only)


def test_what_was_used_is_cited_and_nothing_else(
    result: RunResult, evaluated_only: RunResult, with_peers: RunResult
) -> None:
    assert {one.key for one in citations(result)} == {"mixflow", "sit", "faiss", "fid", "prdc"}
    assert {one.key for one in citations(evaluated_only)} == {"mixflow", "fid", "prdc"}
    assert "epsilonscaling" in {one.key for one in citations(with_peers)}
    for one in SOURCES:
        assert one.bibtex.startswith(f"@{one.kind}{{{one.key},")
        assert one.bibtex.count("{") == one.bibtex.count("}")
        assert one.fields["title"]
        assert one.fields["note"].startswith("arXiv:")
