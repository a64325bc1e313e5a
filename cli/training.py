"""posttrain, pretrain: correct a model, or train a bundled-size one from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError


def posttrain(
    model: s.Model,
    data: s.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")],
    remedy: Annotated[
        str, typer.Option(help="mixflow, or plain for the control arm (slowflow ls remedies).")
    ] = "mixflow",
    gamma: Annotated[str, typer.Option(help="auto (with --run), or a number in [0, 1].")] = "auto",
    run: Annotated[Path | None, typer.Option("--run", help="A measurement of this model, for --gamma auto.")] = None,
    target_at: Annotated[str, typer.Option(help="Where the target is taken: m or t (equal on the linear path).")] = "m",
    order: Annotated[
        str, typer.Option(help="With a resolution shift: released (draw, warp, slow) or paper (draw, slow, warp).")
    ] = "released",
    time_law: Annotated[
        str | None, typer.Option(help="uniform, beta21, logit-normal; the remedy's or the model's own when not given.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate after warm-up.")] = 2e-4,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = 100,
    ema: Annotated[float, typer.Option(help="Decay of the moving average.")] = 0.999,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = 1.0,
    label_dropout: Annotated[
        float, typer.Option(help="Share of labels (or prompts) replaced by the null condition.")
    ] = 0.1,
    micro_batch: Annotated[int, typer.Option(help="Images through the network at once; 0 = the whole batch.")] = 0,
    mixed: Annotated[bool, typer.Option("--mixed", help="Compute in bfloat16; weights stay float32.")] = False,
    save_every: Annotated[int, typer.Option(help="Steps between saved states.")] = 250,
    keep_last: Annotated[int, typer.Option(help="Checkpoints that stay for being the newest.")] = 0,
    keep_every: Annotated[int, typer.Option(help="Checkpoints at multiples of so many steps stay too; 0 = none.")] = 0,
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
) -> None:
    """Post-train a copy of the model with a remedy, or plainly as its control arm."""
    output = s.Output(json, quiet)
    from slowflow.results import RunResult
    from slowflow.train.keeping import Keep
    from slowflow.train.loop import TrainConfig
    from slowflow.train.post import make_remedy, post_train

    measured = None if run is None else RunResult.load(run).measured
    number = _gamma(gamma, measured) if remedy == "mixflow" or gamma != "auto" else None
    chosen = make_remedy(remedy, number, target_at, time_law, order)
    settings = TrainConfig(
        steps=steps,
        batch_size=s.batch_size(batch_size),
        lr=lr,
        lr_final=lr,
        warmup=warmup,
        ema_decay=ema,
        clip=clip,
        label_dropout=label_dropout,
        seed=seed,
        save_every=save_every,
        micro_batch=micro_batch,
        mixed=mixed,
    )
    where, precision = s.setup(threads, device, dtype)
    opened = s.open_model(model, family, factory, interpolant, prediction, heads, where, precision)
    from slowflow.data.open import open_data
    from slowflow.families.open import identity
    from slowflow.io.run import read_manifest

    identified = identity(opened.model)
    if measured is not None and measured.config["model"]["weights_sha256"] != identified["weights_sha256"]:
        raise InputError(f"--run {run} is a measurement of '{measured.config['model']['name']}', not of this model")
    if measured is not None and measured.suggest().verdict != "detected":
        fit = measured.suggest()
        output.say(
            f"note: the measurement calls for no correction ({fit.verdict}); gamma {fit.gamma:.3f} is the width of its raw band"
        )
    if number is not None:
        output.say(f"gamma {number:.3f}")
    kept = ema**steps
    if kept > 0.05:
        output.say(
            f"note: after {steps} steps the moving average still holds {kept:.0%} of the starting weights; --ema lowers that"
        )
    output.say(f"post-training into {out}")
    post_train(
        opened.model,
        open_data(data, classes=opened.model.classes),
        chosen,
        settings,
        out,
        heldout=heldout,
        keep=Keep(keep_last, keep_every).checked(settings),
        model_id=identified,
        progress=output.progress(f"post-train {remedy}"),
    )
    result = read_manifest(out, "posttrain")["result"]
    checkpoint = out / result["checkpoint"]
    output.say(f"loss {result['loss']:.4f} after {result['steps']} steps; checkpoint: {checkpoint}")
    output.answer(
        {
            "checkpoint": str(checkpoint),
            "steps": result["steps"],
            "loss": result["loss"],
            "gamma": number,
            "remedy": remedy,
        }
    )


def _gamma(text: str, measured: Any) -> float:
    """A number, or the one a measurement suggests."""
    if text != "auto":
        try:
            return float(text)
        except ValueError:
            raise InputError(f"--gamma is '{text}', expected auto or a number between 0 and 1") from None
    if measured is None:
        raise InputError("--gamma auto needs --run, the folder of a measurement; or give a number")
    return float(measured.suggest().gamma)


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="CONFIG", help="A recipe (.toml), or the name of a bundled card.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    device: s.Device = "auto",
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Train a bundled-size model, or a feature classifier, from a recorded recipe."""
    output = s.Output(json, quiet)
    where, _ = s.setup(threads, device)
    from slowflow.cards import cards
    from slowflow.config import read_toml
    from slowflow.io.run import read_manifest

    bundled = {c.name: c for c in cards()}
    path = bundled[recipe].recipe if recipe in bundled else Path(recipe)
    output.say(f"training into {out}")
    if "classifier" in read_toml(path):
        from slowflow.evaluating.classifier import read_classifier_recipe, train_classifier

        train_classifier(read_classifier_recipe(path), out)
        result = read_manifest(out, "classifier")["result"]
        output.say(f"held-out accuracy {result['heldout_accuracy']:.3f}")
    else:
        from slowflow.train.pretrain import pretrain as run
        from slowflow.train.pretrain import read_recipe

        run(read_recipe(path), out, device=where, progress=output.progress("pretrain"))
        result = read_manifest(out, "pretrain")["result"]
        output.say(f"loss {result['loss']:.4f}, held out {result['heldout_loss'] or float('nan'):.4f}")
    output.say(f"checkpoint: {out / result['checkpoint']}")
    output.answer({**result, "checkpoint": str(out / result["checkpoint"])})
