"""Small results to show: three arms measured and evaluated, and results that lack one half."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slowflow.data.images import ImageSet
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.results import Arm, RunResult

ARMS = [
    (Arm("base", "base", "base"), 0.85),
    (Arm("plain", "plain, 100 steps", "plain", steps=100), 0.9),
    (Arm("mixflow", "MixFlow 0.40, 100 steps", "mixflow", gamma=0.4, steps=100), 1.0),
]


@pytest.fixture(scope="session")
def result(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> RunResult:
    """Three arms; MixFlow is the exact model, so every sentence about it is known."""
    folder = tmp_path_factory.mktemp("result")
    probe = Probe(samples=60, steps=(8,), shard=60)
    measured, evaluated = {}, {}
    for arm, factor in ARMS:
        model = tiny_model(factor, name="tiny waves")
        measured[arm.name] = measure(model, images, probe, folder / f"measure-{arm.name}", heldout=0.5)
        evaluated[arm.name] = evaluate(
            model,
            images,
            Features("FD-pixels"),
            Sampling(samples=60, steps=(4, 8)),
            folder / f"evaluate-{arm.name}",
            heldout=0.5,
        )
    check = {"declared": 0.5, "flipped": 1.5, "zero": 2.0}
    return RunResult(folder, [arm for arm, _ in ARMS], measured, evaluated, check)


@pytest.fixture(scope="session")
def measured_only(result: RunResult) -> RunResult:
    """One measurement, nothing else."""
    return RunResult.load(result.path / "measure-base")


@pytest.fixture(scope="session")
def evaluated_only(result: RunResult) -> RunResult:
    """One evaluation, nothing else."""
    return RunResult.load(result.path / "evaluate-base")
