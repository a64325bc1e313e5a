"""Results side by side: the arms of a run, or any measurements and evaluations, in one object that figures read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.evaluating.evaluation import Evaluation
from slowflow.io.run import read_manifest
from slowflow.measuring import gamma as gammas
from slowflow.measuring.calibration.calibration import Calibration
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.estimators import Curves, Draws, mean_curves
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.slack import Reading
from slowflow.measuring.straight import straightened
from slowflow.records import Estimate, GammaFit
from slowflow.sweep.folder import StudyResult, is_study

TRAININGS = ("posttrain", "pretrain")
BESIDE = ("diagnose", "calibrate")
"""Kinds of runs that stand beside measurements and are no arms themselves."""


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
        measurements, evaluations, diagnoses: by arm name; each may lack an arm.
        check: the losses of the time-direction check.
        calibrations: of the instrument on data like these.
        study: many arms under one protocol; then nothing else is there.
        trainings: by arm name, `loss` and `validation` as lists of (step, value).
    """

    path: Path
    arms: list[Arm]
    measurements: dict[str, Measurement]
    evaluations: dict[str, Evaluation]
    check: dict[str, Any] = field(default_factory=dict)
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    calibrations: list[Calibration] = field(default_factory=list)
    study: StudyResult | None = None
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, *paths: str | Path) -> RunResult:
        """Open one finished run folder, a study (finished or not), or measurements, evaluations, diagnoses, calibrations.

        A diagnosis inside a measurement's folder is found by itself; one that is given goes to the measurement that it
        is of, or stands alone.

        Raises:
            InputError: nothing given, an unfinished folder, or one that holds something else.
        """
        if not paths:
            raise InputError("no run folder was given")
        studies = [Path(path) for path in paths if is_study(path)]
        if studies and len(paths) > 1:
            raise InputError(f"{studies[0]} is a study and stands alone; leave the other folders out")
        if studies:
            return cls(studies[0], [], {}, {}, study=StudyResult.load(studies[0]))
        kinds = {Path(path): read_manifest(path)["kind"] for path in paths}
        first = next(iter(kinds))
        whole = [path for path, kind in kinds.items() if kind == "run"]
        if whole == [first] and set(kinds.values()) <= {"run", *BESIDE}:
            found = collect(first, read_manifest(first, "run")["result"])
        else:
            found = _gathered(first, {path: kind for path, kind in kinds.items() if kind not in BESIDE})
        for path in (path for path, kind in kinds.items() if kind == "diagnose"):
            _attach(found, Diagnosis.load(path))
        found.calibrations.extend(Calibration.load(path) for path, kind in kinds.items() if kind == "calibrate")
        refuse_other_world(found)
        return found

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

    @cached_property
    def fit(self) -> GammaFit:
        """gamma of that measurement."""
        return self.measured.suggest()

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The diagnosis the page speaks of: that of the first arm that has one."""
        return next((self.diagnoses[arm.name] for arm in self.arms if arm.name in self.diagnoses), None)

    @cached_property
    def raw_curves(self) -> dict[str, Curves]:
        """reading -> mean slack by time of every kind, with the resamples of the fit, m as it was read."""
        draws = Draws(int(self.measured.config["probe"]["seed"]))
        return {name: mean_curves(name, _heard(kinds), draws) for name, kinds in self.measured.readings().items()}

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """The same as the fit sees them: the main reference is calibrated on genuine states first."""
        name, draws = self.fit.excess_reference, Draws(int(self.measured.config["probe"]["seed"]))
        main = straightened(self.measured.readings()[name])
        return {**self.raw_curves, name: mean_curves(name, _heard(main), draws)}

    @property
    def heard(self) -> list[str]:
        """Readings the verdict is read from: that of the excess, then the clocks."""
        names = dict.fromkeys((self.fit.excess_reference, *gammas.CLOCKS))
        return [name for name in names if name in self.curves and {"genuine", "exact"} & self.curves[name].n.keys()]

    @property
    def subject(self) -> str:
        """The kind that nulls are compared with: unguided states where sampling was guided, else the model's."""
        return gammas.subject_of(self.measured.readings()[self.fit.excess_reference])


def _heard(kinds: Mapping[str, Reading]) -> dict[str, Reading]:
    """Kinds that enter fits."""
    return {kind: kinds[kind] for kind in gammas.HEARD if kind in kinds}


def _gathered(first: Path, kinds: dict[Path, str]) -> RunResult:
    """Measurements and evaluations, an arm a folder."""
    found = RunResult(first, [], {}, {})
    for path, kind in kinds.items():
        if kind not in ("measure", "evaluate", *TRAININGS):
            raise InputError(
                f"{path} holds a '{kind}' run; measurements, evaluations, trainings, diagnoses, calibrations or one "
                "whole run can be shown"
            )
        if kind in TRAININGS:
            _add_training(found, path)
            continue
        name = _free_name(path.resolve(), read_manifest(path), found.measurements, found.evaluations)
        if name not in [arm.name for arm in found.arms]:
            found.arms.append(Arm(name, name, "other" if found.arms else "base"))
        if kind == "measure":
            found.measurements[name] = Measurement.load(path)
            found.diagnoses.update(_inside(name, path))
        else:
            found.evaluations[name] = Evaluation.load(path)
    _refuse_unlike(list(found.evaluations.values()))
    found.arms[:] = [_named(arm, found.measurements) for arm in found.arms]
    return found


def _named(arm: Arm, measurements: Mapping[str, Measurement]) -> Arm:
    """The arm with how it was sampled in its title, where that is not how the first measurement was."""
    if arm.name not in measurements:
        return arm
    mine, first = measurements[arm.name].protocol(), next(iter(measurements.values())).protocol()
    said = [f"sampled with {mine['remedy']['name']}"] if mine["remedy"] else []
    said += [f"{key} {mine[key]}" for key in ("sampler", "guidance", "shift", "steps") if mine[key] != first[key]]
    return replace(arm, title=", ".join([arm.title, *said]))


def _add_training(found: RunResult, path: Path) -> None:
    """The losses of a training, an arm of its own; two folders of one name carry their parents'."""
    path = path.resolve()
    history, remedy = losses(path), str(read_manifest(path)["config"].get("remedy", {}).get("remedy", "other"))
    name = path.name
    while name in [arm.name for arm in found.arms]:
        path = path.parent
        name = f"{path.name or '.'}/{name}"
    found.arms.append(Arm(name, name, remedy if remedy in ("plain", "mixflow") else "other"))
    found.trainings[name] = history


def _inside(name: str, path: Path) -> dict[str, Diagnosis]:
    """The finished diagnosis inside a measurement's folder, by the name of the arm."""
    inner = path / "diagnosis"
    return {name: Diagnosis.load(inner)} if (inner / "manifest.json").exists() else {}


def _attach(found: RunResult, diagnosis: Diagnosis) -> None:
    """Put a diagnosis beside the measurement of the same model, data and protocol, else into an arm of its own."""
    for name, measured in found.measurements.items():
        if _protocol(measured.config) == _protocol(diagnosis.config):
            found.diagnoses[name] = diagnosis
            return
    name = diagnosis.path.resolve().name
    while name in [arm.name for arm in found.arms]:
        name = f"{name} (diagnosis)"
    found.arms.append(Arm(name, name, "other" if found.arms else "base"))
    found.diagnoses[name] = diagnosis


def _protocol(config: dict[str, Any]) -> dict[str, Any]:
    """What a measurement and its diagnosis have in common."""
    probe = {key: value for key, value in config["probe"].items() if key != "samples"}
    return {"model": config["model"], "data": config["data"], "probe": probe}


def _refuse_unlike(evaluations: list[Evaluation]) -> None:
    """Evaluations on one page must have one protocol; step counts and models may differ."""
    for other in evaluations[1:]:
        evaluations[0].must_be_like(other, evaluations[0].steps[0], other.steps[0])


def refuse_other_world(found: RunResult) -> None:
    """A calibration says something only of measurements on the same data, shape and path."""
    for calibration in found.calibrations:
        for measured in found.measurements.values():
            mine = [measured.config["data"]["name"], measured.facts["interpolant"], list(measured.facts["shape"])]
            theirs = [calibration.facts[key] for key in ("data", "interpolant", "shape")]
            if mine != theirs:
                raise InputError(
                    f"{calibration.path} was calibrated on {theirs} and {measured.path} measured on {mine}; calibrate again"
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
    diagnoses = {k: v for arm in arms for k, v in _inside(arm.name, path / f"measure-{arm.name}").items()}
    folders = {arm.name: path / f"posttrain-{arm.name}" for arm in arms}
    trained = {name: losses(folder) for name, folder in folders.items() if (folder / "history.json").exists()}
    return RunResult(path, arms, measurements, evaluations, result["check"], diagnoses, trainings=trained)


def losses(folder: Path) -> dict[str, Any]:
    """`loss` and `validation` of a finished training, each a list of (step, value)."""
    return dict(json.loads((folder / "history.json").read_text(encoding="utf-8")))


def lag_change(before: Measurement, after: Measurement) -> Estimate:
    """How the lag of one model differs from another's, in units of gamma, paired by sample id; negative = smaller lag."""
    return lag_changes(before, after)[before.main_reference]


def lag_changes(before: Measurement, after: Measurement) -> dict[str, Estimate]:
    """The same under the main reference and under both clocks, where they were measured."""
    ours, theirs = before.readings(), after.readings()
    names = [n for n in (before.main_reference, *gammas.CLOCKS) if n in ours and n in theirs]
    seed = int(before.config["probe"]["seed"])
    return {
        name: gammas.change(
            ours[name]["model"], theirs[name]["model"], ours[name].get("genuine", ours[name]["model"]), seed
        )
        for name in names
    }


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
