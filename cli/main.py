"""The `slowflow` command: verbs grouped by job."""

from __future__ import annotations

from typing import Annotated

import typer
from slowflow_cli import (
    calibrating,
    encoding,
    exporting,
    look,
    making,
    measuring,
    ranks,
    shared,
    showing,
    studying,
    suggesting,
    training,
    watching,
    whole,
)
from slowflow_cli.helping import Verb, Verbs

EPILOG = """slowflow demo
slowflow check ckpt.pt --data images/
slowflow measure ckpt.pt --data images/ --out runs/a
slowflow report runs/a --out a.html"""
app = typer.Typer(
    name="slowflow",
    cls=Verbs,
    help="Measure and correct exposure bias (Slow Flow) in diffusion and flow-matching image models.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

GROUPS = {
    "Start here": (whole.demo, whole.run, look.doctor, look.ls, look.check),
    "Measure": (measuring.measure, suggesting.suggest, measuring.diagnose, calibrating.calibrate),
    "Correct": (training.posttrain, training.pretrain, exporting.export),
    "Make and judge": (making.sample, making.evaluate, encoding.encode),
    "Compare": (studying.compare, studying.study),
    "Show": (showing.plot, showing.report, watching.status),
}
for _panel, _verbs in GROUPS.items():
    for _function in _verbs:
        app.command(cls=Verb, rich_help_panel=_panel)(shared.verb(ranks.spread(_function)))


def _version(value: bool) -> None:
    if value:
        from slowflow import __version__

        print(f"slowflow {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the script."""
    app(prog_name="slowflow")  # also under `python -m slowflow_cli`, as launchers start it


if __name__ == "__main__":
    main()
