"""measure, suggest: how slow a model runs, and which gamma follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s


def measure(
    model: s.Model,
    data: s.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    reference: Annotated[list[str], typer.Option("--reference", help="own, nearest, level; repeatable.")] = [
        "own",
        "nearest",
        "level",
    ],
    sampler: Annotated[str, typer.Option(help="euler, heun, recombine, em, ... (slowflow ls samplers).")] = "euler",
    steps: Annotated[list[int], typer.Option("--steps", help="Intervals; repeatable, the first is reported.")] = [50],
    samples: Annotated[int, typer.Option(help="Trajectories.")] = 500,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 = none.")] = 1.0,
    shift: Annotated[float, typer.Option(help="Further warp of the grid, on top of the model's own.")] = 1.0,
    backend: Annotated[str, typer.Option(help="Search engine: auto, faiss, torch.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost and make nothing.")] = False,
    protocol: s.Protocol = None,
    guide: s.Guide = None,
    heldout: s.Heldout = 0.2,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    device: s.Device = "auto",
    dtype: s.Dtype = "float32",
    seed: s.Seed = 0,
    batch_size: s.Batch = "auto",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> int:
    """How slow do generated states run? With nulls: genuine states and a perfect model through the same code."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    opened = s.open_model(model, family, factory, interpolant, prediction, heads, where, precision)
    opened = s.apply_protocol(output, opened, protocol, guide, sampler, steps, guidance)
    if dry_run:
        return s.say_cost(output, opened.model, samples, s.batch_size(batch_size), sampler, steps, guidance)
    from slowflow.data.open import open_data
    from slowflow.families.open import identity
    from slowflow.io.run import read_manifest
    from slowflow.measuring.engine import measure as run
    from slowflow.records import Probe

    probe = Probe(
        samples=samples,
        steps=tuple(steps),
        sampler=sampler,
        references=tuple(reference),
        guidance=guidance,
        seed=seed,
        shift=shift,
        shard=s.batch_size(batch_size),
        backend=backend,
    )
    output.say(f"measuring into {out}")
    found = run(
        opened.model,
        open_data(data, classes=opened.model.classes),
        probe,
        out,
        heldout=heldout,
        model_id=identity(opened.model, protocol),
        progress=output.progress("measure"),
    )
    for name in found.references:
        output.say(f"\nreference {name}")
        output.say(curve_table(found.summary(name)))
    output.say("")
    say_fit(output, found.suggest())
    for other in found.steps[1:]:
        output.say(f"\nat {other} steps")
        say_fit(output, found.suggest(steps=other))
    output.say(f"\nmeasured: {out}")
    output.answer(read_manifest(out, "measure")["result"]["summary"])
    return 1 if any(facts.get("agreement", 1.0) < 1.0 for facts in found.facts["search"].values()) else 0


def curve_table(table: Any) -> str:
    """About ten times of a summary, for a terminal."""
    columns = {"t": "t", "m_model": "m", "m_genuine": "genuine", "m_exact": "perfect"}
    excess = {"excess_genuine": "m - genuine", "excess_exact": "m - perfect"}
    rows = table.iloc[:: max(len(table) // 10, 1)]
    lines = []
    for _, row in rows.iterrows():
        cells = [f"{row[c]:8.3f}" for c in columns if c in table]
        cells += [f"{row[c]:+8.3f} [{row[c + '_low']:+.3f}, {row[c + '_high']:+.3f}]" for c in excess if c in table]
        lines.append("  " + " ".join(cells))
    heads = [f"{columns[c]:>8}" for c in columns if c in table] + [f"{excess[c]:>25}" for c in excess if c in table]
    return "\n".join(["  " + " ".join(heads), *lines])


def say_fit(output: s.Output, fit: Any) -> None:
    """gamma and verdict for people."""
    output.say(f"verdict: {fit.verdict}: {fit.reason}")
    output.say(f"gamma {fit.gamma:.3f} (method: {fit.method}; {fit.time})")
    for name, estimate in fit.estimates.items():
        output.say(f"  {name:<16} {estimate}")
    for text in fit.warnings:
        output.say(f"  warning: {text}")


def suggest(
    run: Annotated[Path, typer.Argument(help="A measurement, or the folder of a whole run.")],
    reference: Annotated[str | None, typer.Option(help="Read gamma from this reference instead.")] = None,
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """gamma by every estimator with its interval, the recommended one, and a verdict."""
    output = s.Output(json, quiet=True)
    from slowflow.config import canonical
    from slowflow.results import RunResult

    result = RunResult.load(run)
    fit = result.fit if reference is None else next(iter(result.measurements.values())).suggest(reference)
    say_fit(output, fit)
    output.answer(canonical(fit))
