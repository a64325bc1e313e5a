"""Put what `make bench` measured into docs/performance.md, so that page and numbers cannot disagree.

    python benchmarks/table.py [RESULT.json ...]

Each file (benchmarks/last.json, or last-gpu.json, unless told) is kept as a record in reports/ and its table written
between the page's marks. A test makes the table again from the record and compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from speed.timing import Ratio  # noqa: E402 - the path of the suite comes first

from slowflow.io import atomic  # noqa: E402

PAGE = HERE.parent / "docs" / "performance.md"
REPORTS = HERE.parent / "reports"
RECORDS = {"cpu": REPORTS / "speed.json", "gpu": REPORTS / "speed-gpu.json"}
NOT_YET = {
    "cpu": "Not recorded yet: `make bench` on a quiet machine, then `python benchmarks/table.py`.",
    "gpu": "Not measured yet: no GPU was at hand. `make bench-gpu`, then `python benchmarks/table.py benchmarks/last-gpu.json`.",
}
MARKS = "<!-- {0}: made by benchmarks/table.py -->\n", "<!-- end of {0} -->"
FIRST = (
    "measure_over_sampling",
    "own_over_sampling",
    "six_over_sampling",
    "every_null_over_sampling",
    "loop_over_forward",
    "mixflow_over_plain",
)
"""What is read first; the others follow by name."""
HEAD = "| benchmark | bar | measured | quartiles | floor | |\n|---|---|---|---|---|---|"


def kind_of(result: dict[str, Any]) -> str:
    """cpu or gpu."""
    return "gpu" if any(name.startswith("gpu_") for name in result["details"]) else "cpu"


def row(one: Ratio) -> str:
    """One benchmark; a missed bar says so."""
    floor = "" if one.floor is None else f"{one.floor:.3g}"
    spread = "" if one.low == one.high else f"{_number(one.low)} to {_number(one.high)}"
    said = "; ".join(text for text in ("" if one.met else "**missed**", one.note) if text)
    value = _number(one.value) if one.met else f"**{_number(one.value)}**"
    return f"| `{one.name}` | {one.side} {one.bar:g} | {value} | {spread} | {floor} | {said} |"


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def table(result: dict[str, Any] | None, kind: str) -> str:
    """What stands between the marks."""
    if result is None:
        return NOT_YET[kind]
    names = sorted(result["details"], key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    lines = [row(Ratio(**result["details"][name])) for name in names]
    machine, versions = result["machine"], result["environment"]
    rates = ", ".join(f"{name} {_rate(value)}" for name, value in sorted(machine.items()))
    used = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return "\n".join([HEAD, *lines, "", f"Machine: {rates}. {used}."])


def _rate(value: float | str) -> str:
    return f"{value / 1e9:.0f} G/s" if isinstance(value, float) else str(value)


def parts(page: str, kind: str) -> tuple[str, str, str]:
    """(before, between, after) the marks of a table.

    Raises:
        ValueError: the page has lost them.
    """
    first, last = (mark.format(kind) for mark in MARKS)
    before, found, rest = page.partition(first)
    between, closed, after = rest.partition(last)
    if not found or not closed:
        raise ValueError(f"docs/performance.md has no marks for the {kind} table")
    return before + first, between, last + after


def written(page: str, kind: str, result: dict[str, Any] | None) -> str:
    """The page with this table in it."""
    before, _, after = parts(page, kind)
    return f"{before}\n{table(result, kind)}\n\n{after}"


def main() -> int:
    """Record, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, default=[HERE / "last.json"], help="files of bench.py")
    for path in parser.parse_args().results:
        result = json.loads(path.read_text(encoding="utf-8"))
        kind = kind_of(result)
        atomic.write_json(RECORDS[kind], result)
        atomic.write_text(PAGE, written(PAGE.read_text(encoding="utf-8"), kind, result))
        print(f"{path} -> {RECORDS[kind].relative_to(HERE.parent)} and docs/performance.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
