"""calibrate: are the measures usable at this dimension, scale and n?"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.records import DEFAULT_REFERENCES


def calibrate(
    model: s.Model,
    data: s.Data,
    reference: Annotated[
        list[str], typer.Option("--reference", help="Those that start from noise (slowflow ls references); repeatable.")
    ] = list(DEFAULT_REFERENCES),
    samples: Annotated[int, typer.Option(help="Trajectories of each kind: as many as you mean to measure.")] = 500,
    steps: Annotated[int, typer.Option("--steps", help="Times at which states are measured, 4 to 100.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; the same command again resumes.")] = None,
    heldout: s.Heldout = 0.2,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    seed: s.Seed = 0,
    batch_size: s.Batch = "auto",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> int:
    """Which measures can be trusted on data like these? Perfect models and effects of known size through each of them."""
    output = s.Output(json, quiet)
    s.setup(threads)
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads)
    from slowflow.data.open import open_data
    from slowflow.measuring.calibration.calibration import calibrate as run

    if out is not None:
        output.say(f"calibrating into {out}")
    found = run(
        opened.model,
        open_data(data, classes=opened.model.classes),
        references=tuple(reference),
        samples=samples,
        times=steps,
        heldout=heldout,
        seed=seed,
        shard=None if batch_size == "auto" else s.batch_size(batch_size),
        out=out,
        progress=output.progress("calibrate"),
    )
    say_calibration(output, found)
    if out is not None:
        output.say(f"\ncalibrated: {out}")
    output.answer(found.result())
    return 0 if found.usable else 1


def say_calibration(output: s.Output, found: Any) -> None:
    """The judgement, one line a reading, and why."""
    facts = found.facts
    output.say(
        f"{facts['data']}, d = {facts['dimension']}, n = {facts['samples']}, in units of gamma; worst of 3 worlds"
    )
    columns = ("reading", "usable", "perfect model", "lag 0.5 reads", "detectable", "planted", "swap: image", "noise")
    output.say(_line(columns))
    for name, one in found.references.items():
        ratio, planted = one["recovered"], one["planted"]
        bias = one["null_bias"]
        output.say(
            _line(
                (
                    name,
                    "yes" if one["usable"] else "NO",
                    f"{bias['value']:+.3f} [{bias['low']:+.3f}, {bias['high']:+.3f}]",
                    f"x{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
                    f"{one['detectable']:.3f}",
                    f"{planted['ok']}/{planted['asked']}",
                    f"{one['swap']['endpoint']:+.3f}",
                    f"{one['swap']['noise']:+.3f}",
                )
            )
        )
    output.say("")
    for name, one in found.references.items():
        output.say(textwrap.fill(f"{name} is {one['reason']}", width=100, subsequent_indent="  "))


def _line(cells: tuple[str, ...]) -> str:
    """Eight cells, the first two flush left, within 100 columns."""
    widths = (12, 6, 23, 18, 10, 7, 11, 6)
    aligned = [cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(cells, widths, strict=True))]
    return " ".join(aligned).rstrip()
