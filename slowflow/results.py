"""Results side by side: the arms of a run, or any measurements and evaluations, in one object that figures read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation
from slowflow.io.run import read_manifest
from slowflow.measuring import gamma as gammas
from slowflow.measuring.measurement import Measurement
from slowflow.records import Estimate, GammaFit


@dataclass(frozen=True)
class Arm:
    """One model of the comparison.

    Args:
        name: base, plain, mixflow; descendants carry `(long)`.
        title: said in reports, with length and gamma.
        role: base, plain or mixflow.
        gamma: of a MixFlow arm.
        steps: post-training steps.
    """

    name: str
    title: str
    role: str
    gamma: float | None = None
    steps: int = 0


@dataclass(frozen=True)
class RunResult:
    """Measurements and evaluations by arm; the first arm is what the others are compared with.

    Args:
        path: the run folder, or the folder of the first result.
        arms: in the order they are shown.
        measurements, evaluations: by arm name; either may lack an arm.
        check: the losses of the time-direction check.
    """

    path: Path
    arms: list[Arm]
    measurements: dict[str, Measurement]
    evaluations: dict[str, Evaluation]
    check: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, *paths: str | Path) -> RunResult:
        """Open one finished run folder, or any number of measurements and evaluations.

        Raises:
            InputError: nothing given, an unfinished folder, or one that holds neither.
        """
        if not paths:
            raise InputError("no run folder was given")
        first = Path(paths[0])
        if len(paths) == 1 and read_manifest(first)["kind"] == "run":
            return collect(first, read_manifest(first, "run")["result"])
        arms: dict[str, Arm] = {}
        measurements: dict[str, Measurement] = {}
        evaluations: dict[str, Evaluation] = {}
        for path in map(Path, paths):
            manifest = read_manifest(path)
            kind, name = manifest["kind"], _free_name(path.resolve(), manifest, measurements, evaluations)
            arms.setdefault(name, Arm(name, name, "base" if not arms else "other"))
            if kind == "measure":
                measurements[name] = Measurement.load(path)
            elif kind == "evaluate":
                evaluations[name] = Evaluation.load(path)
            else:
                raise InputError(
                    f"{path} holds a '{kind}' run; measurements, evaluations or one whole run can be shown"
                )
        _refuse_unlike(list(evaluations.values()))
        return cls(first, list(arms.values()), measurements, evaluations)

    @property
    def base(self) -> Arm:
        """The arm the others are compared with."""
        return self.arms[0]

    @property
    def measured(self) -> Measurement:
        """The measurement the page speaks of: that of the first arm that has one.

        Raises:
            InputError: no arm was measured.
        """
        for arm in self.arms:
            if arm.name in self.measurements:
                return self.measurements[arm.name]
        raise InputError(f"{self.path} holds no measurement")

    @property
    def fit(self) -> GammaFit:
        """gamma of that measurement."""
        return self.measured.suggest()


def _refuse_unlike(evaluations: list[Evaluation]) -> None:
    """Evaluations on one page must have one protocol; step counts and models may differ."""
    for other in evaluations[1:]:
        mine, theirs = (one.protocol(one.steps[0]) for one in (evaluations[0], other))
        unlike = [key for key in mine if key not in ("model", "steps", "nfe") and mine[key] != theirs[key]]
        if unlike:
            raise InputError(
                f"{evaluations[0].path} and {other.path} differ in {unlike[0]}: {mine[unlike[0]]} and {theirs[unlike[0]]}"
            )


def _free_name(
    path: Path, manifest: dict[str, Any], measurements: dict[str, Measurement], evaluations: dict[str, Evaluation]
) -> str:
    """The folder's name, lengthened by its parents until it neither hides another result nor joins another model's."""
    own, others = (measurements, evaluations) if manifest["kind"] == "measure" else (evaluations, measurements)
    name, parent = path.name, path.parent
    while name in own or (name in others and others[name].config["model"] != manifest["config"]["model"]):
        name, parent = f"{parent.name or '.'}/{name}", parent.parent
    return name


def collect(path: Path, result: dict[str, Any]) -> RunResult:
    """The arms of a run folder whose stages are finished."""
    arms = [Arm(**arm) for arm in result["arms"]]
    measurements = {arm.name: Measurement.load(path / f"measure-{arm.name}") for arm in arms}
    evaluations = {arm.name: Evaluation.load(path / f"evaluate-{arm.name}") for arm in arms}
    return RunResult(path, arms, measurements, evaluations, result["check"])


def lag_change(before: Measurement, after: Measurement) -> Estimate:
    """How the lag of one model differs from another's, in units of gamma, paired by sample id; negative = smaller lag."""
    kinds = before.slack(before.main_reference)
    null = kinds.get("genuine", kinds["model"])
    changed = after.slack(before.main_reference)["model"]
    return gammas.change(kinds["model"], changed, null, int(before.config["probe"]["seed"]))


def answer(result: RunResult) -> dict[str, Any]:
    """The machine-readable answer of `slowflow run --json`."""
    base = result.measured
    return {
        "check": result.check,
        "measure": base.result(),
        "suggest": canonical(result.fit),
        "posttrain": [asdict(arm) for arm in result.arms if arm.role != "base"],
        "remeasure": {
            arm.name: {
                "verdict": result.measurements[arm.name].suggest().verdict,
                "estimates": canonical(result.measurements[arm.name].suggest().estimates),
                "lag_change_from_base": canonical(lag_change(result.measured, result.measurements[arm.name])),
            }
            for arm in result.arms
            if arm.role != "base"
        },
        "evaluate": {arm.name: result.evaluations[arm.name].result() for arm in result.arms},
        "report": "report.html",
    }
