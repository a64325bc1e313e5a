"""Every command and every Python snippet of the README and of docs/ runs, on real digits and a real bundled model.

What a page cannot have run here says so in its own source, with the reason; those blocks are parsed all the same.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snippets
from PIL import Image
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.cards import card
from slowflow.data.open import open_data
from slowflow.flow.generate import quantise

BLOCKS = {str(page.relative_to(snippets.ROOT)): snippets.blocks(page) for page in snippets.PAGES}
EVERY = [block for found in BLOCKS.values() for block in found]
BEFORE = "slowflow measure ckpt.pt --data images/ --out runs/before --steps 50 --samples 1000"
"""What most pages begin with; measured once for all of them."""
ALLOWED = {"calibrate": (0, 1), "doctor": (0, 1)}
"""Exit code 1 is an answer of these verbs: not usable here, something to mend."""


def ids(block: snippets.Block) -> str:
    return block.where


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: ckpt.pt (the bundled digits model), images/ (real digits), runs/before."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(card("digits-sit", "model").weights(), folder / "ckpt.pt")
    digits = open_data("digits")
    for label in range(10):
        (folder / "images" / str(label)).mkdir(parents=True)
        rows = np.flatnonzero(digits.labels.numpy() == label)[:20]
        for row, image in zip(rows, quantise(digits.data[rows]), strict=True):
            Image.fromarray(image[..., 0]).save(folder / "images" / str(label) / f"{row}.png")
    result = slowflow(*snippets.small_command(BEFORE), folder=folder)
    assert result.exit_code == 0, result.output
    return folder


def a_world_for(page: str, world: Path, folder: Path) -> None:
    """A page's own folder; runs/before lies in it unless the page measures something else under that name."""
    for name in ("ckpt.pt", "images"):
        (folder / name).symlink_to(world / name)
    (folder / "docs").symlink_to(snippets.ROOT / "docs")  # pages name the examples that lie beside them
    lines = [line for block in BLOCKS[page] for line in block.commands if "--out runs/before" in line]
    makes = {tuple(snippets.small_command(line)) for line in lines if line.startswith("slowflow measure ")}
    if all(words == tuple(snippets.small_command(BEFORE)) for words in makes if "--dry-run" not in words):
        shutil.copytree(world / "runs", folder / "runs")


def slowflow(*words: str, folder: Path | None = None) -> Any:
    with contextlib.chdir(folder or Path.cwd()):
        return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("page", [name for name, found in BLOCKS.items() if any(b.commands or b.python for b in found)])
def test_a_page_runs_from_top_to_bottom(
    page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    a_world_for(page, world, tmp_path)
    # a module's name is remembered by Python; every page brings its own
    monkeypatch.delitem(__import__("sys").modules, "mymodel", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    apart = tmp_path / "python"
    apart.mkdir()
    names: dict[str, Any] = {}
    for block in [block for block in BLOCKS[page] if not block.reason]:
        if block.module:
            (tmp_path / block.module).write_text(block.text)
        elif block.python:
            monkeypatch.chdir(apart)
            exec(compile(snippets.small_python(block.text), block.where, "exec"), names)  # noqa: S102
        for line in block.commands:
            words = snippets.small_command(line)
            assert line.startswith("slowflow "), f"{block.where}: {line} is not run; say why"
            result = slowflow(*words, folder=tmp_path)
            assert result.exit_code in ALLOWED.get(words[0], (0,)), f"{block.where}: {line}\n{result.output}"
    assert page != "README.md" or (apart / "runs" / "report.html").exists()


@pytest.mark.parametrize("block", [block for block in EVERY if block.commands], ids=ids)
def test_every_command_is_one_that_exists(block: snippets.Block) -> None:
    known = slowflow("--help").stdout
    for line in block.commands:
        words = shlex.split(line, comments=True)
        if words[0] != "slowflow":
            continue
        assert words[1] in known, line
        options = slowflow(words[1], "--help").stdout
        for word in words[2:]:
            assert not word.startswith("--") or word in options, f"{block.where}: no {word} in {line}"


@pytest.mark.parametrize("page", snippets.PAGES, ids=lambda page: page.name)
def test_no_command_hides_from_these_tests(page: Path) -> None:
    outside = snippets.FENCE.sub("", page.read_text(encoding="utf-8"))
    hidden = [
        line for line in outside.splitlines() if line.startswith("    ") and line.strip().startswith(snippets.COMMANDS)
    ]
    assert not hidden, f"indented code is not run; put it between fences: {hidden[0]}"


@pytest.mark.parametrize("block", [block for block in EVERY if block.reason], ids=ids)
def test_what_is_not_run_says_why(block: snippets.Block) -> None:
    assert len(block.reason.split()) >= 4, f"{block.where}: '{block.reason}' is no reason"
    if block.python:
        compile(block.text, block.where, "exec")


def test_a_command_is_made_small_without_losing_what_it_says() -> None:
    line = "slowflow measure a.pt --data d --out o --steps 50 --steps 25 --samples 1000   # says so"
    words = ["measure", "a.pt", "--data", "d", "--out", "o", "--steps", "4", "--steps", "6", "--samples", "24"]
    assert snippets.small_command(line) == words
    assert snippets.small_python("f(samples=500, steps=50, k=7)") == "f(samples=24, steps=4, k=7)"
