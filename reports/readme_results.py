"""Everything the repository says of the bundled model, from one finished demo: README, its figures, the page, its numbers.

python reports/readme_results.py slowflow-demo [DIAGNOSIS] [CALIBRATION]

tests/show/test_bundled.py reads README and page back and holds every sentence and number against reports/mnist-sit.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from slowflow.config import canonical
from slowflow.figures import FIGURES
from slowflow.figures.base import rendered
from slowflow.io import atomic
from slowflow.reporting import text
from slowflow.reporting.render import render
from slowflow.results import RunResult, answer

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
    protocol, limit = first.protocol(steps[-1]), first.at_infinity(steps[-1])
    lines += [
        "",
        f"n = {protocol['n']} samples and {protocol['n_real']} held-out images, Euler, no guidance, 95 % intervals over samples. "
        f"{fd} is a distance in the features of a small classifier and compares only within this table: at this n much of it is "
        f"there because n is finite (at infinite n, {arms[0].title}, {steps[-1]} steps: {text.plain(limit, 1)}).",
    ]
    return "\n".join(lines)


def numbers(result: RunResult) -> dict[str, Any]:
    """What sentences are held against: the fit, the divided lag, every metric with its protocol, paired differences."""
    known = answer(RunResult.load(result.path))
    pairs = {
        f"{mixed.name} - {control.name}": {
            str(steps): {
                metric: canonical(found.difference(result.evaluations[control.name], metric, steps))
                for metric in found.metrics
            }
            for steps in found.steps
        }
        for mixed, control in text.evaluated_pairs(result)
        for found in [result.evaluations[mixed.name]]
    }
    main = result.diagnosis.main if result.diagnosis else None
    lag = {"lag": canonical(main.lag), "parts": canonical(main.parts)} if main else None
    evaluated = {
        arm: {steps: {key: one[key] for key in ("metrics", "protocol")} for steps, one in found["by_steps"].items()}
        for arm, found in known["evaluate"].items()
    }
    return {
        "suggest": known["suggest"],
        "lag_change_from_base": {arm: one["lag_change_from_base"] for arm, one in known["remeasure"].items()},
        "diagnose": lag and {"reading": result.diagnosis.reading, "cause": result.diagnosis.cause, **lag},
        "evaluate": evaluated,
        "differences": pairs,
    }


def main() -> None:
    """Rewrite the section between the markers, the page and its numbers, and draw the two figures."""
    result = RunResult.load(*sys.argv[1:])
    atomic.write_text(ROOT / "reports" / "mnist-sit.html", render(result))
    atomic.write_text(
        ROOT / "reports" / "mnist-sit.json", json.dumps(numbers(result), indent=1, ensure_ascii=False) + "\n"
    )
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
