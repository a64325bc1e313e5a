"""status: what a run folder is up to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from slowflow_cli import shared as s


def status(
    run: Annotated[list[Path], typer.Argument(help="A run folder, or several; FILE.npz for samples.")],
    json: s.Json = False,
    debug: s.Debug = False,
) -> int:
    """Finished, running, unfinished or stale: progress, who is at work, remaining time, problems. Changes nothing."""
    output = s.Output(json, quiet=True)
    from dataclasses import asdict

    from slowflow.io.status import status as look

    found = [look(path) for path in run]
    for one in found:
        _say(output, one, "")
    answers = [asdict(one) for one in found]
    output.answer(answers[0] if len(answers) == 1 else answers)
    return 0 if all(one.sound or one.state == "stale" for one in found) else 1


def _say(output: s.Output, one: Any, indent: str, parent: str = "", width: int = 0) -> None:
    """A folder in a line, its stages under it by their names within it."""
    from slowflow.io.status import ago

    parts = [f"{one.kind}, {one.state}"]
    if one.done is not None and one.total:
        parts.append(
            f"{one.done:,} of {one.total:,} ({one.done / one.total:.0%})" + (f", {one.note}" if one.note else "")
        )
    if one.left is not None:
        parts.append(f"{ago(one.left)} left")
    if one.holder is not None and one.state == "running":
        seen = "" if one.silence is None else f", last seen {ago(one.silence)} ago"
        parts.append(f"{one.holder}{seen}")
    parts.append(f"{one.files} files, {_size(one.bytes)}")
    name = one.path.removeprefix(f"{parent}/") if parent else f"{one.path}:"
    output.say(f"{indent}{name:<{width}}  " + "; ".join(parts))
    for text in one.problems:
        output.say(f"{indent}  PROBLEM  {text}")
    if one.command is not None and one.state == "stale":
        output.say(f"{indent}  to go on: {one.command}")
    longest = max((len(stage.path.removeprefix(f"{one.path}/")) for stage in one.stages), default=0)
    for stage in one.stages:
        _say(output, stage, indent + "  ", one.path, longest)


def _size(count: int) -> str:
    """Bytes for people; --json has them all."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
