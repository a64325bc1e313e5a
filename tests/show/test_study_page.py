"""The page about studies: every number is that of the tables behind it, and what is missing is named."""

import re
import shutil

import pytest
from studymaker import planted, protocol

from slowflow.errors import InputError
from slowflow.reporting.page import write_page, write_report
from slowflow.reporting.study_ingredients import ingredients
from slowflow.reporting.study_page import FIGURES, render_studies, studies_markdown
from slowflow.reporting.study_parts import Table
from slowflow.results import RunResult
from slowflow.sweep import findings
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.pooled import differences
from slowflow.sweep.regret import regret_table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("page") / "study", gammas=(0.0, 0.4, 0.8), band=0.15, lag_change=-0.02)


@pytest.fixture(scope="module")
def markdown(study):
    return studies_markdown([StudyResult.load(study)])


def test_the_page_has_every_part_and_loads_nothing_from_outside(study):
    page = render_studies([StudyResult.load(study)])
    for part in (
        "progress",
        "paper",
        "regret",
        "auto",
        "ingredients",
        "remedies",
        "lag",
        "forecast",
        "memorisation",
        "figures",
        "numbers",
    ):
        assert f'id="{part}"' in page
    assert page.count('src="data:image/') == len(FIGURES)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_numbers_of_the_page_are_those_of_the_tables(study, markdown):
    result = StudyResult.load(study)
    row = (
        differences(result, "plain")
        .query("arm == 'mixflow-0.4' and length == 3000 and budget == 20 and metric == 'fd'")
        .iloc[0]
    )
    said = f"{row['value']:+.1f} \\[{row['low']:+.1f}, {row['high']:+.1f}\\]".replace("-", "−")
    assert said in markdown
    cost = regret_table(result, {"band": 0.15}).query(
        "method == 'band' and length == 3000 and budget == 20 and metric == 'fd'"
    )
    assert f"0.15: {cost['value'].iloc[0]:+.1f}".replace("-", "−") in markdown


def test_ingredients_are_told_apart_where_two_arms_differ_in_one(tmp_path):
    """Planted: Beta(2,1) alone costs 7, slowed inputs save 3 of that, their late label costs 2."""
    worth = {"plain": 50.0, "same-marginal-0.4": 52.0}

    def truth(arm, gamma, length, budget):
        return worth.get(arm, 50.0 if gamma is None else 57.0 if gamma == 0.0 else 54.0)

    more = [("same-marginal-0.4", "same-marginal", 0.4)]
    found = StudyResult.load(planted(tmp_path / "s", truth, gammas=(0.0, 0.4), noise=0.2, inside=0.2, more=more))
    table = ingredients([found]).tables[0]
    rows = {row[2]: row for row in table.rows if row[3] == "FD"}
    assert rows.keys() == {"mixflow-0 − plain", "mixflow-0.4 − mixflow-0", "mixflow-0.4 − same-marginal-0.4"}
    for pair, value in zip(rows, (7.0, -3.0, 2.0), strict=True):
        cell = rows[pair][table.heads.index("at 20 steps")]
        assert cell.endswith("*")
        assert abs(float(cell.split(" ")[0].replace("−", "-")) - value) < 0.6  # four standard errors of 0.2 sqrt(2 / 3)
    alone = StudyResult.load(planted(tmp_path / "t", gammas=(0.4,)))
    assert "No two arms" in ingredients([alone]).sentences[0]


def test_what_is_not_finished_is_named(study, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(study, part)
    for seed in (1, 2):
        shutil.rmtree(part / "arms" / f"mixflow-0.8-seed{seed}")
    shutil.rmtree(part / "arms" / "heun-seed0")
    said = studies_markdown([StudyResult.load(part)])
    assert "mixflow-0.8 (seed 1, 2)" in said
    assert "heun (seed 0)" in said
    assert "under one seed only, so that its interval knows nothing of training: mixflow-0.8" in said
    assert "1 of 3 seeds have all of them" in said


def test_an_arm_to_come_and_one_the_study_was_never_to_have_are_told_apart(study, tmp_path):
    said = studies_markdown([StudyResult.load(study)])
    assert "not finished: mixflow" not in said
    assert "not in this study: jitter-0.8" in said.replace("mixflow-1, ", "")
    part = tmp_path / "part"
    shutil.copytree(study, part)
    for seed in (0, 1, 2):
        shutil.rmtree(part / "arms" / f"mixflow-0.4-seed{seed}")
    said = studies_markdown([StudyResult.load(part)])
    assert re.search(r"not finished: [^|;]*mixflow-0\.4", said)
    assert "not in this study: jitter-0.8" in said.replace("mixflow-1, ", "")


def test_a_study_of_the_base_alone_is_a_page_that_says_so(study, tmp_path):
    part = tmp_path / "base"
    shutil.copytree(study, part)
    for folder in (part / "arms").iterdir():
        if not folder.name.startswith("base"):
            shutil.rmtree(folder)
    page = render_studies([StudyResult.load(part)])
    assert "no regret yet" in page
    assert "No sweep is finished" in page
    assert "not measured" in page


def test_several_studies_stand_on_one_page_and_no_other_run_beside_them(study, tmp_path):
    other = planted(tmp_path / "other", gammas=(0.4, 0.8), band=0.3, other=protocol(name="second"))
    file = write_report([study, other], tmp_path / "both.md")
    said = file.read_text(encoding="utf-8")
    assert "studies of planted, second" in said
    assert "| the paper says | planted | second |" in said
    assert "second: the band's gamma 0.300 lies outside them, so its regret is not known yet" in said
    with pytest.raises(InputError, match="page of their own"):
        write_report([study, tmp_path], tmp_path / "x.html")
    with pytest.raises(InputError, match="written as html or md"):
        write_report([study], tmp_path / "x.txt")
    assert write_page(RunResult.load(study), tmp_path / "one.md").exists()


def test_hostile_names_are_text(tmp_path):
    evil = planted(tmp_path / "s", gammas=(0.4, 0.8), other=protocol(name="<script>alert(1)</script>"))
    assert "<script>" not in render_studies([StudyResult.load(evil)])
    assert "<script>" not in studies_markdown([StudyResult.load(evil)])


def test_a_column_that_says_the_same_in_every_row_is_said_once():
    rows = [["s", "a", "9"], ["s", "b", "9"]]
    found = Table(["study", "arm", "length"], rows, "Sorted.").said_once()
    assert found.heads == ["arm"]
    assert found.rows == [["a"], ["b"]]
    assert found.caption == "Sorted. All rows: study s, length 9."
    varied = Table(["study", "arm"], [["s", "a"], ["r", "a"]])
    assert varied.said_once() == varied  # two studies; an arm is never left out


def test_the_headline_counts_the_verdicts_below_it(study, markdown):
    judged = findings.judged(StudyResult.load(study))
    words = [
        findings.verdict(judged[judged["finding"] == one.name])
        for one in findings.FINDINGS
        if (judged["finding"] == one.name).any()
    ]
    headline = next(line for line in markdown.splitlines() if line.startswith("planted, up to 3 seeds"))
    for word in set(words):
        assert f"{words.count(word)} {word}" in headline
    assert f"of {len(findings.FINDINGS)} findings" in headline
