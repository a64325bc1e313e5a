"""A run folder: one configuration, one result, resumable.

    config.json      written first; the same command must bring the same configuration
    ...              shards, states, tables
    running.json     only while somebody is at work: who, and how far
    manifest.json    written last; a run is finished if and only if it exists and its hashes hold

The same command on an unfinished folder resumes; on a finished one it returns at once; another configuration on the
same folder is refused with the differing fields, and so is a second process while the first is at work.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from slowflow import rng
from slowflow.config import canonical, differences, digest
from slowflow.errors import ConfigMismatchError, EnvironmentProblem, InputError
from slowflow.io import atomic, holder, ranks
from slowflow.memory import Watch

SCHEMA = 1
SHARDED = ("", "shards/", "features/", "parts/")
"""Where the files of a run lie that are made again when they are damaged."""
KEPT = ("state.safetensors",)
"""Not made again in silence: hours of training may stand behind it, and opening it says that it is damaged."""
Progress = Callable[[int, int, str], None]
PACKAGES = ("slowflow", "torch", "numpy", "scipy", "pandas", "faiss-cpu", "faiss-gpu")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Versions a number may depend on, and what noise they draw; machine names and paths are left out on purpose."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    found["noise"] = rng.fingerprint()
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text, and numbers without end
        raise InputError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


class RunFolder:
    """A folder with one run in it.

    Args:
        path: the folder; created when missing.
        kind: what was run: `measure`, `train`, `evaluate`, ...
        config: everything the result depends on, as plain values or dataclasses.

    Raises:
        ConfigMismatchError: the folder holds a run of another kind or configuration.
        InputError: the path exists and is not a run folder.
        EnvironmentProblem: another process is at work here, or the folder cannot be written.
    """

    def __init__(self, path: str | Path, kind: str, config: Any) -> None:
        self.path = Path(path)
        self.kind = kind
        self.config = {"schema": SCHEMA, "kind": kind, "config": canonical(config)}
        self._hold: holder.Hold | None = None
        self._memory = Watch()
        here = ranks.current()
        if here.leads:
            self._open(shared=here.array)
        here.meet()  # the first one makes the folder and clears it of leftovers before any other writes into it
        if not here.leads:
            self._refuse_another()

    def _open(self, *, shared: bool) -> None:
        """Take the folder; the first of joined ranks does so for all of them, and tasks of an array share it."""
        self._refuse_another()
        if self.finished:
            holder.sweep(self.path)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        self._hold = holder.hold(self.path, shared=shared)
        self._refuse_another()  # two may have begun at once
        if not (self.path / "config.json").exists():
            atomic.write_json(self.path / "config.json", self.config)
        if not shared:  # nobody else may be writing, or merging
            self._drop_damaged()
            for leftover in self.path.rglob(".*.part"):
                leftover.unlink(missing_ok=True)

    def _refuse_another(self) -> None:
        """Refuse a folder of another kind or configuration, or of somebody else's files; nothing is changed."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --out needs a folder")
        stored = self.path / "config.json"
        if not stored.exists():
            inside = self.path.exists() and any(
                p for p in self.path.iterdir() if not p.name.endswith(".part") and p.name != holder.FILE
            )
            # looked for again: another task of an array may have written it just now
            if inside and not stored.exists():
                raise ConfigMismatchError(f"{self.path} is not empty and holds no SlowFlow run; choose another folder")
            if not inside:
                return
        before = read_json(stored)
        if isinstance(before, dict) and before.get("kind") != self.kind:
            raise ConfigMismatchError(
                f"{self.path} holds a '{before.get('kind')}' run, not a '{self.kind}' run; choose another folder"
            )
        lines = differences(before, self.config)
        if lines:
            shown = "; ".join(lines[:8])
            raise ConfigMismatchError(
                f"{self.path} holds a run with another configuration ({shown}); choose another folder or repeat the old command"
            )

    def _drop_damaged(self) -> None:
        """Damaged files go, so that they are made again: of a finished run by its manifest, shards by their own hash."""
        manifest = self.path / "manifest.json"
        if manifest.exists():
            damaged = verify(self.path)
            if damaged:
                manifest.unlink()
            for name in damaged:
                (self.path / name).unlink(missing_ok=True)
        else:
            shards = [p for folder in SHARDED for p in sorted(self.path.glob(f"{folder}*.safetensors"))]
            if shards:
                from slowflow.io import checkpoint

                for shard in shards:
                    if shard.name not in KEPT and not checkpoint.intact(shard):
                        shard.unlink()

    def reopen(self) -> None:
        """Take a finished folder, which nobody holds, for a run that more is added to.

        Raises:
            EnvironmentProblem: somebody else is adding to it.
        """
        here = ranks.current()
        if here.leads and self._hold is None:
            self._hold = holder.hold(self.path, shared=here.array)

    def watched(self, progress: Progress | None) -> Progress:
        """`progress` that is also this run's heartbeat; None is a heartbeat alone."""

        def both(done: int, total: int, note: str) -> None:
            if self._hold is not None:
                self._hold.report(done, total, note)
            if progress is not None:
                progress(done, total, note)

        return both

    @property
    def finished(self) -> bool:
        """True when the manifest is there and every file it names has its recorded hash."""
        return (self.path / "manifest.json").exists() and not verify(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return read_manifest(self.path)

    def finish(self, files: list[str], result: Any) -> None:
        """Write the manifest: hashes of `files` (relative names), the result in plain values, the environment.

        Raises:
            EnvironmentProblem: it cannot be written, or reads back otherwise; then the run is not finished.
        """
        content = {
            "schema": SCHEMA,
            "kind": self.kind,
            "config": self.config["config"],
            "config_sha256": digest(self.config["config"]),
            "files": {name: file_sha256(self.path / name) for name in sorted(files)},
            "result": canonical(result),
            "environment": environment(),
        }
        if self._memory.fitted is not None:  # beside the result, which is that of never having run out of memory
            content["fitted_batch"] = self._memory.fitted
        plain = json.loads(json.dumps(content))
        sealed = {**plain, "seal": digest(plain)}
        manifest = self.path / "manifest.json"
        atomic.write_json(manifest, sealed)
        if read_json(manifest) != sealed:
            manifest.unlink(missing_ok=True)
            raise EnvironmentProblem(f"{manifest} reads back otherwise than it was written; the disk cannot be trusted")
        (self.path / ranks.CLAIM).unlink(missing_ok=True)
        if self._hold is not None:
            self._hold.release()


def read_manifest(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a finished run folder.

    Raises:
        InputError: not a run folder, unfinished, of another kind, or written by a newer SlowFlow.
    """
    path = Path(path)
    if not (path / "manifest.json").exists():
        state = "is unfinished; repeat the command that made it" if (path / "config.json").exists() else "is not a run"
        raise InputError(f"{path} {state}" if path.exists() else f"no such run folder: {path}")
    manifest: dict[str, Any] = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise InputError(f"{path / 'manifest.json'} is not a manifest: it holds a {type(manifest).__name__}")
    if manifest.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {manifest.get('schema')!r}; this SlowFlow reads {SCHEMA}")
    if kind is not None and manifest.get("kind") != kind:
        raise InputError(f"{path} holds a '{manifest.get('kind')}' run, expected '{kind}'")
    # the first manifests carry no seal
    if "seal" in manifest and manifest["seal"] != digest({k: v for k, v in manifest.items() if k != "seal"}):
        raise InputError(f"{path / 'manifest.json'} was changed after it was written; it cannot be trusted")
    return manifest


def whole_manifest(path: str | Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished run whose files all have their recorded hash; `kind` is also the verb that mends it.

    Raises:
        InputError: as `read_manifest`, or a file is missing or damaged.
    """
    manifest = read_manifest(path, kind)
    damaged = verify(path)
    if damaged:
        raise InputError(f"{path}: '{damaged[0]}' is missing or damaged (its hash differs); {kind} again")
    return manifest


def verify(path: str | Path) -> list[str]:
    """Names of files that are missing or differ from the hash in the manifest; empty when all is well."""
    path = Path(path)
    manifest = read_json(path / "manifest.json")
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(sha, str) for sha in files.values()):
        raise InputError(f"{path / 'manifest.json'} is not a manifest: it does not list its files")
    root = path.resolve()
    # links count: whoever made the folder may have put one in it that leads elsewhere
    outside = [name for name in files if "\0" in name or not (path / name).resolve().is_relative_to(root)]
    if outside:
        raise InputError(
            f"{path}: the manifest names '{outside[0]}', which lies outside the run folder; it is not ours"
        )
    return [name for name, sha in files.items() if not (path / name).is_file() or file_sha256(path / name) != sha]
