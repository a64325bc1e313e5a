"""Start-up over an interpreter that does nothing, each in its own process.

import_over_python  `import slowflow`: neither torch nor FAISS nor matplotlib
help_over_python    `slowflow --help`
"""

from __future__ import annotations

import subprocess
import sys
import time

from speed.machine import Machine
from speed.timing import AT_MOST, Ratio

BARS = {"import_over_python": ("-c", "import slowflow", 5.0), "help_over_python": ("-m", "slowflow_cli.main", 25.0)}


def _started(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - begin


def run(machine: Machine) -> list[Ratio]:
    """Wall time, because children's time is not ours; interleaved all the same."""
    found = []
    for name, (flag, what, bar) in BARS.items():
        command = (flag, what, "--help") if flag == "-m" else (flag, what)
        pairs = [(_started(*command), _started("-c", "pass")) for _ in range(7)]
        values = sorted(a / b for a, b in pairs)
        least = min(a for a, _ in pairs)
        found.append(Ratio(name, values[3], values[1], values[5], AT_MOST, bar, None, f"{least:.2f} s at best"))
    return found
