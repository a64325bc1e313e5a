"""run: check, measure, suggest, post-train with a control arm, measure again, evaluate, report. One folder, resumable.

    out/measure-<arm>/    out/posttrain-<arm>/    out/evaluate-<arm>/    out/report.html    out/manifest.json

Every stage is a run folder of its own and is skipped when finished, so a run that was stopped at any moment is
finished by the same command. Every arm has the same seeds, steps, averaging and n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from slowflow.cards import card
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features, open_features
from slowflow.families.base import Opened
from slowflow.families.open import direction_test, identity, open_model
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, ranks
from slowflow.io.run import RunFolder, verify
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.records import Probe
from slowflow.reporting.render import render
from slowflow.results import Arm, RunResult, answer, collect
from slowflow.train.loop import TrainConfig
from slowflow.train.post import make_remedy, post_train

Progress = Callable[[str, int, int, str], None]
LONG = "long"


@dataclass(frozen=True)
class RunConfig:
    """Settings of a whole run.

    Args:
        probe: what is measured, on every arm.
        sampling: how samples for the evaluation are made.
        features: what the Frechet distance is measured in.
        train: settings of the live post-training arms.
        gamma: width of MixFlow's interval; None takes the measured one (`auto`).
        heldout: share of each class that is held out.
        descendants: also compare the bundled long post-trainings of this card.
    """

    probe: Probe = field(default_factory=Probe)
    sampling: Sampling = field(default_factory=Sampling)
    features: str = "fd-mnist"
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1000))
    gamma: float | None = None
    heldout: float = 0.2
    descendants: bool = False

    def __post_init__(self) -> None:
        make_remedy("mixflow", 0.0 if self.gamma is None else self.gamma)  # a gamma out of range is refused at once


def run(
    opened: Opened,
    spec: str,
    data: ImageSet,
    config: RunConfig,
    out: str | Path,
    *,
    asked: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """The whole loop on one model; returns the finished run (report included).

    Args:
        opened: the model to look at.
        spec: what it was asked for by.
        data: real images.
        config: settings.
        out: run folder.
        asked: how model and data were asked for, so that `diagnose` can open them again.
        progress: called with (stage, done, total, note).

    Raises:
        InputError: the model fails its check on this data, or any stage refuses its input.
    """
    identified = identity(opened.model)
    features = open_features(config.features, opened.model.shape, device=opened.model.device)
    folder = RunFolder(
        out, "run", {"model": identified, "data": {"name": data.name, "sha256": data.fingerprint}, "run": config}
    )
    if folder.finished and not _damaged_stages(folder.path):
        return RunResult.load(folder.path)
    check = _check(opened.model, data)
    held = len(data.split(config.heldout)[1])
    config = replace(config, sampling=replace(config.sampling, samples=min(config.sampling.samples, held)))
    beat = folder.watched(None)
    loop = _Loop(opened.model, identified, data, features, config, folder.path, progress, asked, beat)
    base = Arm("base", "before", "base")
    fit = loop.look(base, opened.model, identified).suggest()
    gamma = fit.gamma if config.gamma is None else config.gamma
    arms = [base]
    for arm, model, model_id in _descendants(spec) if config.descendants else []:
        loop.look(arm, model, model_id)
        arms.append(arm)
    arms += [loop.post_train("plain", None), loop.post_train("mixflow", gamma)]
    result = {"arms": [asdict(arm) for arm in arms], "check": check, "gamma": gamma}
    here = ranks.current()
    if here.leads:
        finished = collect(folder.path, result)
        atomic.write_text(folder.path / "report.html", render(finished))
        folder.finish(["report.html"], {**result, "answer": answer(finished)})
    here.meet()
    return RunResult.load(folder.path)


def _damaged_stages(path: Path) -> list[str]:
    """Stages with a missing or altered file; repeating the run makes those files again."""
    return [stage.parent.name for stage in sorted(path.glob("*/manifest.json")) if verify(stage.parent)]


@dataclass(frozen=True)
class _Loop:
    """What the stages of one run share."""

    model: FlowModel
    model_id: dict[str, Any]
    data: ImageSet
    features: Features
    config: RunConfig
    path: Path
    progress: Progress | None
    asked: dict[str, Any] | None
    beat: Callable[[int, int, str], None]

    def _report(self, stage: str) -> Callable[[int, int, str], None]:
        def report(done: int, total: int, note: str) -> None:
            self.beat(done, total, f"{stage}: {note}")
            if self.progress is not None:
                self.progress(stage, done, total, note)

        return report

    def look(self, arm: Arm, model: FlowModel, model_id: dict[str, Any]) -> Measurement:
        """Measure and evaluate one arm."""
        shared: dict[str, Any] = {"heldout": self.config.heldout, "model_id": model_id}
        found = measure(
            model,
            self.data,
            self.config.probe,
            self.path / f"measure-{arm.name}",
            nulls_from=None if arm.role == "base" else self.path / "measure-base",
            reopen=self.asked if arm.role == "base" else None,
            progress=self._report(f"measure {arm.title}"),
            **shared,
        )
        evaluate(
            model,
            self.data,
            self.features,
            self.config.sampling,
            self.path / f"evaluate-{arm.name}",
            known=_known(found, self.config),
            progress=self._report(f"evaluate {arm.title}"),
            **shared,
        )
        return found

    def post_train(self, role: str, gamma: float | None) -> Arm:
        """Post-train one live arm and look at it."""
        steps = self.config.train.steps
        arm = Arm(role, f"{_titled(role, gamma)}, {steps:,} steps", role, gamma, steps)
        trained = post_train(
            self.model,
            self.data,
            make_remedy(role, gamma),
            self.config.train,
            self.path / f"posttrain-{role}",
            heldout=self.config.heldout,
            model_id=self.model_id,
            progress=self._report(f"post-train {arm.title}"),
        )
        self.look(arm, trained, {**self.model_id, "posttrained": role, "gamma": gamma, "steps": steps})
        return arm


def _titled(role: str, gamma: float | None) -> str:
    return f"MixFlow, gamma {gamma:.2f}" if role == "mixflow" else "plain"


def _check(model: FlowModel, data: ImageSet) -> dict[str, Any]:
    """Refuse a model whose conventions do not fit this data."""
    test = direction_test(model, data)
    if test.problem:
        raise InputError(test.problem)
    return asdict(test)


def _known(found: Measurement, config: RunConfig) -> dict[int, Any]:
    """Samples the measurement has already made under the evaluation's protocol."""
    probe, sampling = config.probe, config.sampling
    same = (probe.sampler, probe.guidance, probe.seed, probe.shift) == (
        sampling.sampler,
        sampling.guidance,
        sampling.seed,
        sampling.shift,
    )
    if not same or probe.samples < sampling.samples:
        return {}
    return {steps: found.array("final", steps=steps) for steps in probe.grids if steps in sampling.steps}


def _descendants(spec: str) -> list[tuple[Arm, FlowModel, dict[str, Any]]]:
    """The bundled long post-trainings of a bundled model."""
    found = []
    for role, name in card(spec, "model").content.get("descendants", {}).items():
        bundled = open_model(name)
        provenance = card(name, "model").content["provenance"]
        gamma, steps = provenance["remedy"].get("gamma"), int(provenance["train"]["steps"])
        arm = Arm(f"{role}-{LONG}", f"{_titled(role, gamma)}, {steps:,} steps", role, gamma, steps)
        found.append((arm, bundled.model, identity(bundled.model)))
    return found
