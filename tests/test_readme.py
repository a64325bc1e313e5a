"""Every command and every Python snippet of the README and of docs/ runs, on real digits and a real bundled model.

What a page cannot have run here says so in its own source, with the reason; those blocks are parsed all the same.
"""

from __future__ import annotations

import re
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
    return folder


def slowflow(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("page", [name for name, found in BLOCKS.items() if any(b.commands or b.python for b in found)])
def test_a_page_runs_from_top_to_bottom(page: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    # a module's name is remembered by Python; every page brings its own
    monkeypatch.delitem(__import__("sys").modules, "mymodel", raising=False)
    monkeypatch.syspath_prepend(str(world))
    apart = world / "python" / re.sub(r"\W", "-", page)
    apart.mkdir(parents=True)
    names: dict[str, Any] = {}
    for block in [block for block in BLOCKS[page] if not block.reason]:
        if block.module:
            (world / block.module).write_text(block.text)
        elif block.python:
            monkeypatch.chdir(apart)
            exec(compile(snippets.small_python(block.text), block.where, "exec"), names)  # noqa: S102
        for line in block.commands:
            words = snippets.small_command(line)
            assert line.startswith("slowflow "), f"{block.where}: {line} is not run; say why"
            monkeypatch.chdir(world)
            result = slowflow(*words)
            assert result.exit_code in ALLOWED.get(words[0], (0,)), f"{block.where}: {line}\n{result.output}"


def test_the_readme_makes_a_report(world: Path) -> None:
    assert (world / "python" / "README-md" / "runs" / "report.html").exists()


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
