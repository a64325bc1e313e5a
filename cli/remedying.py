"""--remedy, --set, --preset, --fit-from: what `sample`, `measure` and `evaluate` correct sampling with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s

from slowflow.errors import InputError

Remedy = Annotated[str | None, typer.Option("--remedy", help="Correct sampling with this (slowflow ls remedies).")]
Settings = Annotated[list[str], typer.Option("--set", help="key=value, a setting of the remedy; repeatable.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Its published constants (slowflow ls presets).")]
FitFrom = Annotated[
    Path | None, typer.Option("--fit-from", help="A measurement of this model that its constants are fitted to.")
]


def chosen(
    output: s.Output,
    model: Any,
    name: str | None,
    settings: Sequence[str],
    preset: str | None,
    fit_from: Path | None,
    steps: Sequence[int],
) -> Any:
    """The sampling remedy that was asked for, None when none was; what was fitted is said.

    Raises:
        InputError: settings without a remedy, a preset beside a fit, an unknown name, or a run of another model.
    """
    if name is None:
        given = [o for o, v in (("--set", settings), ("--preset", preset), ("--fit-from", fit_from)) if v]
        if given:
            raise InputError(f"{given[0]} belongs to a remedy; name one with --remedy (slowflow ls remedies)")
        return None
    from slowflow.remedies import REMEDIES
    from slowflow.remedies.sampling import SAMPLING_REMEDIES, make
    from slowflow.remedies.sampling.presets import preset as find

    if name in REMEDIES.names() and name not in SAMPLING_REMEDIES.names():
        raise InputError(f"'{name}' is a training remedy: slowflow posttrain --remedy {name}")
    SAMPLING_REMEDIES.get(name)
    if preset is not None and fit_from is not None:
        raise InputError("--preset and --fit-from both decide the constants; take one of them")
    values = dict(map(_parsed, settings))
    if fit_from is not None:
        return _fitted(output, model, name, values, fit_from, steps)
    published = None if preset is None else find(name, preset)
    if published is not None:
        output.say(f"preset {preset}: {published.note} [{published.source}]")
    remedy = make(name, {**(published.settings if published else {}), **values})
    if not remedy.active:
        output.say(f"note: '{name}' with these settings changes nothing; see --set, --preset and --fit-from")
    return remedy


def _fitted(output: s.Output, model: Any, name: str, values: dict[str, Any], run: Path, steps: Sequence[int]) -> Any:
    from slowflow.data.open import open_data
    from slowflow.fitting import findings
    from slowflow.remedies.sampling import fitted
    from slowflow.results import RunResult

    measured = RunResult.load(run).measured
    at = steps[0] if steps[0] in measured.steps else measured.steps[0]
    other = [count for count in steps if count != at]
    if other:
        output.say(f"note: the constants are fitted at {at} steps and used at {', '.join(map(str, other))} as well")
    found = findings(measured, model, open_data(measured.asked()["data"], classes=model.classes), at)
    fit = fitted(name, found, values)
    output.say(f"fitted '{name}' to {run}: {fit.reason}" + ("" if fit.called_for else "; sampling stays as it is"))
    return fit.remedy


def _parsed(text: str) -> tuple[str, Any]:
    """A setting; a dash in its name stands for an underscore."""
    key, value = s.setting(text, "key=value")
    return key.replace("-", "_"), value
