"""Small results to show: three arms measured and evaluated, one of them diagnosed, and results that lack one half."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slowflow.data.images import ImageSet
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.flow.model import FlowModel
from slowflow.io.run import RunFolder
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.engine import measure
from slowflow.records import Estimate, Probe
from slowflow.results import Arm, RunResult

ARMS = [
    (Arm("base", "base", "base"), 0.85),
    (Arm("plain", "plain, 100 steps", "plain", steps=100), 0.9),
    (Arm("mixflow", "MixFlow 0.40, 100 steps", "mixflow", gamma=0.4, steps=100), 1.0),
]
REFERENCES = ("own", "paired", "nearest", "fresh", "level", "clocks")


def caused(found: Diagnosis, *, steps: float, local: float, accumulation: float) -> Diagnosis:
    """The same diagnosis with a lag of known parts by the signal clock, a tenth of it by the noise clock, none by level."""
    divisions = {}
    for name, scale in (("signal clock", 1.0), ("noise clock", 0.1), ("level", 0.0)):
        parts = {"steps": scale * steps, "local": scale * local, "accumulation": scale * accumulation}
        whole, half = sum(parts.values()), 0.02 * max(scale, 0.1)
        numbers = {part: Estimate(value, value - half, value + half, 60) for part, value in parts.items()}
        shares = {part: Estimate(value / whole if whole else 0.0, -0.1, 1.1, 60) for part, value in parts.items()}
        lags = {n: whole - parts["steps"] * (1 - found.counts[0] / n) for n in found.counts}
        by_steps = {n: Estimate(value, value - half, value + half, 60) for n, value in lags.items()}
        lag = by_steps[found.counts[0]]
        known = {"lag": lag, "joint": lag, "parts": numbers, "shares": shares, "by_steps": by_steps}
        divisions[name] = replace(found.divisions[name], **known)
    again = replace(found)
    again.__dict__["divisions"] = divisions  # a cached property
    return again


@pytest.fixture(scope="session")
def with_causes() -> Callable[..., Diagnosis]:
    """`caused`, for tests."""
    return caused


@pytest.fixture(scope="session")
def result(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> RunResult:
    """Three arms; MixFlow is the exact model, so every sentence about it is known. The base is diagnosed."""
    folder = tmp_path_factory.mktemp("result")
    probe = Probe(samples=60, steps=(8,), shard=60, references=REFERENCES)
    measured, evaluated = {}, {}
    for arm, factor in ARMS:
        model, first = tiny_model(factor, name="tiny waves"), folder / "measure-base"
        nulls_from = None if arm.role == "base" else first
        path = folder / f"measure-{arm.name}"
        measured[arm.name] = measure(model, images, probe, path, heldout=0.5, nulls_from=nulls_from)
        evaluated[arm.name] = evaluate(
            model,
            images,
            Features("FD-pixels"),
            Sampling(samples=60, steps=(4, 8)),
            folder / f"evaluate-{arm.name}",
            heldout=0.5,
        )
    found = measured["base"].diagnose(tiny_model(0.85, name="tiny waves"), images, steps=(8, 16, 24), samples=60)
    found = caused(found, steps=0.12, local=0.05, accumulation=0.03)
    check = {"declared": 0.5, "flipped": 1.5, "zero": 2.0}
    trainings = {arm.name: history(arm.steps) for arm, _ in ARMS if arm.steps}
    arms = [arm for arm, _ in ARMS]
    return RunResult(folder, arms, measured, evaluated, check, {"base": found}, trainings=trainings)


def history(steps: int) -> dict[str, Any]:
    """Losses that fall as 1/step."""
    losses = [[step, 1.0 / step] for step in range(1, steps + 1)]
    return {"loss": losses, "validation": [[steps // 2, 0.4], [steps, 0.3]]}


@pytest.fixture(scope="session")
def measured_only(result: RunResult) -> RunResult:
    """One measurement with its diagnosis, nothing else."""
    found = RunResult.load(result.path / "measure-base")
    known = {name: caused(one, steps=0.12, local=0.05, accumulation=0.03) for name, one in found.diagnoses.items()}
    return replace(found, diagnoses=known)


@pytest.fixture(scope="session")
def undiagnosed(result: RunResult) -> RunResult:
    """One measurement without a diagnosis."""
    return RunResult.load(result.path / "measure-plain")


@pytest.fixture(scope="session")
def plain_only(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> RunResult:
    """One small measurement without clocks, nulls, measures and diagnosis."""
    path: Path = tmp_path_factory.mktemp("plain") / "run"
    measure(tiny_model(), images, Probe(samples=20, steps=(4,), references=("own",), nulls=()), path, heldout=0.5)
    return RunResult.load(path)


@pytest.fixture(scope="session")
def evaluated_only(result: RunResult) -> RunResult:
    """One evaluation, nothing else."""
    return RunResult.load(result.path / "evaluate-base")


@pytest.fixture(scope="session")
def with_peers(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> RunResult:
    """One small measurement with the measures of the peers, in as many shards as an interval needs."""
    path = tmp_path_factory.mktemp("peers") / "run"
    probe = Probe(samples=40, steps=(4,), shard=10, references=("own",), measures=("norms", "delta", "sliced"))
    measure(tiny_model(0.85, classes=0), images, probe, path, heldout=0.5)
    return RunResult.load(path)


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory, result: RunResult) -> Path:
    """The folder of a calibration on the same data: 'level' comes back as planted, 'own' has no zero."""
    base = result.measurements["base"]
    facts = {
        "data": base.config["data"]["name"],
        "interpolant": base.facts["interpolant"],
        "shape": base.facts["shape"],
    }
    rows = [
        _control(reading, field, name, truth, truth * share + shift)
        for reading, share, shift in (("level", 0.95, 0.0), ("own", 1.0, 0.1))
        for field in ("gaussian", "finite")
        for name, truth in (("null", 0.0), ("lag 0.2", 0.2), ("lag 0.5", 0.5))
    ]
    rows += [
        {**_control(reading, "gaussian", f"{what} swap", 0.0, 0.0), "truth": None, "asked": "", "ok": None}
        for reading in ("level", "own")
        for what in ("endpoint", "noise")
    ]
    folder = RunFolder(tmp_path_factory.mktemp("calibration") / "run", "calibrate", {"data": facts["data"]})
    folder.finish([], {"facts": {**facts, "dimension": 64, "samples": 60}, "rows": rows, "references": {}})
    return folder.path


def _control(reading: str, field: str, name: str, truth: float, found: float) -> dict[str, Any]:
    """One row as `calibrate` writes it."""
    asked = "zero" if name == "null" else "lag"
    ok = abs(found - truth) <= (0.01 if name == "null" else 0.25 * truth)
    names = {"reference": reading, "reading": reading, "field": field, "control": name}
    numbers = {"truth": truth, "found": found, "low": found - 0.005, "high": found + 0.005, "error": 0.002}
    return {**names, **numbers, "n": 60, "asked": asked, "ok": ok}
