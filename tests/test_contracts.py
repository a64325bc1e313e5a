"""Contracts of the source tree: floors, single owners, cheap imports, no stray prints, clean text."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "slowflow").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])

# Imports go down only: a module may import its own floor's listed neighbours or lower floors.
FLOORS = {
    "errors": 0,
    "memory": 1,
    "records": 1, "registry": 1, "rng": 1, "config": 1,
    "io": 2,
    "flow": 3,
    "cards": 4, "data": 4, "published": 4, "codecs": 5, "families": 5,
    "remedies": 6, "protocols": 6, "measuring": 7, "train": 7, "evaluating": 7,
    "sweep": 7, "results": 8, "fitting": 8, "figures": 9, "reporting": 10,
    "comparison": 11, "pipeline": 11, "study": 11, "testing": 11, "api": 12, "__init__": 13, "slowflow_cli": 14,
}  # fmt: skip
SIBLINGS = {"measuring", "train", "evaluating"}


def unit(path: Path) -> str:
    """The floor's name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "cli":
        return "slowflow_cli"
    return parts[1]


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def slowflow_units(path: Path) -> set[str]:
    """Units of SlowFlow a file imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("slowflow.")}
    return {name for name in names if name in FLOORS}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    own = unit(path)
    for other in slowflow_units(path) - {own}:
        assert FLOORS[other] < FLOORS[own] or own == "slowflow_cli", f"{own} imports {other}, which is not below it"
        assert not ({own, other} <= SIBLINGS), f"{own} and {other} are siblings"


def test_every_unit_has_a_floor():
    assert {unit(path) for path in SOURCES} <= FLOORS.keys()


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("faiss", "slowflow/measuring/search.py"),
        ("matplotlib", "slowflow/figures/"),
        ("seaborn", "slowflow/figures/"),
        ("typer", "cli/"),
        ("jinja2", "slowflow/reporting/"),
    ],
)
def test_a_package_has_one_owner(package, owner):
    users = {str(p.relative_to(ROOT)) for p in SOURCES if any(n.split(".")[0] == package for n in imports(p))}
    assert users
    assert all(user.startswith(owner) for user in users), users


def test_only_the_checkpoint_module_loads_with_torch():
    users = {p.name for p in SOURCES if "torch.load(" in p.read_text(encoding="utf-8")}
    assert users == {"checkpoint.py"}
    assert "weights_only=True" in (ROOT / "slowflow/io/checkpoint.py").read_text(encoding="utf-8")


def test_nothing_unpickles_evaluates_or_starts_a_shell():
    pattern = re.compile(r"\bpickle\.loads?\(|\beval\(|\bexec\(|shell=True|allow_pickle=True|weights_only=False")
    offenders = [str(p) for p in SOURCES if pattern.search(re.sub(r"\.eval\(\)", "", p.read_text(encoding="utf-8")))]
    assert offenders == []


def test_the_library_does_not_print():
    offenders = []
    for path in SOURCES:
        if unit(path) == "slowflow_cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                offenders.append(f"{path.name}:{node.lineno}")
    assert offenders == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_hold_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450, "a file this long holds more than one idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if isinstance(node.body[0], ast.Expr) else node.body
            length = (node.end_lineno - body[0].lineno + 1) if body else 0
            limit = 75 if unit(path) == "slowflow_cli" else 60
            assert length <= limit, f"{node.name} has {length} lines"


def run(code: str) -> str:
    """Standard output of a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_slowflow_is_cheap():
    heavy = "torch faiss matplotlib pandas scipy typer numpy"
    code = f"import sys, slowflow; print([n for n in '{heavy}'.split() if n in sys.modules])"
    assert run(code).strip() == "[]"


def test_naming_the_public_contracts_is_cheap():
    code = "import sys\nimport slowflow.testing\nprint('torch' in sys.modules)"
    assert run(code).strip() == "False"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['slowflow', '--help']\nfrom slowflow_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([n for n in 'torch faiss matplotlib pandas scipy'.split() if n in sys.modules])"
    )
    assert run(code).strip().endswith("[]")


def test_every_export_exists_and_is_documented():
    import slowflow

    for name in slowflow.__all__:
        value = getattr(slowflow, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        slowflow.nonsense  # noqa: B018


def test_every_registered_thing_names_its_source():
    from slowflow.codecs import CODECS
    from slowflow.data.sets import SETS
    from slowflow.families import FAMILIES
    from slowflow.figures import FIGURES
    from slowflow.flow.interpolants import INTERPOLANTS
    from slowflow.flow.samplers import SAMPLERS
    from slowflow.measuring.references import REFERENCES
    from slowflow.protocols import PROTOCOLS
    from slowflow.remedies import REMEDIES
    from slowflow.remedies.sampling import SAMPLING_REMEDIES
    from slowflow.train.logs import LOGS

    training, sampling = REMEDIES, SAMPLING_REMEDIES
    for registry in (
        CODECS,
        SETS,
        FAMILIES,
        FIGURES,
        INTERPOLANTS,
        SAMPLERS,
        REFERENCES,
        training,
        sampling,
        PROTOCOLS,
        LOGS,
    ):
        assert registry.names()
        for entry in registry:
            assert entry.summary, entry.name
            assert entry.source, entry.name


def test_bundled_weights_have_their_recorded_hash_and_size():
    from slowflow.cards import cards

    assert cards("model")
    assert cards("features")
    for card in cards():
        assert card.weights().stat().st_size <= 8_000_000, card.name
        assert (card.folder / "recipe.toml").exists() or "descendant_of" in card.content, card.name


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(ROOT) for p in SOURCES if p.parent.relative_to(ROOT).parts[0] == "slowflow"}
    assert sorted(listed) == sorted([*(".".join(folder.parts) for folder in folders), "slowflow_cli"])
