"""plot, report: figures and pages from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slowflow_cli import shared as s


def plot(
    run: Annotated[list[Path], typer.Argument(help="A measurement, an evaluation, a whole run, or several of them.")],
    figure: Annotated[str, typer.Option("--figure", help="fan, excess, ... (slowflow ls figures).")],
    out: Annotated[
        Path, typer.Option("--out", help="FILE.png, .svg or .pdf; the data come beside it as FILE.png.csv.")
    ],
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """Draw one figure."""
    output = s.Output(json, quiet=True)
    from slowflow.figures import FIGURES, save
    from slowflow.results import RunResult

    chosen, result = FIGURES.get(figure), RunResult.load(*run)
    file = save(chosen, result, out)
    if len(result.arms) > 1 and not chosen.arms:
        output.say(
            f"note: this figure shows one measurement, {result.measured.path}; before-after, quality and samples compare"
        )
    output.say(f"drawn: {file}")
    output.answer({"file": str(file)})


def report(
    run: Annotated[list[Path], typer.Argument(help="A whole run, or measurements and evaluations.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.html")],
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """One self-contained page that opens offline."""
    output = s.Output(json, quiet=True)
    from slowflow.io import atomic
    from slowflow.reporting.render import render
    from slowflow.results import RunResult

    atomic.write_text(out, render(RunResult.load(*run)))
    output.say(f"report: {out}")
    output.answer({"file": str(out)})
