"""Fill the results section of the README, and its figure, from a finished demo folder.

python reports/readme_results.py slowflow-demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from slowflow.figures import FIGURES
from slowflow.figures.base import rendered
from slowflow.io import atomic
from slowflow.reporting import text
from slowflow.results import RunResult

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results: start, written by reports/readme_results.py -->", "<!-- results: end -->"


def section(result: RunResult) -> str:
    """The findings with their numbers, and the table of Frechet distance and coverage."""
    lines = []
    for finding in text.findings(result):
        lines += [f"**{finding.sentence}** {finding.numbers}", ""]
    lines += [f"*{text.advice(result)}*", ""]
    arms = [arm for arm in result.arms if arm.name in result.evaluations]
    first = result.evaluations[arms[0].name]
    steps = first.steps
    fd = first.facts["features"]["name"]
    lines.append(
        "| arm | " + " | ".join(f"{fd}, {s} steps" for s in steps) + f" | coverage, {steps[-1]} steps | agreement |"
    )
    lines.append("|---|" + "---|" * (len(steps) + 2))
    for arm in arms:
        found = result.evaluations[arm.name]
        cells = [text.plain(found.estimate("fd", s), 1) for s in steps]
        cells += [text.plain(found.estimate(metric, steps[-1]), 3) for metric in ("coverage", "agreement")]
        lines.append(f"| {arm.title} | " + " | ".join(cells) + " |")
    protocol = first.protocol(steps[-1])
    lines += [
        "",
        f"n = {protocol['n']} samples and {protocol['n_real']} held-out images, Euler, no guidance, 95 % intervals over samples. "
        f"{fd} is a distance in the features of a small classifier and compares only within this table.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the section between the markers and draw docs/fan.png."""
    result = RunResult.load(sys.argv[1])
    readme = ROOT / "README.md"
    content = readme.read_text(encoding="utf-8")
    before, _, rest = content.partition(START)
    _, _, after = rest.partition(END)
    atomic.write_text(readme, f"{before}{START}\n\n{section(result)}\n\n{END}{after}")
    for name in ("fan", "samples"):
        figure = FIGURES.get(name)
        atomic.write_bytes(ROOT / "docs" / f"{name}.png", rendered(figure, figure.data(result), "png"))


if __name__ == "__main__":
    main()
