"""Does each test of docs/reliability.md fail when its mechanism is taken out?

    python benchmarks/mutations.py [--only R7] [--out mutations.json]

For every entry of mutations.toml one text in one file of a scratch copy is replaced, the named tests are run there and
must fail, and the file is put back. An entry whose text no longer stands in its file exactly once is `stale`; one whose
tests pass all the same is `unnoticed`. Exit code 1 when there is any of either.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "site", "__pycache__", "*.pyc", "studies", "slowflow-demo")
NOTICED = 1
"""pytest's exit code when tests ran and some failed; 4 and 5 mean that the entry names no test."""


def scratch(place: Path) -> dict[str, str]:
    """A copy of the tree at `place`; the environment in which it is imported instead of the installed one."""
    shutil.copytree(HERE.parent, place / "tree", ignore=LEFT_OUT)
    (place / "path").mkdir()
    (place / "path" / "slowflow_cli").symlink_to(place / "tree" / "cli")
    path = os.pathsep.join([str(place / "tree"), str(place / "path")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def tried(entry: dict[str, str], tree: Path, environment: dict[str, str]) -> str:
    """noticed, unnoticed, stale, or no test."""
    file = tree / entry["file"]
    honest = file.read_text(encoding="utf-8")
    if honest.count(entry["old"]) != 1:
        return "stale"
    file.write_text(honest.replace(entry["old"], entry["new"]), encoding="utf-8")
    words = ["-x", "-q", "-p", "no:cacheprovider", *shlex.split(entry["test"])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=tree, env=environment, capture_output=True, check=False
        )
    finally:
        file.write_text(honest, encoding="utf-8")
    if done.returncode == NOTICED:
        return "noticed"
    return "unnoticed" if done.returncode == 0 else f"no test (pytest exit {done.returncode})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="of one promise")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    entries = tomllib.loads((HERE / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    entries = [entry for entry in entries if asked.only in (None, entry["promise"])]
    found = []
    with tempfile.TemporaryDirectory() as place:
        environment = scratch(Path(place))
        for entry in entries:
            answer = tried(entry, Path(place) / "tree", environment)
            found.append({"promise": entry["promise"], "what": entry["what"], "answer": answer})
            print(f"{entry['promise']:8} {answer:10} {entry['what']}", flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    silent = [one for one in found if one["answer"] != "noticed"]
    print(f"{len(found) - len(silent)} of {len(found)} were noticed")
    raise SystemExit(1 if silent else 0)


if __name__ == "__main__":
    main()
