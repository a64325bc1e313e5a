"""doctor, ls, check: look at the environment, at what is registered, at a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError, did_you_mean

WHAT = (
    "models",
    "families",
    "references",
    "measures",
    "remedies",
    "presets",
    "features",
    "figures",
    "data",
    "samplers",
    "codecs",
    "protocols",
    "published",
)


def doctor(json: s.Json = False, debug: s.Debug = False) -> int:
    """What is installed, which search engine is used, what is missing and the line that mends it."""
    import platform
    from importlib import metadata

    import torch

    from slowflow.measuring import search

    out = s.Output(json, quiet=True)
    providers = sorted(set(metadata.packages_distributions().get("faiss", [])))
    problems = []
    if len(providers) > 1:
        problems.append(
            f"{' and '.join(providers)} overwrite each other: pip uninstall -y {' '.join(providers)}; pip install {providers[0]}"
        )
    if providers and "faiss" not in search.backends():
        problems.append("FAISS is installed but cannot be imported: pip install --force-reinstall " + providers[0])
    notes = [] if providers else ["FAISS is not installed; the exact torch engine is used: pip install 'slowflow[cpu]'"]
    for package, extra in (("mlxtend", "demo"), ("sklearn", "demo"), ("PIL", "demo")):
        if not metadata.packages_distributions().get(package):
            notes.append(f"{package} is not installed (bundled data sets): pip install 'slowflow[{extra}]'")
    absent = [name for name in ("diffusers", "transformers", "peft") if not metadata.packages_distributions().get(name)]
    if absent:
        notes.append(
            f"{absent[0]} is not installed (sd3, flowmatch, ddpm, autoencoders): pip install 'slowflow[diffusers]'"
        )
    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    found = {
        "python": platform.python_version(),
        "slowflow": metadata.version("slowflow"),
        "torch": torch.__version__,
        "faiss": {name: metadata.version(name) for name in providers},
        "search": search.backends()[0],
        "devices": devices,
        "threads": torch.get_num_threads(),
        "notes": notes,
        "problems": problems,
    }
    for key, value in found.items():
        if key not in ("notes", "problems"):
            out.say(f"  {key:<9} {_flat(value)}")
    for text in notes:
        out.say(f"  note      {text}")
    for text in problems:
        out.say(f"  PROBLEM   {text}")
    out.say("  all well" if not problems else f"  {len(problems)} problem(s)")
    out.answer(found)
    return 1 if problems else 0


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def ls(
    what: Annotated[str, typer.Argument(help=" | ".join(WHAT))] = "models",
    json: s.Json = False,
    debug: s.Debug = False,
) -> None:
    """List what is registered, one line each."""
    out = s.Output(json, quiet=True)
    if what not in WHAT:
        hint = did_you_mean(what, WHAT)
        raise InputError(f"nothing is listed under '{what}'{hint} (known: {', '.join(WHAT)})")
    rows = _listing(what)
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        _say_row(out, row, width)
    out.answer(rows)


def _say_row(out: s.Output, row: dict[str, str], width: int) -> None:
    """Name, summary and source in a line; on a terminal too narrow for that below one another."""
    whole = f"  {row['name']:<{width}}  {row['summary']}   [{row['source']}]"
    if not 0 < out.columns <= len(whole):
        out.say(whole)
        return
    start = width + 4 if width <= out.columns // 3 else 6
    named = f"  {row['name']:<{width}}  {row['summary']}" if start > 6 else f"  {row['name']}\n      {row['summary']}"
    out.say(f"{named}\n{' ' * start}[{row['source']}]")


def _listing(what: str) -> list[dict[str, str]]:
    if what in ("models", "features"):
        from slowflow.cards import cards

        kind = "model" if what == "models" else "features"
        rows = [{"name": c.name, "summary": c.summary, "source": c.source} for c in cards(kind)]
        return rows if kind == "model" else rows + _registered("slowflow.evaluating.features", "FEATURES")
    if what == "published":
        return _published()
    if what == "presets":
        from slowflow.remedies.sampling.presets import presets

        return [{"name": f"{p.remedy} {p.name}", "summary": p.note, "source": p.source} for p in presets()]
    if what == "remedies":
        return _remedies()

    places = {
        "families": ("slowflow.families", "FAMILIES"),
        "references": ("slowflow.measuring.references", "REFERENCES"),
        "measures": ("slowflow.measuring.peers", "MEASURES"),
        "figures": ("slowflow.figures", "FIGURES"),
        "data": ("slowflow.data.sets", "SETS"),
        "samplers": ("slowflow.flow.samplers", "SAMPLERS"),
        "codecs": ("slowflow.codecs", "CODECS"),
        "protocols": ("slowflow.protocols", "PROTOCOLS"),
    }
    return _registered(*places[what])


def _published() -> list[dict[str, str]]:
    """Rows of published tables: what was sampled, the numbers and what is stated of the protocol, where from, how sure."""
    from slowflow.evaluating.evaluation import label
    from slowflow.published import rows

    found = []
    for row in rows():
        numbers = ", ".join(f"{label(metric, row.features)} {value}" for metric, value in row.metrics.items())
        summary = f"{numbers}; {row.settings}" if row.settings else numbers
        found.append({"name": row.name, "summary": summary, "source": f"{row.table.source}; {row.table.certainty}"})
    return found


def _registered(module: str, name: str) -> list[dict[str, str]]:
    """Entries of a registry."""
    import importlib

    registry: Any = getattr(importlib.import_module(module), name)
    return [{"name": entry.name, "summary": entry.summary, "source": entry.source} for entry in registry]


def _remedies() -> list[dict[str, str]]:
    """Both sorts, each with its kind."""
    from slowflow.remedies import REMEDIES
    from slowflow.remedies.sampling import SAMPLING_REMEDIES

    sorts: tuple[tuple[str, Any], ...] = (("training", REMEDIES), ("sampling", SAMPLING_REMEDIES))
    return [
        {"name": e.name, "kind": kind, "summary": f"{kind}: {e.summary}", "source": e.source}
        for kind, registry in sorts
        for e in registry
    ]


def check(
    model: s.Model,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Real data, for the time-direction test; a bundled model knows its own."),
    ] = None,
    family: s.Family = "sit",
    factory: s.Factory = None,
    interpolant: s.Interpolant = None,
    prediction: s.Prediction = None,
    heads: s.Heads = None,
    device: s.Device = "auto",
    threads: s.Threads = 0,
    json: s.Json = False,
    debug: s.Debug = False,
) -> int:
    """Is the checkpoint safe to open, whole, finite, and does its time run the right way?"""
    out = s.Output(json, quiet=True)
    where, precision = s.setup(threads, device)
    opened = s.open_model(None, model, family, factory, interpolant, prediction, heads, where, precision)
    from slowflow.cards import cards
    from slowflow.data.open import open_data
    from slowflow.families.open import direction_test
    from slowflow.flow.cost import cost, size
    from slowflow.protocols import calls_of_protocols

    bundled = {c.name: c for c in cards("model")}
    data = data or (bundled[model].content["data"] if model in bundled else None)
    test = None
    if data is not None:
        test = direction_test(opened.model, open_data(data, classes=opened.model.classes))
    problems = [test.problem] if test is not None and test.problem else []
    # memory is asked for, not calls: recombine walks every path, tables included
    costs, counts = cost(opened.model, 64, "recombine"), calls_of_protocols(opened.model)
    found = {
        "ok": not problems,
        "family": opened.model.family,
        "sha256": opened.sha256,
        "parameters": sum(p.numel() for p in opened.model.net.parameters()),
        "memory": {"weights": costs.weights, "sampling_64": costs.sampling, "training_64": costs.training},
        "calls": counts,
        "shape": list(opened.model.shape),
        "settings": opened.settings,
        "part": opened.part,
        "time_direction": test and {"declared": test.declared, "flipped": test.flipped, "zero": test.zero},
        "notes": opened.notes
        if data is not None
        else [*opened.notes, "no --data given: the time direction was not tested"],
        "problems": problems,
    }
    out.say(f"  {opened.model.name}: {found['parameters']:,} parameters, states {opened.model.shape}")
    out.say(
        f"  family {opened.model.family}, path {opened.model.interpolant.name}, predicts {opened.model.prediction}, "
        f"{opened.model.classes or 'no'} classes"
    )
    out.say(f"  sha256 {opened.sha256}")
    out.say(
        f"  memory: weights {size(costs.weights)}; 64 at once {size(costs.sampling)} to sample unguided, "
        f"{size(costs.training)} to train"
    )
    named = ", ".join(f"{name} {calls}" for name, calls in counts.items())
    out.say(
        f"  network calls a sample, guidance included: {named}"
        if named
        else "  network calls a sample: 1 a step with a first-order sampler, 2 with heun"
        + ("; guidance doubles them" if opened.model.null is not None else "")
    )
    if test:
        out.say(
            f"  loss on genuine states: {test.declared:.3f} at the declared time, {test.flipped:.3f} flipped, "
            f"{test.zero:.3f} for answering zero"
        )
    for text in found["notes"]:
        if text != s.TAKEN_WHOLE:
            out.say(f"  note: {text}")
    for text in problems:
        out.say(f"  PROBLEM: {text}")
    out.say("  ok" if not problems else "  not ok")
    out.answer(found)
    return 0 if not problems else 1
