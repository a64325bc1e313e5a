"""What every verb shares: its options, and how what they name is opened.

Nothing heavy is imported here: `slowflow --help` must answer at once.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli.failing import complain
from slowflow_cli.failing import verb as verb
from slowflow_cli.telling import Output as Output

from slowflow.errors import InputError, SlowFlowError

TAKEN_WHOLE = "weights taken from 'flat'"
"""That a file with one set of weights was taken whole is no news to people."""


def _config_callback(context: typer.Context, value: Path | None) -> Path | None:
    """Values of a TOML file become defaults; flags on the command line override them."""
    if value is None:
        return None
    from slowflow.config import read_toml

    try:
        content = read_toml(value)
    except SlowFlowError as error:
        complain(str(error), {})
        raise typer.Exit(error.exit_code) from error
    known = {str(parameter.name) for parameter in context.command.params}
    settings = {key.replace("-", "_"): item for key, item in content.items()}
    for key in settings:
        if key not in known:
            complain(f"unknown setting '{key}' in {value}", {})
            raise typer.Exit(3)
    context.default_map = {**(context.default_map or {}), **settings}
    return value


def _protocol_callback(context: typer.Context, value: str | None) -> str | None:
    """The settings of a protocol become defaults; flags on the command line override them."""
    if value is None:
        return None
    from slowflow.protocols import protocol

    try:
        settings = protocol(value).settings()
    except SlowFlowError as error:
        complain(str(error), {})
        raise typer.Exit(error.exit_code) from error
    several = next(parameter for parameter in context.command.params if parameter.name == "steps").multiple
    settings["steps"] = [settings["steps"]] if several else settings["steps"]
    context.default_map = {**(context.default_map or {}), **settings}
    return value


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0.")]
Dtype = Annotated[
    str, typer.Option(help="Dtype of the network: float32, bfloat16, float16. States stay float32 or better.")
]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Batch = Annotated[str, typer.Option("--batch-size", help="auto (as memory allows), or samples a batch.")]
TrainBatch = Annotated[str, typer.Option("--batch-size", help="auto (64), or images an optimiser step.")]
Compile = Annotated[
    str,
    typer.Option("--compile", help="off, on (torch.compile), graphs (CUDA graphs too); results differ by rounding."),
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves it to the libraries.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file with defaults for these options.", is_eager=True, callback=_config_callback
    ),
]
Family = Annotated[str, typer.Option(help="Who opens a path (slowflow ls families).")]
Factory = Annotated[
    str | None, typer.Option(help="package.module:function, with --family custom. It is code and is run.")
]
Interpolant = Annotated[str | None, typer.Option(help="linear, gvp, vp or table, where the file does not say.")]
Prediction = Annotated[str | None, typer.Option(help="velocity, noise, data, score or v, where the file does not say.")]
Heads = Annotated[int | None, typer.Option(help="Attention heads, where the width does not tell.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="Sampler, steps and guidance as a paper has them (slowflow ls protocols); other flags override it.",
        is_eager=True,
        callback=_protocol_callback,
    ),
]
Guide = Annotated[
    str | None, typer.Option("--guide", help="A weaker model of the same family to push away from (autoguidance).")
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A bundled model (slowflow ls models) or a checkpoint path; - with a factory."
    ),
]
Data = Annotated[
    str, typer.Option("--data", help="mnist5k, digits, fashion-mnist, a folder of images, .npz or .safetensors.")
]
Log = Annotated[
    list[str],
    typer.Option(
        "--log", help="Losses and rates to tensorboard or wandb (offline unless WANDB_MODE is set); repeatable."
    ),
]
Heldout = Annotated[float, typer.Option(help="Share of each class held out for nulls and evaluation.")]


def setup(threads: int, device: str = "auto", dtype: str = "float32") -> tuple[Any, Any]:
    """Threads, device and dtype as torch objects.

    Raises:
        InputError: unknown device or dtype, or a device that is not there.
    """
    if threads < 0:
        raise InputError(f"threads is {threads}, expected 0 or more")
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise InputError(f"dtype is '{dtype}', expected one of {', '.join(dtypes)}")
    if device.startswith("mps"):
        raise InputError("device 'mps' has no float64, which times and states are kept in; use cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
    return found, dtypes[dtype]


def setting(text: str, form: str) -> tuple[str, Any]:
    """A --set as (name, value); the value as TOML has it, any other text as it is.

    Raises:
        InputError: no name, or no sign of equality; the sentence shows `form`.
    """
    import tomllib

    key, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not key:
        raise InputError(f"--set is '{text}', expected {form}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def gamma(text: str) -> float:
    """A --gamma that is not `auto`.

    Raises:
        InputError: not a finite number.
    """
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"--gamma is '{text}', expected auto or a number between 0 and 1") from None
    if not math.isfinite(number):
        raise InputError(f"gamma is {text}, expected auto or a number between 0 and 1")
    return number


def batch_size(text: str) -> int:
    """`auto` is 64, as an optimiser step takes whatever the memory; anything else must be a number of samples."""
    if text == "auto":
        return 64
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch-size is '{text}', expected auto or a number of samples above 0")
    return int(text)


def network_batch(text: str, model: Any, guidance: float = 1.0, begun: Path | None = None, *keys: str) -> int:
    """Samples through the network at once; `auto` is what an unfinished run began with, else what memory allows.

    Args:
        text: auto or a number.
        model, guidance: what is called.
        begun: run folder that may be there already.
        keys: where its configuration keeps the number.
    """
    if text != "auto":
        return batch_size(text)
    from slowflow.flow.batching import automatic
    from slowflow.io.run import read_json

    if begun is not None and (begun / "config.json").is_file():
        found = read_json(begun / "config.json")
        for key in ("config", *keys):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, int) and found > 0:
            return found
    return automatic(model, guidance)


def import_here() -> None:
    """Make the current folder importable: a factory of the user's own stands there."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def open_model(
    output: Output | None,
    model: str,
    family: str,
    factory: str | None,
    interpolant: str | None,
    prediction: str | None,
    heads: int | None,
    device: Any = None,
    dtype: Any = None,
) -> Any:
    """Open MODEL and move it; what was found out on the way is printed. The current folder is importable for factories."""
    if factory is not None:
        import_here()
    from slowflow.families.base import OpenOptions
    from slowflow.families.open import open_model as opener
    from slowflow.flow.placing import place

    opened = opener(model, family, OpenOptions(interpolant, prediction, heads, factory))
    if device is not None:
        place(opened.model.net, device, dtype)
    for text in opened.notes:
        if output is not None and text != TAKEN_WHOLE:
            output.say(f"note: {text}")
    return opened


def _open_guide(guide: str, opened: Any) -> Any:
    """The guide, of the model's family; what its file does not say is as for the model, heads apart (widths differ)."""
    from slowflow.io import checkpoint

    own = checkpoint.metadata(Path(guide) / "model.safetensors") or checkpoint.metadata(guide)
    told = {} if own else opened.settings
    options = (told.get(key) for key in ("factory", "interpolant", "prediction"))
    return open_model(None, guide, opened.model.family, *options, None, opened.model.device, opened.model.dtype).model


def apply_protocol(
    output: Output, opened: Any, name: str | None, guide: str | None, sampler: str, steps: list[int], guidance: float
) -> Any:
    """The opened model, guided as the protocol says; what is done and counted is printed."""
    if name is None and guide is None:
        return opened
    from dataclasses import replace

    from slowflow.protocols import protocol

    model, weaker = opened.model, None
    if guide is not None:
        weaker = _open_guide(guide, opened)
    if name is None:
        return replace(opened, model=replace(model, guiding=replace(model.guiding, guide=weaker)))
    model = protocol(name).applied(model, weaker)
    for count in steps:
        output.say(protocol(name).sentence(model, sampler, count, guidance))
    return replace(opened, model=model)


def compiled(output: Output, opened: Any, choice: str, rows: int, guidance: float = 1.0) -> None:
    """Compile the network and its guide's in place for calls of so many samples; nothing for `off`."""
    from slowflow.flow import compiling, placing

    model = opened.model
    if compiling.checked(choice, model.device) == compiling.OFF:
        return
    output.say("compiling the network; this takes from seconds to minutes")
    placing.compiled(model, choice, rows if guidance == 1.0 or model.guiding.guide is not None else 2 * rows)


def say_cost(
    output: Output,
    model: Any,
    samples: int,
    batch: int,
    sampler: str,
    steps: list[int],
    guidance: float,
    beside: list[str],
    remedy: Any = None,
) -> int:
    """Parameters, memory and network calls of a run that is not made; `beside` names what calls the network besides."""
    from slowflow.flow.cost import cost, size

    calls = {}
    for count in steps:
        found = cost(model, batch, sampler, count, guidance=guidance, remedy=remedy)
        calls[str(count)] = found.calls
        output.say(
            f"  {count} steps: {found.calls} network calls a sample, {found.calls * samples:,} for {samples} samples"
        )
    if beside:
        output.say(f"  not counted: {', '.join(beside)}")
    output.say(
        f"  {found.parameters:,} parameters, {size(found.weights)}; with {batch} samples at once {size(found.sampling)}"
    )
    facts = {"parameters": found.parameters, "weights_bytes": found.weights, "peak_bytes": found.sampling}
    output.answer({**facts, "batch_size": batch, "samples": samples, "calls": calls, "not_counted": beside})
    return 0
