"""A run folder: one configuration, one result, resumable.

    config.json      written first; the same command must bring the same configuration
    ...              shards, states, tables
    manifest.json    written last; a run is finished if and only if it exists and its hashes hold

The same command on an unfinished folder resumes; on a finished one it returns at once; another configuration on the
same folder is refused with the differing fields.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from slowflow.config import canonical, differences, digest
from slowflow.errors import ConfigMismatchError, InputError
from slowflow.io import atomic

SCHEMA = 1
PACKAGES = ("slowflow", "torch", "numpy", "scipy", "pandas", "faiss-cpu", "faiss-gpu")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Versions a number may depend on; machine names and paths are left out on purpose."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


class RunFolder:
    """A folder with one run in it.

    Args:
        path: the folder; created when missing.
        kind: what was run: `measure`, `train`, `evaluate`, ...
        config: everything the result depends on, as plain values or dataclasses.
        shared: other processes write into the folder at this moment, so unfinished writes are not swept away.

    Raises:
        ConfigMismatchError: the folder holds a run of another kind or configuration.
        InputError: the path exists and is not a run folder.
    """

    def __init__(self, path: str | Path, kind: str, config: Any, *, shared: bool = False) -> None:
        self.path = Path(path)
        self.kind = kind
        self.config = {"schema": SCHEMA, "kind": kind, "config": canonical(config)}
        stored = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --out needs a folder")
        if stored.exists():
            before = read_json(stored)
            if isinstance(before, dict) and before.get("kind") != kind:
                raise ConfigMismatchError(
                    f"{self.path} holds a '{before.get('kind')}' run, not a '{kind}' run; choose another folder"
                )
            lines = differences(before, self.config)
            if lines:
                shown = "; ".join(lines[:8])
                raise ConfigMismatchError(
                    f"{self.path} holds a run with another configuration ({shown}); choose another folder or repeat the old command"
                )
        else:
            strangers = self.path.exists() and any(p for p in self.path.iterdir() if not p.name.endswith(".part"))
            if strangers and not (shared and stored.exists()):  # another process may have begun the run just now
                raise ConfigMismatchError(f"{self.path} is not empty and holds no SlowFlow run; choose another folder")
            atomic.write_json(stored, self.config)
        self._drop_damaged()
        for leftover in [] if shared else self.path.rglob(".*.part"):
            leftover.unlink(missing_ok=True)

    def _drop_damaged(self) -> None:
        """A finished run with a damaged file becomes an unfinished one without it, so that it is made again."""
        manifest = self.path / "manifest.json"
        if manifest.exists():
            damaged = verify(self.path)
            if damaged:
                manifest.unlink()
            for name in damaged:
                (self.path / name).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """True when the manifest is there and every file it names has its recorded hash."""
        return (self.path / "manifest.json").exists() and not verify(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return read_manifest(self.path)

    def finish(self, files: list[str], result: Any) -> None:
        """Write the manifest: hashes of `files` (relative names), the result in plain values, the environment."""
        atomic.write_json(
            self.path / "manifest.json",
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "config": self.config["config"],
                "config_sha256": digest(self.config["config"]),
                "files": {name: file_sha256(self.path / name) for name in sorted(files)},
                "result": canonical(result),
                "environment": environment(),
            },
        )


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
    files: dict[str, str] = read_json(path / "manifest.json").get("files", {})
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise InputError(
            f"{path}: the manifest names '{outside[0]}', which lies outside the run folder; it is not ours"
        )
    return [name for name, sha in files.items() if not (path / name).is_file() or file_sha256(path / name) != sha]
