"""A study folder read back: the numbers of every finished cell, also while the study is still running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slowflow.errors import InputError
from slowflow.io.run import read_json, read_manifest, verify

DRAWS = "draws.npz"
COLUMNS = (
    "arm", "group", "gamma", "seed", "length", "budget", "steps", "nfe", "metric", "value", "low", "high", "n",
)  # fmt: skip
BASE, CONTROL, SWEPT = "base", "plain", "mixflow"
"""The arm without training, that of ordinary training of the same length (no correction), and the group swept over gamma."""


def cell_folder(study: str | Path, arm: str, seed: int) -> Path:
    """Folder of one arm under one seed."""
    return Path(study) / "arms" / f"{arm}-seed{seed}"


def draw_key(metric: str, length: int, budget: int) -> str:
    """Name of the bootstrap draws of one number."""
    return f"{metric}-{length:07d}-{budget:05d}"


@dataclass(frozen=True)
class StudyResult:
    """Everything a study has found so far.

    Args:
        path: its folder.
        protocol: what every arm shares, in plain values.
        cells: results of the finished cells, in running order where the study recorded it.
        identity: hashes of the base, the data and the features.
    """

    path: Path
    protocol: dict[str, Any]
    cells: list[dict[str, Any]]
    identity: dict[str, Any] = field(default_factory=dict)
    _draws: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> StudyResult:
        """Open a study's folder, finished or not.

        Raises:
            InputError: not a study, or no cell of it is finished.
        """
        path = Path(path)
        if not is_study(path):
            raise InputError(f"{path} holds no study")
        names = [cell_folder(path, arm, seed) for arm, seed in _plan(path)]
        more = sorted(p.parent for p in path.glob("arms/*/manifest.json") if p.parent not in names)
        found = [_whole(p, path) for p in [*names, *more] if (p / "manifest.json").exists()]
        if not found:
            raise InputError(f"no arm of the study {path} is finished yet; repeat the command that made it")
        shared = {key: found[0]["config"][key] for key in ("model", "data_sha256", "features_sha256")}
        return cls(path, read_json(path / "config.json")["config"], [one["result"] for one in found], shared)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Long form, one number a row: arm, group, gamma, seed, length, budget, steps, nfe, metric, value, low, high, n.

        `budget` is the study's step count; an arm with another sampler takes the `steps` that cost no more calls (`nfe`).
        Intervals are over samples, within one seed.
        """
        rows = [
            {**{key: cell[key] for key in ("arm", "group", "gamma", "seed")}, **row}
            for cell in self.cells
            for row in cell["rows"]
        ]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"gamma": float})

    @cached_property
    def lags(self) -> pd.DataFrame:
        """One estimate of the lag a row: arm, group, gamma, seed, length, reading, value, low, high, n, kind.

        kind is `excess` (of this arm above its nulls) or `change` (against the base, paired by sample id), both in units
        of gamma.
        """
        rows = []
        for cell in self.cells:
            lag = cell["lag"]
            about = {key: cell[key] for key in ("arm", "group", "gamma", "seed")} | {"length": lag.get("length")}
            for kind, found in (("excess", lag.get("estimates", {})), ("change", lag.get("change", {}))):
                rows += [{**about, "kind": kind, "reading": name, **one} for name, one in found.items()]
        columns = ["arm", "group", "gamma", "seed", "length", "kind", "reading", "value", "low", "high", "n"]
        return pd.DataFrame(rows, columns=columns).astype({"gamma": float})

    @property
    def plan(self) -> list[tuple[str, int]]:
        """(arm, seed) of every cell the study is to have, in running order; empty where it did not say."""
        return _plan(self.path)

    @property
    def failures(self) -> pd.DataFrame:
        """Arms that diverged: arm, seed, step, message."""
        rows = [{"arm": c["arm"], "seed": c["seed"], **c["failed"]} for c in self.cells if c["failed"]]
        return pd.DataFrame(rows, columns=["arm", "seed", "step", "message"])

    @cached_property
    def arms(self) -> list[str]:
        """Names of the arms that have numbers, in order."""
        return list(dict.fromkeys(cell["arm"] for cell in self.cells if cell["rows"]))

    def once(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A copy of the table `name`, which is made at the first call: tables over all draws take seconds."""
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name].copy()

    def draws(self, arm: str, seed: int, metric: str, length: int, budget: int) -> np.ndarray:
        """Bootstrap draws of one number [resamples]; arms of one seed share samples' ids and resamples.

        Raises:
            InputError: this arm was not judged there.
        """
        if (arm, seed) not in self._draws:
            with np.load(cell_folder(self.path, arm, seed) / DRAWS, allow_pickle=False) as stored:
                self._draws[arm, seed] = {name: stored[name] for name in stored.files}
        key = draw_key(metric, length, budget)
        if key not in self._draws[arm, seed]:
            raise InputError(f"the arm '{arm}' has no {metric} at {length} steps of training and {budget} of sampling")
        return self._draws[arm, seed][key]


def _plan(study: Path) -> list[tuple[str, int]]:
    file = study / "plan.json"
    return [(str(arm), int(seed)) for arm, seed in read_json(file)] if file.exists() else []


def _whole(cell: Path, study: Path) -> dict[str, Any]:
    manifest = read_manifest(cell, "arm")
    if verify(cell):
        raise InputError(f"{cell} is damaged (a hash differs); repeat the command that made {study}")
    return manifest


def is_study(path: str | Path) -> bool:
    """True for the folder of a study."""
    file = Path(path) / "config.json"
    return file.exists() and read_json(file).get("kind") == "study"
