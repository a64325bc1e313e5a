"""Every snippet of the README runs."""

import re
import shlex
from pathlib import Path

import pytest
from slowflow_cli.main import app
from typer.testing import CliRunner

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_readme_holds_four_python_snippets():
    assert len(PYTHON) == 4


@pytest.mark.parametrize("number", [0, 1, 2])
def test_python_snippets_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[number], f"README snippet {number}", "exec"), {})  # noqa: S102
    if number == 0:
        assert (tmp_path / "runs/report.html").exists()


def test_the_factory_example_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mymodel.py").write_text(PYTHON[3])
    line = next(line for line in README.splitlines() if line.startswith("slowflow measure - "))
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--samples", "20", "--steps", "3", "--threads", "1"])
    assert result.exit_code == 0, result.stderr


def test_every_command_in_the_readme_parses():
    lines = [line for line in README.splitlines() if line.startswith("slowflow ")]
    assert len(lines) >= 8
    known = CliRunner().invoke(app, ["--help"]).stdout
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[1] in known, line
        options = CliRunner().invoke(app, [words[1], "--help"]).stdout
        for word in words[2:]:
            assert not word.startswith("--") or word in options, f"{word} in {line}"
