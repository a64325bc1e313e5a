"""sample, evaluate: make images, and say how good they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import remedying as r
from slowflow_cli import shared as s
from slowflow_cli.publishing import say_rows

from slowflow.errors import InputError


def sample(
    model: s.Model,
    n: Annotated[int, typer.Option("--n", help="How many.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.npz with arr_0 (uint8 NHWC) and labels.")],
    steps: Annotated[int, typer.Option(help="Intervals.")] = 50,
    sampler: Annotated[str, typer.Option(help="euler, heun, recombine, em, ... (slowflow ls samplers).")] = "euler",
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 = none.")] = 1.0,
    shift: Annotated[float, typer.Option(help="Further warp of the grid, on top of the model's own.")] = 1.0,
    images: Annotated[Path | None, typer.Option("--images", help="Also draw the first 100 into this PNG.")] = None,
    remedy: r.Remedy = None,
    settings: r.Settings = [],
    preset: r.Preset = None,
    fit_from: r.FitFrom = None,
    protocol: s.Protocol = None,
    guide: s.Guide = None,
    latents: Annotated[bool, typer.Option("--latents", help="States are not images: write float32 data.")] = False,
    codec: Annotated[
        str | None, typer.Option("--codec", help="Decode latents: the folder of their autoencoder (diffusers' layout).")
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", help="balanced (sample i has class i mod classes), random, or one class.")
    ] = "balanced",
    quantiser: Annotated[
        str | None,
        typer.Option(
            help="round (SiT, DiT), truncate (REPA, RAE) or half-even (diffusers), with --codec; the codec's own if not given."
        ),
    ] = None,
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
) -> None:
    """Generate samples. Sample i is the same for any batch size; memory does not grow with n."""
    output = s.Output(json, quiet)
    if out.suffix != ".npz":
        picture = out.suffix.lower() in (".png", ".jpg", ".jpeg")
        hint = f"; for a picture of them add --images {out}" if picture else ""
        raise InputError(f"samples are written as FILE.npz, got --out {out}: --out {out.with_suffix('.npz')}{hint}")
    where, precision = s.setup(threads, device, dtype)
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, where, precision)
    opened = s.apply_protocol(output, opened, protocol, guide, sampler, [steps], guidance)
    correction = r.chosen(output, opened.model, remedy, settings, preset, fit_from, [steps])
    from slowflow.codecs.decoding import open_decoder
    from slowflow.evaluating.sampling import SampleConfig
    from slowflow.evaluating.sampling import sample as run
    from slowflow.families.open import identity
    from slowflow.io import ranks

    pixels = not latents
    if latents and (images is not None or codec is not None):
        raise InputError("--latents says that the states are no images; drop it, or --images and --codec")
    decoder = None if codec is None else open_decoder(codec, quantiser, opened.model.shape, where, precision)
    if pixels and decoder is None and opened.model.shape[0] not in (1, 3):
        raise InputError(
            f"states of shape {opened.model.shape} are not images; decode them with --codec, or use --latents"
        )
    how = SampleConfig(
        n=n,
        steps=steps,
        sampler=sampler,
        guidance=guidance,
        seed=seed,
        shift=shift,
        labels=labels,
        batch_size=min(n, s.network_batch(batch_size, opened.model, guidance)),
    )
    s.compiled(output, opened, compile, how.batch_size, guidance)
    output.say(f"sampling into {out}")
    found = run(
        opened.model,
        how,
        out,
        pixels=pixels,
        decoder=decoder,
        model_id=identity(opened.model, protocol),
        remedy=correction,
        part=opened.part,
        progress=output.progress("sample"),
    )
    if images is not None and ranks.current().leads:
        import numpy as np

        from slowflow.evaluating.archive import batches
        from slowflow.figures.samples import COLUMNS, save_sheet

        first = next(batches(out, "arr_0", COLUMNS * 10))
        save_sheet(np.ascontiguousarray(first), images)
        output.say(f"drawn: {images}")
    output.say(f"{n} samples, {found['nfe']} network calls each: {out}")
    output.answer(found)


def evaluate(
    model: s.Model,
    data: Annotated[
        str,
        typer.Option("--data", help="Real images, as elsewhere; or a reference .npz with mu and sigma (ADM's layout)."),
    ],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            help="fd-mnist, fd-digits, pixels, a file, inception:FILE, dinov2:FOLDER, or module:function, which is code "
            "and is run (slowflow ls features).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    steps: Annotated[list[int], typer.Option("--steps", help="Intervals; repeatable.")] = [50],
    samples: Annotated[int, typer.Option(help="How many; the held-out reference has at most as many.")] = 500,
    sampler: Annotated[str, typer.Option(help="euler, heun, recombine, em, ... (slowflow ls samplers).")] = "euler",
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 = none.")] = 1.0,
    shift: Annotated[float, typer.Option(help="Further warp of the grid, on top of the model's own.")] = 1.0,
    remedy: r.Remedy = None,
    settings: r.Settings = [],
    preset: r.Preset = None,
    fit_from: r.FitFrom = None,
    features_sha256: Annotated[
        str | None, typer.Option("--features-sha256", help="SHA-256 that the file of --features must have.")
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published", help="Model of the published tables to put FID beside, where the name does not tell."
        ),
    ] = None,
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
    compile: s.Compile = "off",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Frechet and kernel distance, precision, recall, density, coverage and more, with intervals and protocol.

    Against held-out images at equal n, or against a reference file as papers do. MODEL may also be a FILE.npz of samples;
    then steps and sampler are those it was made with.
    """
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    from slowflow.data.open import open_data
    from slowflow.evaluating.engine import Sampling
    from slowflow.evaluating.engine import evaluate as run
    from slowflow.evaluating.features import open_features
    from slowflow.evaluating.filed import evaluate_file
    from slowflow.evaluating.reference import is_reference, open_reference, open_samples
    from slowflow.families.open import identity
    from slowflow.published import must_be_known

    must_be_known(published)
    output.say(f"evaluating into {out}")
    if ":" in features and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for module:function
    known = {"sha256": features_sha256, "device": where}
    reference = open_reference(data) if is_reference(data) else None
    if model.endswith(".npz"):
        if remedy is not None:
            raise InputError(
                f"{model} holds samples that are already made; --remedy belongs to the command that makes them"
            )
        opened_features = open_features(features, open_samples(model).shape, **known)
        found = evaluate_file(
            Path(model),
            reference or open_data(data),
            opened_features,
            out,
            heldout=heldout,
            progress=output.progress("evaluate"),
        )
    else:
        opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, where, precision)
        opened = s.apply_protocol(output, opened, protocol, guide, sampler, steps, guidance)
        correction = r.chosen(output, opened.model, remedy, settings, preset, fit_from, steps)
        s.compiled(output, opened, compile, 0)
        found = run(
            opened.model,
            reference or open_data(data, classes=opened.model.classes),
            open_features(features, opened.model.shape, **known),
            Sampling(samples=samples, steps=tuple(steps), sampler=sampler, guidance=guidance, seed=seed, shift=shift),
            out,
            heldout=heldout,
            model_id=identity(opened.model, protocol),
            remedy=correction,
            part=opened.part,
            progress=output.progress("evaluate"),
        )
    _say_evaluation(output, found, published)


def _say_evaluation(output: s.Output, found: Any, published: str | None) -> None:
    """Numbers with intervals, what n adds to FD, and published rows that may stand beside them."""
    from slowflow.io.run import read_manifest
    from slowflow.published import beside

    summary, answer = read_manifest(found.path, "evaluate")["result"]["summary"], []
    for count in found.steps:
        one, protocol = summary["by_steps"][str(count)], found.protocol(count)
        parts = [f"{found.label(m)} {found.estimate(m, count)}" for m in found.all_metrics]
        output.say(f"  {count:>4} steps: " + ", ".join(parts))
        for note in one["notes"]:
            output.say(f"        {note}")
        if "fd_infinity" in one["metrics"]:
            limit = one["metrics"]["fd_infinity"]
            output.say(
                f"        {found.label('fd')} at infinite n: {limit['value']:.3f} [{limit['low']:.3f}, {limit['high']:.3f}], "
                f"extrapolated from n = {protocol['n']:,} and less"
            )
        rows = beside(protocol, model=published)
        say_rows(output, found, rows)
        answer.append({"steps": count, "rows": rows})
    note = found.facts["features"].get("note")
    if note:
        output.say(f"  note: {note}")
    output.say(f"evaluated: {found.path}")
    output.answer({**summary, "published": answer})
