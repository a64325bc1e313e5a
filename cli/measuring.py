"""measure, diagnose: how slow a model runs, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import remedying as r
from slowflow_cli import shared as s
from slowflow_cli.suggesting import say_fit

REFERENCES = (
    "own, paired, paired-late, nearest, fresh, inverted, level, clocks, ... (slowflow ls references); repeatable."
)


def measure(
    model: s.Model,
    data: s.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    reference: Annotated[
        list[str], typer.Option("--reference", help=f"{REFERENCES} auto: own, nearest, level, clocks.")
    ] = ["auto"],
    measure: Annotated[
        list[str], typer.Option("--measure", help="A peer's measure beside them (slowflow ls measures); repeatable.")
    ] = [],
    null: Annotated[list[str], typer.Option("--null", help="genuine, exact, coarse, seen, fine; repeatable.")] = [
        "genuine",
        "exact",
        "coarse",
        "seen",
    ],
    sampler: Annotated[str, typer.Option(help="euler, heun, recombine, em, ... (slowflow ls samplers).")] = "euler",
    steps: Annotated[list[int], typer.Option("--steps", help="Intervals; repeatable, the first is reported.")] = [50],
    samples: Annotated[int, typer.Option(help="Trajectories.")] = 500,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 = none.")] = 1.0,
    shift: Annotated[float, typer.Option(help="Further warp of the grid, on top of the model's own.")] = 1.0,
    backend: Annotated[str, typer.Option(help="Search engine: auto, faiss, torch; approximate biases m.")] = "auto",
    bank: Annotated[int, typer.Option(help="Images in the bank; 0 takes all that are not held out.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost and make nothing.")] = False,
    remedy: r.Remedy = None,
    settings: r.Settings = [],
    preset: r.Preset = None,
    fit_from: r.FitFrom = None,
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
    compile: s.Compile = "off",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> int:
    """How slow do generated states run? With nulls: genuine states and a perfect model through the same code."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, where, precision)
    opened = s.apply_protocol(output, opened, protocol, guide, sampler, steps, guidance)
    correction = r.chosen(output, opened.model, remedy, settings, preset, fit_from, steps)
    size = s.network_batch(batch_size, opened.model, guidance, out, "probe", "shard")
    if dry_run:
        beside = calls_beside(reference, measure, null, guidance)
        return s.say_cost(output, opened.model, samples, size, sampler, steps, guidance, beside, correction)
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
        measures=tuple(measure),
        nulls=tuple(null),
        guidance=guidance,
        seed=seed,
        shift=shift,
        shard=size,
        backend=backend,
        bank=bank,
    )
    asked = {"model": model, "family": family, "data": data}
    asked |= {"factory": factory, "interpolant": interpolant, "prediction": prediction, "heads": heads}
    s.compiled(output, opened, compile, size, guidance)
    output.say(f"measuring into {out}")
    found = run(
        opened.model,
        open_data(data, classes=opened.model.classes),
        probe,
        out,
        heldout=heldout,
        model_id=identity(opened.model, protocol),
        reopen=asked,
        remedy=correction,
        progress=output.progress("measure"),
    )
    for name in found.readings():
        output.say(f"\nreference {name}")
        output.say(curve_table(found.summary(name)))
    for name in found.measures:
        output.say(f"\nmeasure {name}")
        output.say(found.measure(name).to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    for name, facts in found.facts["search"].items():
        if "recall" in facts:
            output.say(
                f"\napproximate search under '{name}': recall {facts['recall']:.3f}, signed error in m "
                f"{facts['signed_error_in_m']:+.4f} ({facts['checked']:.0f} states checked against the exact search)"
            )
    output.say("")
    say_fit(output, found.suggest())
    for other in found.steps[1:]:
        output.say(f"\nat {other} steps")
        say_fit(output, found.suggest(steps=other))
    output.say(f"\nmeasured: {out}")
    output.answer(read_manifest(out, "measure")["result"]["summary"])
    return 1 if any(facts.get("agreement", 1.0) < 1.0 for facts in found.facts["search"].values()) else 0


def calls_beside(references: list[str], measures: list[str], nulls: list[str], guidance: float) -> list[str]:
    """What a measurement asks of the network beside its trajectories from noise; the other nulls do not call it."""
    from slowflow.measuring.peers import MEASURES
    from slowflow.measuring.references import REFERENCES

    found = [
        f"the null '{name}'" for name in ("fine", "unguided") if name in nulls or (name == "unguided" and guidance != 1)
    ]
    found += [
        f"trajectories for the reference '{name}', which begin elsewhere"
        for name in references
        if name != "auto" and REFERENCES.get(name).start != "noise"
    ]
    return found + [f"the measure '{name}'" for name in measures if MEASURES.get(name)]


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


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A measurement, or the folder of a whole run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default: diagnosis inside the measurement.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="MODEL, where it is not where it was when measured.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="DATA, where it is not where it was.")] = None,
    samples: Annotated[int, typer.Option(help="Trajectories, at most as many as held-out images.")] = 256,
    steps: Annotated[
        list[int], typer.Option("--steps", help="Three or more step counts, the reported one first; repeatable.")
    ] = [],
    device: s.Device = "auto",
    dtype: s.Dtype = "float32",
    compile: s.Compile = "off",
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Why do states lag: step size, local model error, or accumulation? And the cheapest first remedy."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    from slowflow.data.open import open_data
    from slowflow.io.run import read_manifest
    from slowflow.measuring.causes.diagnosing import diagnose as find
    from slowflow.results import RunResult

    measured = RunResult.load(run).measured
    asked = measured.asked(model=model, data=data)
    names = ("model", "family", "factory", "interpolant", "prediction", "heads")
    opened = s.open_model(output, *(asked[name] for name in names), where, precision)
    images = open_data(asked["data"], classes=opened.model.classes)
    s.compiled(output, opened, compile, 0)
    found = find(
        measured, opened.model, images, out, samples=samples, steps=tuple(steps), progress=output.progress("diagnose")
    )
    say_diagnosis(output, found)
    output.answer(read_manifest(found.path, "diagnose")["result"]["summary"])


def say_diagnosis(output: s.Output, found: Any) -> None:
    """Causes for people."""
    from slowflow.measuring.causes.diagnosis import CAUSE, MEANING

    counts = "/".join(map(str, found.counts))
    output.say(f"verdict: {found.verdict}; cause: {CAUSE.get(found.cause, found.cause)}   ({counts} steps)")
    for name, division in found.divisions.items():
        mark = "*" if name == found.reading else " "
        output.say(
            f"{mark} {name:<13} lag {division.lag} in units of gamma"
            + ("" if division.clear else ", not clear of zero")
        )
        if division.clear:
            for part, estimate in division.parts.items():
                output.say(f"    {part:<13} {estimate}   share {division.shares[part]}   {MEANING[part]}")
    share, divergence = found.off_path
    output.say(f"  off path      {share} of a divergence of {divergence} nats: no single time takes that away")
    trips = ", ".join(f"{n} steps {found.mean(f'roundtrip-{n}').value:.3f}" for n in found.counts)
    output.say(f"  round trip    {trips}   (step size only)")
    law = ", ".join(f"{name} {estimate}" for name, estimate in found.noise_law().items())
    output.say(f"  inverted noise: {law}   (model only; 3 and 1 for a perfect one)")
    output.say(f"  {found.advice}")
