"""Speed as ratios within one run: `make bench` writes benchmarks/last.json; `make bench-gpu` runs the suite that needs a GPU.

    python benchmarks/bench.py [PART ...] [--compare OLD.json] [--gpu]

Every number stands beside its bar and, where one can be named, its floor: the same ratio if the extra work ran at the
rates this machine was just measured at. A missed bar is printed, not hidden. `--compare` names what became slower by
more than the noise of both runs and then exits with 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402 - the path of the suite comes first
from speed.machine import measured  # noqa: E402
from speed.timing import Ratio  # noqa: E402

from slowflow.io import atomic  # noqa: E402
from slowflow.io.run import environment  # noqa: E402

CPU, GPU = HERE / "last.json", HERE / "last-gpu.json"
PARTS = ("rows", "starting", "measuring", "training", "searching", "fitting", "memory")


def line(one: Ratio) -> str:
    """One benchmark for people."""
    verdict = "met" if one.met else "MISSED"
    floor = "" if one.floor is None else f"   floor {one.floor:.3g}"
    note = f"   ({one.note})" if one.note else ""
    return f"{one.name:<32} {one.value:9.3f}  [{one.low:.3f}, {one.high:.3f}]   bar {one.side} {one.bar:g}  {verdict}{floor}{note}"


def slower(now: list[Ratio], before: dict[str, dict[str, object]]) -> list[str]:
    """What became worse than `before` by more than both noises."""
    found = []
    for one in now:
        if one.name in before and one.worse_than(old := Ratio(**before[one.name])):  # type: ignore[arg-type]
            found.append(f"{one.name}: {old.value:.3f} [{old.low:.3f}, {old.high:.3f}] -> {one.value:.3f}")
    return found


def on_cpu(parts: Sequence[str]) -> tuple[list[Ratio], dict[str, Any]]:
    """The parts on one thread, printed as they come."""
    torch.set_num_threads(1)
    machine, found = measured(), []
    print(f"one thread: {machine.text()}")
    for part in parts:
        for one in importlib.import_module(f"speed.{part}").run(machine):
            found.append(one)
            print(line(one), flush=True)
    return found, machine.asdict()


def on_gpu() -> tuple[list[Ratio], dict[str, Any]]:
    """The suite of speed/gpu.py, or the reason why it is left out."""
    from speed import gpu

    where = gpu.device()
    if where is None:
        print("no GPU here: torch sees no CUDA device, so the GPU suite is left out")
        return [], {}
    found = gpu.run(where)
    for one in found:
        print(line(one))
    return found, {"gpu": torch.cuda.get_device_name(where)}


def main() -> int:
    """Run the parts, print them, write the file, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--gpu", action="store_true", help="the suite that needs a GPU instead")
    parser.add_argument("--compare", type=Path, help="an earlier last.json")
    parser.add_argument("--out", type=Path, help="another file than benchmarks/last.json")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part '{min(unknown)}' (known: {', '.join(PARTS)})")
    before = json.loads(options.compare.read_text(encoding="utf-8"))["details"] if options.compare else {}
    found, machine = on_gpu() if options.gpu else on_cpu(options.parts or PARTS)
    if found:
        atomic.write_json(
            options.out or (GPU if options.gpu else CPU),
            {
                **{one.name: one.value for one in found},
                "details": {one.name: vars(one) for one in found},
                "machine": machine,
                "environment": environment(),
            },
        )
    worse = slower(found, before)
    for text in worse:
        print(f"slower: {text}")
    return int(bool(worse))


if __name__ == "__main__":
    raise SystemExit(main())
