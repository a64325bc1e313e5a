"""What a run folder is up to, read without touching it: finished, running, unfinished or stale.

finished     the manifest is there and every file has its recorded hash
running      a process holds the folder
unfinished   nobody does; the same command goes on
stale        as unfinished, but its process ended without a word (killed, or its machine is gone)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slowflow.errors import InputError
from slowflow.io import holder
from slowflow.io.run import read_json, read_manifest, verify

HUNG = 1800.0
"""Seconds without progress after which a run that still lives is worth a look."""
TRAINED = "state.safetensors"


@dataclass(frozen=True)
class Status:
    """One run.

    Args:
        path: the folder.
        kind: measure, evaluate, posttrain, run, ...
        state: finished, running, unfinished or stale.
        done, total, note: progress as last reported; of a training run at rest the saved step and all steps.
        left: seconds that remain, of a running one.
        holder: who is at work, or was when it vanished.
        silence: seconds since its last sign of life.
        files, bytes: what is written.
        command: that goes on, where it is known.
        problems: sentences.
        stages: runs inside this one.
    """

    path: str
    kind: str
    state: str
    done: int | None = None
    total: int | None = None
    note: str = ""
    left: float | None = None
    holder: str | None = None
    silence: float | None = None
    files: int = 0
    bytes: int = 0
    command: str | None = None
    problems: tuple[str, ...] = ()
    stages: tuple[Status, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """No problem here or in a stage."""
        return not self.problems and all(stage.sound for stage in self.stages)


def status(path: str | Path) -> Status:
    """What the run in `path` is up to; a FILE.npz of `sample` stands for its own folder of parts.

    Raises:
        InputError: no such folder, or it holds no run.
    """
    path = Path(path)
    if path.suffix == ".npz":
        parts = path.with_name(path.name + ".parts")
        if not parts.is_dir():
            return _of_samples(path)
        path = parts
    if not path.exists():
        raise InputError(f"no such run folder: {path}")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} holds no run of SlowFlow (no config.json)")
    return _of_folder(path)


def _of_samples(path: Path) -> Status:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    stamp = path.with_name(path.name + ".json")
    problems = () if stamp.is_file() else (f"{stamp.name} is missing, so nobody knows how these samples were made",)
    return Status(str(path), "sample", "finished", files=1, bytes=path.stat().st_size, problems=problems)


def _of_folder(path: Path) -> Status:
    config = read_json(path / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        raise InputError(f"{path / 'config.json'} is not one of SlowFlow's")
    stages = tuple(_of_folder(p.parent) for p in sorted(path.glob("*/config.json")))
    written = [p for p in path.rglob("*") if p.is_file() and p.name != holder.FILE and not p.name.endswith(".part")]
    size = sum(p.stat().st_size for p in written)
    common: dict[str, Any] = {"files": len(written), "bytes": size, "stages": stages}
    problems: list[str] = []
    if (path / "manifest.json").exists():
        damaged = _damaged(path, problems)
        if not damaged and not problems:
            return Status(str(path), config["kind"], "finished", **common)
        problems += [f"'{name}' is missing or damaged; the same command makes it again" for name in damaged]
    here = holder.look(path)
    if here is None:
        done, total = _trained(path, config)
        return Status(str(path), config["kind"], "unfinished", done, total, problems=tuple(problems), **common)
    record, state = here.record, "running" if here.alive else "stale"
    if here.alive and here.silence > HUNG:
        problems.append(f"{here.who} has reported nothing for {here.silence / 60:.0f} minutes; it may hang")
    if not here.alive:
        problems.append(f"{here.who} ended without a word; the same command goes on where it was")
    left = _number(record.get("left"))
    return Status(
        str(path),
        config["kind"],
        state,
        _whole(record.get("done")),
        _whole(record.get("total")),
        str(record.get("note", "")),
        None if left is None or not here.alive else max(left - here.silence, 0.0),
        here.who,
        here.silence if here.silence < float("inf") else None,
        command=str(record["command"]) if "command" in record else None,
        problems=tuple(problems),
        **common,
    )


def _damaged(path: Path, problems: list[str]) -> list[str]:
    try:
        read_manifest(path)
        return verify(path)
    except InputError as error:
        problems.append(str(error))
        return []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _trained(path: Path, config: dict[str, Any]) -> tuple[int | None, int | None]:
    """Saved step and all steps of a training run; read from the file's header alone, which needs no torch."""
    settings = config.get("config")
    for key in ("recipe", "train"):
        settings = settings.get(key, settings) if isinstance(settings, dict) else None
    total = _whole(settings.get("steps")) if isinstance(settings, dict) else None
    try:
        with open(path / TRAINED, "rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 2**24)))
        return _whole(json.loads(header["__metadata__"]["slowflow"])["step"]), total
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, total


def ago(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
