"""sample, evaluate: make images, and say how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slowflow_cli import remedying as r
from slowflow_cli import shared as s

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
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Generate samples. Sample i is the same for any batch size, and has class i mod classes."""
    output = s.Output(json, quiet)
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
    size = s.batch_size(batch_size)
    how = SampleConfig(n=n, steps=steps, sampler=sampler, guidance=guidance, seed=seed, shift=shift, shard=size)
    output.say(f"sampling into {out}")
    found = run(
        opened.model,
        how,
        out,
        pixels=pixels,
        decoder=decoder,
        model_id=identity(opened.model, protocol),
        remedy=correction,
        progress=output.progress("sample"),
    )
    if images is not None and ranks.current().leads:
        import numpy as np

        from slowflow.figures.samples import COLUMNS, save_sheet

        with np.load(out, allow_pickle=False) as stored:
            save_sheet(stored["arr_0"][: COLUMNS * 10], images)
        output.say(f"drawn: {images}")
    output.say(f"{n} samples, {found['nfe']} network calls each: {out}")
    output.answer(found)


def evaluate(
    model: s.Model,
    data: s.Data,
    features: Annotated[str, typer.Option("--features", help="fd-mnist, fd-digits, pixels, or a classifier file.")],
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
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Frechet distance, density, coverage and label agreement against held-out images, at equal n, with intervals.

    MODEL may also be a FILE.npz of samples; then steps and sampler are those it was made with.
    """
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    from slowflow.data.open import open_data
    from slowflow.evaluating.engine import Sampling, evaluate_file
    from slowflow.evaluating.engine import evaluate as run
    from slowflow.evaluating.features import open_features
    from slowflow.families.open import identity
    from slowflow.io.run import read_manifest

    output.say(f"evaluating into {out}")
    if model.endswith(".npz"):
        if remedy is not None:
            raise InputError(
                f"{model} holds samples that are already made; --remedy belongs to the command that makes them"
            )
        images = open_data(data)
        found = evaluate_file(Path(model), images, open_features(features, images.shape), out, heldout=heldout)
    else:
        opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, where, precision)
        opened = s.apply_protocol(output, opened, protocol, guide, sampler, steps, guidance)
        correction = r.chosen(output, opened.model, remedy, settings, preset, fit_from, steps)
        found = run(
            opened.model,
            open_data(data, classes=opened.model.classes),
            open_features(features, opened.model.shape),
            Sampling(samples=samples, steps=tuple(steps), sampler=sampler, guidance=guidance, seed=seed, shift=shift),
            out,
            heldout=heldout,
            model_id=identity(opened.model, protocol),
            remedy=correction,
            progress=output.progress("evaluate"),
        )
    for count in found.steps:
        parts = [
            f"{found.facts['features']['name'] if m == 'fd' else m} {found.estimate(m, count)}" for m in found.metrics
        ]
        output.say(f"  {count:>4} steps: " + ", ".join(parts))
    output.say(f"evaluated: {out}")
    output.answer(read_manifest(out, "evaluate")["result"]["summary"])
