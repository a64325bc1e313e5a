"""posttrain, pretrain: correct a model, or train a bundled-size one from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError

FROM_MODEL = ("interpolant", "prediction", "levels")
"""Settings of a remedy that the model brings."""


def posttrain(
    model: s.Model,
    data: s.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")],
    remedy: Annotated[
        str, typer.Option(help="mixflow, soar, ..., or plain for the control arm (slowflow ls remedies).")
    ] = "mixflow",
    gamma: Annotated[str, typer.Option(help="auto (with --run), or a number in [0, 1].")] = "auto",
    run: Annotated[
        Path | None,
        typer.Option("--run", help="A measurement of this model: for --gamma auto, and for empirical and two-clock."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take the measured law with its null left in.")] = False,
    set: Annotated[
        list[str],
        typer.Option("--set", help="Another setting of the remedy, KEY=VALUE (docs/remedies.md); repeatable."),
    ] = [],
    target_at: Annotated[
        str | None, typer.Option(help="Where the target is taken: m or t (equal on the linear path).")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="With a resolution shift: released (draw, warp, slow) or paper (draw, slow, warp)."),
    ] = None,
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
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Keep no activations inside blocks: less memory, a third more time, same bits.",
        ),
    ] = False,
    compile: Annotated[
        str, typer.Option("--compile", help="off, on (torch.compile); results differ by rounding.")
    ] = "off",
    save_every: Annotated[int, typer.Option(help="Steps between saved states.")] = 250,
    keep_last: Annotated[int, typer.Option(help="Checkpoints that stay for being the newest.")] = 0,
    keep_every: Annotated[int, typer.Option(help="Checkpoints at multiples of so many steps stay too; 0 = none.")] = 0,
    log: s.Log = [],
    parallel: Annotated[
        str, typer.Option(help="Under torchrun: ddp (every rank has the whole network) or fsdp (a part of it).")
    ] = "ddp",
    heldout: s.Heldout = 0.2,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    device: s.Device = "auto",
    dtype: s.Dtype = "float32",
    seed: s.Seed = 0,
    batch_size: s.TrainBatch = "auto",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Post-train a copy of the model with a remedy, or plainly as its control arm."""
    output = s.Output(json, quiet)
    import torch

    from slowflow.io import ranks
    from slowflow.results import RunResult
    from slowflow.train.execution import Execution
    from slowflow.train.keeping import Keep
    from slowflow.train.loop import TrainConfig
    from slowflow.train.post import post_train

    measured = None if run is None else RunResult.load(run).measured
    named = {"target_at": target_at, "order": order, "time_law": time_law}
    chosen = chosen_remedy(remedy, gamma, measured, [*set, *_given(named)], raw)
    number = getattr(chosen, "gamma", None)
    training = TrainConfig(
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
    execution = Execution(compile=compile, recompute=gradient_checkpointing)
    where, precision = s.setup(threads, device, dtype)
    # for fsdp the whole network may be too large for one device: it is opened on the CPU, and parts go where they belong
    home = torch.device("cpu") if parallel == "fsdp" and ranks.current().link is not None else where
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, home, precision)
    from slowflow.data.open import open_data
    from slowflow.families.open import identity

    identified = identity(opened.model)
    if measured is not None and measured.config["model"]["weights_sha256"] != identified["weights_sha256"]:
        raise InputError(f"--run {run} is a measurement of '{measured.config['model']['name']}', not of this model")
    _say_verdict(output, measured)
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
        training,
        out,
        heldout=heldout,
        keep=Keep(keep_last, keep_every).checked(training),
        model_id=identified,
        progress=output.progress(f"post-train {remedy}"),
        parallel=parallel,
        device=where,
        logs=log,
        execution=execution,
    )
    _say_result(output, out, number, remedy)


def _say_result(output: s.Output, out: Path, gamma: float | None, remedy: str) -> None:
    """What a finished post-training found."""
    from slowflow.io.run import read_manifest

    result = read_manifest(out, "posttrain")["result"]
    checkpoint = out / result["checkpoint"]
    calls = result.get("network_calls") or {}
    if calls.get("extra"):
        output.say(f"network calls: {calls['trained']:,} trained, {calls['extra']:,} more for the remedy")
    output.say(f"loss {result['loss']:.4f} after {result['steps']} steps; checkpoint: {checkpoint}")
    output.answer(
        {
            "checkpoint": str(checkpoint),
            "steps": result["steps"],
            "loss": result["loss"],
            "gamma": gamma,
            "remedy": remedy,
            "network_calls": calls,
        }
    )


def _say_verdict(output: s.Output, measured: Any) -> None:
    """Say so when the measurement calls for no training."""
    if measured is not None and (verdict := measured.suggest().verdict) != "detected":
        output.say(f"note: the measurement does not call for a correction by training (verdict: {verdict})")


def _given(named: dict[str, str | None]) -> list[str]:
    return [f"{key}={value}" for key, value in named.items() if value is not None]


def chosen_remedy(name: str, gamma: str, measured: Any, settings: list[str], raw: bool = False) -> Any:
    """The remedy of a command line: --gamma, what a measurement brings, and every KEY=VALUE.

    Raises:
        InputError: unknown remedy or setting, a value of another type, or a measurement that is missing.
    """
    from slowflow.measuring.training_law import remedy
    from slowflow.remedies import REMEDIES
    from slowflow.remedies.sampling import SAMPLING_REMEDIES

    if name in SAMPLING_REMEDIES.names():
        raise InputError(f"'{name}' corrects sampling, not training: give it to sample, measure or evaluate")
    kind = REMEDIES.get(name)
    found: dict[str, Any] = {}
    for text in settings:
        key, value = s.setting(text, "KEY=VALUE")
        if key in FROM_MODEL:
            raise InputError(f"--set {text}: the {key} is the model's own and cannot be set for a remedy")
        found[key] = value
    if gamma != "auto":
        found["gamma"] = s.gamma(gamma)
        if "gamma" not in kind.settings():
            raise InputError(f"the remedy '{name}' has no gamma, but {gamma} was given")
    elif kind.measured == "gamma" and "gamma" not in found and measured is None:
        raise InputError("--gamma auto needs --run, the folder of a measurement; or give a number")
    return remedy(name, measured, raw=raw, **found)


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="CONFIG", help="A recipe (.toml), or the name of a bundled card.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    log: s.Log = [],
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

        if log:
            raise InputError(f"--log {log[0]}: {path} is the recipe of a classifier, whose training is not logged")
        train_classifier(read_classifier_recipe(path), out)
        result = read_manifest(out, "classifier")["result"]
        output.say(f"held-out accuracy {result['heldout_accuracy']:.3f}")
    else:
        from slowflow.train.pretrain import pretrain as run
        from slowflow.train.pretrain import read_recipe

        run(read_recipe(path), out, device=where, progress=output.progress("pretrain"), logs=log)
        result = read_manifest(out, "pretrain")["result"]
        output.say(f"loss {result['loss']:.4f}, held out {result['heldout_loss'] or float('nan'):.4f}")
    output.say(f"checkpoint: {out / result['checkpoint']}")
    output.answer({**result, "checkpoint": str(out / result["checkpoint"])})
