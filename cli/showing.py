"""plot, report: figures and pages from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slowflow_cli import shared as s


def plot(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="A measurement, an evaluation, a training, a whole run, or several of them."
        ),
    ],
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
    run: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="A whole run, measurements, evaluations, trainings, diagnoses, or studies."),
    ],
    out: Annotated[Path, typer.Option("--out", help="FILE.html, or FILE.md for a pull request.")],
    format: Annotated[str, typer.Option("--format", help="html, md, or auto: what the file's ending says.")] = "auto",
    published: Annotated[
        str | None,
        typer.Option(
            "--published", help="Model of the published tables to put FID beside, where the name does not tell."
        ),
    ] = None,
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """One self-contained page that opens offline, or Markdown for a pull request."""
    output = s.Output(json, quiet=True)
    from slowflow.published import must_be_known
    from slowflow.reporting.page import write_report

    must_be_known(published)
    write_report(run, out, format, published)
    output.say(f"report: {out}")
    output.answer({"file": str(out)})
