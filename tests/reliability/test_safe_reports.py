"""Pages are safe to open, nothing goes over the network, no code is run from text, dtypes are what they say (R24)."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.data.images import ImageSet
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.flow import generate
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.reporting.render import render
from slowflow.results import RunResult

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "slowflow").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}${x}$\\frac{"
SECRET = "secret-0123456789"
FOLDER = "<b onmouseover=alert(3)>&amp;'\"{{ config }}$^$"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny_model, images):
    """The report of a run whose model, data and folders are named by an attacker."""
    place = tmp_path_factory.mktemp("home-of-alice") / FOLDER
    evil = ImageSet(HOSTILE, images.data, images.labels, images.classes)
    model = tiny_model(name=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, SECRET)
        yield _made(place, model, evil), place


def _made(place, model, evil):
    asked = {"model": str(place / "model.pt"), "data": str(place / "data"), "family": HOSTILE, "factory": HOSTILE}
    probe = Probe(samples=30, steps=(2,))
    measure(model, evil, probe, place / "m", heldout=0.5, reopen=asked, model_id={"name": HOSTILE})
    evaluate(model, evil, Features("FD-pixels"), Sampling(samples=30, steps=(2,)), place / "e", heldout=0.5)
    return render(RunResult.load(place / "m", place / "e"))


def test_names_from_outside_are_text_in_a_page(page):
    html, _ = page
    found = Page(html)
    assert "<script>alert(1)</script>" in found.text  # there, and only to be read
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "embed", "form", "base")]
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action"):
            target = attributes.get(name) or ""
            assert target.startswith(("data:", "#")) or not target, (tag, target[:80])
    assert "49" not in re.findall(r"onerror=alert\(2\)>\"'(.{0,10})", found.text)[0]


def test_a_page_holds_no_path_of_the_machine(page):
    html, place = page
    assert str(place.parent) not in html
    assert "home-of-alice" not in html
    assert str(Path.home()) + "/" not in html
    assert socket.gethostname() not in re.sub(r'src="data:[^"]*"', "", html) or len(socket.gethostname()) < 4


def test_a_page_and_a_run_hold_no_secret_of_the_environment(page):
    html, place = page
    files = [file for file in place.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert SECRET not in html


@pytest.mark.parametrize("figure", ["fan", "samples", "excess"])
def test_figures_draw_hostile_names_as_text(tmp_path, page, figure):
    """Matplotlib reads $...$ as mathematics; a name with half a formula in it must not end the run."""
    shutil.copytree(page[1] / "m", tmp_path / FOLDER / "m")
    for suffix in ("png", "svg"):
        out = tmp_path / f"a.{suffix}"
        result = CliRunner().invoke(app, ["plot", str(tmp_path / FOLDER / "m"), "--figure", figure, "--out", str(out)])
        assert result.exit_code == 0, result.stderr
        assert suffix == "png" or "<script" not in out.read_text()


def test_a_table_opens_in_a_spreadsheet_without_a_formula(tmp_path, tiny_model, images):
    from slowflow.figures import FIGURES, save

    name = "=cmd|' /C calc'!A0"
    measure(
        tiny_model(name=name),
        images,
        Probe(samples=20, steps=(2,), nulls=("genuine",)),
        tmp_path / name / "m",
        heldout=0.5,
    )
    save(FIGURES.get("samples"), RunResult.load(tmp_path / name / "m"), tmp_path / "a.png")
    assert not re.search(r"(^|,)\"?[=+@]", (tmp_path / "a.png.csv").read_text(), re.MULTILINE)


# --- no network


def test_no_verb_opens_a_connection(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    small = ["--data", "digits", "--samples", "20", "--steps", "1", "--threads", "1", "--quiet"]
    for command in (
        ["doctor"],
        ["ls", "models"],
        ["check", "digits-sit"],
        ["measure", "digits-sit", *small, "--out", str(tmp_path / "m")],
        ["evaluate", "digits-sit", *small, "--features", "fd-digits", "--out", str(tmp_path / "e")],
        ["sample", "digits-sit", "--n", "4", "--steps", "1", "--out", str(tmp_path / "s.npz")],
        ["report", str(tmp_path / "m"), "--out", str(tmp_path / "r.html")],
        ["status", str(tmp_path / "m")],
        ["check", "someone/some-model"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code in (0, 3), (command, result.stderr)


# --- no code from text


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "subprocess",
    "pty",
    "commands",
}
IMPORT_BY_NAME = {
    "registry.py": "own packages",
    "__init__.py": "own exports",
    "look.py": "own registries",
    "custom.py": "the user's factory, which is code and is said to be",
    "pretrained.py": "diffusers and its companions, by fixed names",
    "function.py": "the user's features, which are code and are said to be",
}
PROGRAMS = {"torch.jit.load": "checkpoint.py"}
"""What runs a file that the user vouches for by its hash, and the only file that may call it."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_code_from_text(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            whole = ast.unparse(node.func)
            assert name not in FORBIDDEN_CALLS, f"{path.name}:{node.lineno} {whole}"
            assert whole not in ("os.system", "os.popen", "os.execv", "torch.hub.load"), whole
            assert PROGRAMS.get(whole, path.name) == path.name, whole
            assert not any(k.arg == "shell" for k in node.keywords), whole
            assert all(ast.unparse(k.value) == "False" for k in node.keywords if k.arg == "trust_remote_code"), whole
            if whole in ("np.load", "numpy.load"):
                assert any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords), whole
            if whole == "importlib.import_module":
                assert path.name in IMPORT_BY_NAME, f"{path.name} imports by name"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {n.split(".")[0] for n in names} & FORBIDDEN_MODULES, f"{path.name} imports {names}"


def test_writes_are_guarded_by_narrow_handlers_only():
    """R21: an error while writing is never swallowed by a handler that swallows everything."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Try):
                continue
            body = "\n".join(ast.unparse(part) for part in node.body)
            for handler in node.handlers:
                caught = "" if handler.type is None else ast.unparse(handler.type)
                broad = caught in ("", "Exception", "BaseException")
                assert not (broad and re.search(r"write_|\.save\(|\.finish\(|os\.replace", body)), (
                    f"{path}:{node.lineno}"
                )


def test_every_bundled_weight_is_pinned_by_its_hash():
    for file in (ROOT / "slowflow" / "cards").glob("*/card.json"):
        assert re.fullmatch(r"[0-9a-f]{64}", json.loads(file.read_text())["sha256"])
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert pinned
    assert all("==" in line for line in pinned)


# --- dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_states_are_float64_on_the_cpu_whatever_the_network_computes_in(dtype, monkeypatch):
    """Asserted on what the network and the sampler really hold, not on the option."""
    seen, states = [], []

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones((), dtype=dtype))

        def forward(self, state, t, cond):
            seen.append((state.dtype, t.dtype))
            return -self.scale * state

    model = FlowModel.from_callable(Net(), shape=(1, 2, 2))
    honest = generate.walk

    def walk(*arguments):
        for k, state in honest(*arguments):
            states.append(state.dtype)
            yield k, state

    monkeypatch.setattr(generate, "walk", walk)
    assert final_states(model, np.arange(2), steps=4, method="heun").dtype == torch.float32  # what is stored
    assert set(states) == {torch.float64}
    assert len(states) == 5
    assert {s for s, _ in seen} == {dtype}
    assert {t for _, t in seen} == {torch.promote_types(dtype, torch.float32)}
