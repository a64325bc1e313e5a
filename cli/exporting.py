"""export: a checkpoint in the layout of its family's authors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slowflow_cli import shared as s


def export(
    model: s.Model,
    layout: Annotated[
        str, typer.Option("--layout", help="sit, repa, rae, dit: the family of the model; or diffusers (a folder).")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write; must not exist.")],
    drop_sigma: Annotated[
        bool,
        typer.Option(
            "--drop-sigma", help="Leave out the unused half of the head, which SiT's sampling script refuses."
        ),
    ] = False,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """Write a model as its authors do, so that their own scripts can sample what SlowFlow trained."""
    output = s.Output(json, quiet=True)
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads)
    from slowflow.families.export import export as write

    found = write(opened.model, layout, out, drop_sigma=drop_sigma)
    output.say(f"{found['tensors']} tensors in the layout of {layout}: {out}")
    output.answer(found)
