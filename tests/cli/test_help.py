"""Help: verbs under the headings of their jobs, examples that parse, and a hint where a name is mistyped."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from slowflow_cli import shared, telling
from slowflow_cli.examples import EXAMPLES
from slowflow_cli.main import GROUPS, app
from slowflow_cli.telling import folded
from typer.testing import CliRunner


def slowflow(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_verbs_stand_under_the_headings_of_their_jobs() -> None:
    text = slowflow("--help").stdout
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for title, place, end in zip(GROUPS, places, [*places[1:], text.index("\nExamples:")], strict=True):
        for function in GROUPS[title]:
            assert f"\n  {function.__name__} " in text[place:end]
    assert "..." not in text[places[0] : places[-1]]  # a sentence that is cut off helps nobody


def test_every_verb_has_examples_and_every_example_a_verb() -> None:
    verbs = {function.__name__ for functions in GROUPS.values() for function in functions}
    assert EXAMPLES.keys() <= verbs
    assert verbs - EXAMPLES.keys() == set()


@pytest.mark.parametrize("verb", list(EXAMPLES))
def test_examples_can_be_pasted(verb: str) -> None:
    text = slowflow(verb, "--help").stdout
    shown = text.split("\nExamples:\n")[1].replace("\\\n", " ").strip().splitlines()
    assert [shlex.split(line) for line in shown] == [shlex.split(line) for line in EXAMPLES[verb]]
    for line in EXAMPLES[verb]:
        for word in shlex.split(line)[2:]:
            assert not word.startswith("--") or word in text, f"no {word} in {line}"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["mesure"], "measure"),
        (["ls", "figurs"], "figures"),
        (["measure", "digits-sit", "--data", "digts", "--out", "x"], "digits"),
        (["measure", "digits-sti", "--data", "digits", "--out", "x"], "digits-sit"),
        (["measure", "digits-sit", "--data", "digits", "--out", "x", "--refrence", "own"], "--reference"),
        (["evaluate", "digits-sit", "--data", "digits", "--features", "fd-digit", "--out", "x"], "fd-digits"),
        (["encode", ".", "--codec", "pixls", "--out", "x"], "pixels"),
    ],
)
def test_a_mistyped_name_is_recognised(words: list[str], meant: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = slowflow(*words)
    assert result.exit_code in (2, 3)
    assert f"'{meant}'" in result.output or f"Possible options: {meant}" in result.output
    assert not any(tmp_path.iterdir())


def test_what_is_missing_is_said_with_a_line_that_works() -> None:
    for words, missing in (
        (["measure", "digits-sit"], "'--data'"),
        (["sample"], "'MODEL'"),
        (["plot", "x"], "'--figure'"),
    ):
        found = slowflow(*words)
        assert found.exit_code == 2
        assert f"Missing {'argument' if words == ['sample'] else 'option'} {missing}" in found.output
        assert f"For example:\n  {EXAMPLES[words[0]][0]}" in found.output
        assert "{" not in found.output
    wrong = slowflow("sample", "digits-sit", "--n", "many", "--out", "a.npz")
    assert wrong.exit_code == 2
    assert "Invalid value for '--n'" in wrong.output
    assert "For example:" in wrong.output


def test_a_picture_that_is_asked_for_as_samples_is_understood(tmp_path: Any) -> None:
    found = slowflow("sample", "digits-sit", "--n", "2", "--out", str(tmp_path / "a.png"))
    assert found.exit_code == 3
    assert f"--out {tmp_path / 'a.npz'}; for a picture of them add --images {tmp_path / 'a.png'}" in found.output
    assert "--images" not in slowflow("sample", "digits-sit", "--n", "2", "--out", str(tmp_path / "a.zip")).output
    assert not any(tmp_path.iterdir())


def test_progress_says_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    now = [100.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: now[0])
    output = shared.Output(as_json=True, quiet=False)
    for seconds, done in ((0.0, 0), (11.0, 22), (5.0, 24), (18.0, 68), (40.0, 100)):
        now[0] += seconds
        output.stage("measure", done, 100, "model states")
    lines = capsys.readouterr()
    assert not lines.out  # stdout belongs to the answer
    assert lines.err.splitlines() == [
        "  measure: 22/100, 2/s, 0:39 left, model states",
        "  measure: 68/100, 2/s, 0:16 left, model states",
        "  measure: 100/100, 1.35/s, 1:14, model states",
    ]
    output.stage("train", 0, 9, "loss")
    now[0] += 30.0
    output.stage("train", 6, 9, "loss")
    assert capsys.readouterr().err == "  train: 6/9, 5 s each, 0:15 left, loss\n"


def test_doctor_prints_the_line_that_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    monkeypatch.setattr(metadata, "packages_distributions", dict)
    text = slowflow("doctor").stdout
    for extra in ("cpu", "demo", "diffusers"):
        assert f"pip install 'slowflow[{extra}]'" in text
    both = {"faiss": ["faiss-cpu", "faiss-gpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    monkeypatch.setattr(metadata, "version", lambda name: "1")
    result = slowflow("doctor")
    assert result.exit_code == 1
    assert "pip uninstall -y faiss-cpu faiss-gpu; pip install faiss-cpu" in result.stdout


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_long_line_is_broken_between_words_and_goes_on_under_its_text(columns: int) -> None:
    line = "  mixflow-lr  training: " + "post-training on slowed states " * 12
    rows = folded(line, columns).split("\n")
    assert len(rows) > 1
    assert all(len(row) < columns for row in rows)
    assert all(row.startswith(" " * 14) for row in rows[1:])
    assert " ".join(" ".join(rows).split()) == " ".join(line.split())
    assert folded(line, 0) == line


def test_a_path_is_never_broken() -> None:
    path = "/" + "a-b/" * 40
    assert path in folded(f"measured: {path}", 60)
