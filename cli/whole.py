"""run, demo: the whole loop in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError


def run(
    model: s.Model,
    data: s.Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")],
    features: Annotated[
        str, typer.Option("--features", help="What the Frechet distance is measured in (slowflow ls features).")
    ] = "pixels",
    steps: Annotated[int, typer.Option(help="Intervals of the measurement.")] = 50,
    eval_steps: Annotated[list[int], typer.Option("--eval-steps", help="Intervals of the evaluation; repeatable.")] = [
        5,
        10,
        20,
        50,
    ],
    sampler: Annotated[str, typer.Option(help="euler, heun, recombine, em, ... (slowflow ls samplers).")] = "euler",
    samples: Annotated[int, typer.Option(help="Trajectories, and samples for the evaluation.")] = 500,
    gamma: Annotated[str, typer.Option(help="auto (what suggest recommends), or a number in [0, 1].")] = "auto",
    train_steps: Annotated[
        int, typer.Option(help="Steps of post-training, for MixFlow and for the plain control arm.")
    ] = 2000,
    lr: Annotated[float, typer.Option(help="Learning rate of post-training.")] = 2e-4,
    heldout: s.Heldout = 0.2,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    device: s.Device = "auto",
    dtype: s.Dtype = "float32",
    seed: s.Seed = 0,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="auto (64 a training step; as memory allows for samples), or a number.")
    ] = "auto",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Check, measure, suggest, post-train with a plain control arm, measure again, evaluate, report."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    opened = s.open_model(output, model, family, factory, interpolant, prediction, heads, where, precision)
    from slowflow.evaluating.engine import Sampling
    from slowflow.pipeline import RunConfig
    from slowflow.records import Probe
    from slowflow.train.loop import TrainConfig

    size = s.network_batch(batch_size, opened.model, 1.0, out, "run", "probe", "shard")
    settings = RunConfig(
        probe=Probe(samples=samples, steps=(steps,), sampler=sampler, seed=seed, shard=size),
        sampling=Sampling(samples=samples, steps=tuple(eval_steps), sampler=sampler, seed=seed),
        features=features,
        train=TrainConfig(steps=train_steps, batch_size=s.batch_size(batch_size), lr=lr, lr_final=lr, seed=seed),
        gamma=None if gamma == "auto" else s.gamma(gamma),
        heldout=heldout,
    )
    asked = {"model": model, "family": family, "data": data}
    asked |= {"factory": factory, "interpolant": interpolant, "prediction": prediction, "heads": heads}
    _whole(output, opened, asked, settings, out)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command again resumes.")] = Path(
        "slowflow-demo"
    ),
    model: Annotated[str, typer.Option(help="The bundled model to look at.")] = "mnist-sit",
    device: s.Device = "auto",
    threads: s.Threads = 0,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """The whole loop on a bundled model, ending in report.html: a few minutes on two cores."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device)
    from slowflow.cards import card
    from slowflow.config import from_mapping
    from slowflow.evaluating.engine import Sampling
    from slowflow.pipeline import RunConfig
    from slowflow.records import Probe
    from slowflow.train.loop import TrainConfig

    content = card(model, "model").content
    if "demo" not in content:
        raise InputError(f"the bundled model '{model}' has no demo")
    told = content["demo"]
    settings = RunConfig(
        probe=from_mapping(Probe, {**told["probe"], "steps": tuple(told["probe"]["steps"])}, f"demo of {model}"),
        sampling=from_mapping(Sampling, told["sampling"], f"demo of {model}"),
        features=told["features"],
        train=from_mapping(TrainConfig, told["train"], f"demo of {model}"),
        descendants=bool(content.get("descendants")),
    )
    opened = s.open_model(output, model, "sit", None, None, None, None, where, precision)
    _whole(output, opened, {"model": model, "data": content["data"]}, settings, out)


def _whole(output: s.Output, opened: Any, asked: dict[str, Any], settings: Any, out: Path) -> None:
    from slowflow.data.open import open_data
    from slowflow.io.run import read_manifest
    from slowflow.pipeline import run as pipeline
    from slowflow.reporting import text

    output.say(f"running into {out}")
    images = open_data(asked["data"], classes=opened.model.classes)
    result = pipeline(opened, asked["model"], images, settings, out, asked=asked, progress=output.stage)
    for finding in text.findings(result):
        output.say(f"\n{finding.sentence}\n  {finding.numbers}")
    output.say("\n" + text.advice(result))
    report = (out / "report.html").resolve()
    output.say(f"\nreport: {report}")
    output.answer({**read_manifest(out, "run")["result"]["answer"], "report": str(report)})
