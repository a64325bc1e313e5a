"""Every notebook runs from top to bottom, without Jupyter: cells are Python, and lines with `!slowflow` are commands."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from slowflow_cli.main import app
from typer.testing import CliRunner

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = ("1-first-probe", "2-why-a-perfect-model-looks-slow")
"""The others take more than a few seconds on a busy machine and run in `make test-full`."""
COMMAND = re.compile(r"^!(.*)$", re.M)


def cells(path: Path, kind: str) -> list[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def as_python(source: str) -> str:
    """A cell as Python: a command becomes a call of `command`."""
    return COMMAND.sub(lambda found: f"command({found[1]!r})", source)


def command(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "slowflow", line
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{line}\n{result.output}"


def run_cell(source: str, names: dict[str, Any], where: str) -> Any:
    """Run a cell as Jupyter does; the value of a last expression is returned, and drawn if it can be."""
    tree = ast.parse(as_python(source))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)  # noqa: S102
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), where, "eval"), names)  # noqa: S307
    if hasattr(value, "_repr_png_"):
        assert value._repr_png_().startswith(b"\x89PNG")
    return value


@pytest.mark.parametrize(
    "path",
    [p if p.stem in QUICK else pytest.param(p, marks=pytest.mark.full) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"command": command}
    for number, source in enumerate(cells(path, "code")):
        run_cell(source, names, f"{path.stem}, cell {number}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_clean_and_says_what_it_is(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    first = cells(path, "markdown")[0]
    assert first.startswith("# ")
    assert first.count("\n\n") >= 1
    for source in cells(path, "code"):
        ast.parse(as_python(source))


def test_the_seven_notebooks_are_there() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == list("1234567")
    assert {path.stem for path in NOTEBOOKS} >= set(QUICK)
