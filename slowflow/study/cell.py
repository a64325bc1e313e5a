"""One cell of a study: one arm under one seed, as a run folder.

    arms/NAME-seed0/posttrain/       while it runs: one training run, its averaged weights at every length
    arms/NAME-seed0/evaluate-*/      while it runs: samples judged, a folder a length
    arms/NAME-seed0/measure/         while it runs: the lag of its last length
    arms/NAME-seed0/draws.npz          bootstrap draws of every metric, for paired differences
    arms/NAME-seed0/manifest.json        every number; written last, after it the rest is dropped

Every stage is a run folder of its own, so a cell that was stopped at any moment is finished by the same command and ends
in the same numbers. A run that diverges is a result too: its step is recorded, what was reached before it is judged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slowflow.config import canonical
from slowflow.errors import InputError, NonFiniteError
from slowflow.evaluating import archive
from slowflow.evaluating.engine import evaluate
from slowflow.evaluating.evaluation import Evaluation
from slowflow.io.run import RunFolder, read_manifest
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.records import Probe
from slowflow.remedies import TrainingRemedy
from slowflow.results import lag_changes
from slowflow.study import making
from slowflow.study.armed import Armed
from slowflow.study.arms import Arm
from slowflow.study.config import Protocol
from slowflow.study.shared import Shared
from slowflow.sweep.folder import DRAWS, cell_folder, draw_key
from slowflow.train.post import post_train, snapshot_file, with_weights

BACKWARD = 2
"""Cost of a gradient in network calls: about two forward passes beside the one that made it."""
SCRATCH = ("posttrain", "evaluate-*", "measure")
Progress = Callable[[int, str], None]


def cost(protocol: Protocol, arm: Arm) -> int:
    """About how many network calls a cell takes; a gradient counts as `BACKWARD` of them."""
    looks = arm.looks(protocol.lengths)
    training = looks[-1] * calls_a_step(protocol, arm)
    judging = len(looks) * protocol.sampling.samples * sum(protocol.sampling.steps)
    probe = protocol.probe
    return training + judging + (0 if probe is None else probe.samples * sum(probe.grids))


def calls_a_step(protocol: Protocol, arm: Arm) -> int:
    """Network calls of one step of training, with those that the remedy itself makes."""
    if arm.train is None:
        return 0
    batch = protocol.train.batch_size
    made = 0 if making.wants_measurement(arm.train) else making.made(arm.train).calls(batch)
    return batch * (1 + BACKWARD) + made


@dataclass(frozen=True)
class Cell:
    """One arm under one seed."""

    shared: Shared
    arm: Arm
    seed: int

    @property
    def path(self) -> Path:
        """Its folder."""
        return cell_folder(self.shared.path, self.arm.name, self.seed)

    @property
    def finished(self) -> bool:
        """True when its numbers are there."""
        return (self.path / "manifest.json").exists() and self._folder().finished

    @property
    def lengths(self) -> tuple[int, ...]:
        """Post-training steps at which it is looked at; 0 for an arm that is not trained."""
        return self.arm.looks(self.shared.protocol.lengths)

    def cost(self) -> int:
        """About how many network calls it takes, for the remaining time."""
        return cost(self.shared.protocol, self.arm)

    def run(self, progress: Progress) -> None:
        """Finish the cell; returns at once when it is."""
        folder = self._folder()
        if not folder.finished:
            unmade = self._unmade()
            failed = unmade or self._train(progress)
            kept = [n for n in self.lengths if n == 0 or snapshot_file(folder.path / "posttrain", n).exists()]
            reached = [] if unmade else kept
            found = {length: self._evaluate(length, progress) for length in reached}
            lag = self._measure(max(reached), progress) if reached and reached[-1] == self.lengths[-1] else {}
            rows = [row for length in reached for row in self._rows(length, found[length])]
            draws = {key: value for length in reached for key, value in self._draws(length, found[length]).items()}
            archive.write(folder.path / DRAWS, [archive.whole(key, draws[key]) for key in sorted(draws)])
            copied = {str(length): self._memorised(length, one) for length, one in found.items()}
            folder.finish([DRAWS], {**self._facts(failed), "rows": rows, "lag": lag, "memorisation": copied})
        for pattern in SCRATCH:
            for leftover in folder.path.glob(pattern):
                shutil.rmtree(leftover)

    def _folder(self) -> RunFolder:
        arm: dict[str, Any] = {"name": self.arm.name, "train": self.arm.train, "sample": self.arm.sample}
        if self.arm.until is not None:  # left out otherwise, so that cells of older SlowFlows keep their identity
            arm["until"] = self.arm.until
        return RunFolder(self.path, "arm", {**self.shared.described, "arm": arm, "seed": self.seed})

    def _train(self, progress: Progress) -> dict[str, Any] | None:
        """Post-train to its last length; what went wrong, None when nothing did."""
        remedy, protocol = self._remedy, self.shared.protocol
        if remedy is None:
            return None
        per_step = calls_a_step(protocol, self.arm)
        try:
            post_train(
                self.shared.base,
                self.shared.data,
                remedy,
                protocol.training(self.seed, self.lengths[-1]),
                self.path / "posttrain",
                heldout=protocol.heldout,
                model_id=self.shared.base_id,
                snapshots=self.lengths,
                progress=lambda step, steps, note: progress(step * per_step, f"step {step} of {steps}, {note}"),
            )
        except NonFiniteError as error:
            if error.step is None:
                raise
            return {"step": error.step, "message": str(error).replace(str(self.path), self.arm.name)}
        return None

    def armed(self, length: int) -> Armed:
        """The model of one length, as this arm samples it."""
        shared = self.shared
        model = shared.base
        if length:
            model = with_weights(model, snapshot_file(self.path / "posttrain", length))
        usual = shared.protocol.sampling
        return Armed(model, self.arm.sampler(usual.sampler), usual, self._correction)

    @property
    def _probe(self) -> Probe | None:
        """How its lag is measured; None where that is not asked for, or not comparable with the base's: another sampler has
        another protocol."""
        probe = self.shared.protocol.probe
        return None if probe is None or self.arm.sampler(probe.sampler) != probe.sampler else probe

    @cached_property
    def _measured(self) -> Measurement | None:
        """The measurement of the base that this arm is made from, where it is."""
        return self.shared.measured() if self.arm.wants_measurement else None

    @cached_property
    def _correction(self) -> Any:
        return making.sampling(self.arm.sample, self._measured, self.shared.base, self.shared.data)

    @cached_property
    def _remedy(self) -> TrainingRemedy | None:
        return making.training(self.arm.train, self._measured)

    def check(self) -> None:
        """Refuse, before anything is run, what the base cannot be trained with, sampled with or measured with.

        Raises:
            InputError: one sentence that says why.
        """
        if self._remedy is not None:
            self._remedy.bound(self.shared.base)
        self.armed(0).check(self._probe)

    def _unmade(self) -> dict[str, Any] | None:
        """Why the arm cannot be made from what was measured, or what that made cannot be used; None when it can."""
        try:
            self.check()
        except InputError as error:
            if not self.arm.wants_measurement:
                raise
            return {"step": 0, "message": str(error)}
        return None

    def _evaluate(self, length: int, progress: Progress) -> Evaluation:
        protocol, armed = self.shared.protocol, self.armed(length)
        drawing = protocol.drawing(self.seed)
        steps = tuple(dict.fromkeys(armed.steps_for(budget) for budget in drawing.steps))
        done = self.cost() - len(self.lengths) * drawing.samples * sum(drawing.steps)
        done += self.lengths.index(length) * drawing.samples * sum(drawing.steps)
        return evaluate(
            armed.model,
            self.shared.data,
            self.shared.features,
            replace(drawing, steps=steps, sampler=armed.sampler),
            self.path / f"evaluate-{length:07d}",
            heldout=protocol.heldout,
            model_id={**self.shared.base_id, "arm": self.arm.name, "seed": self.seed, "length": length},
            **armed.extra,
            progress=lambda some, _, note: progress(done + some, f"length {length}, {note}"),
        )

    def _measure(self, length: int, progress: Progress) -> dict[str, Any]:
        """The lag of its last length: estimates, verdict, and paired changes against the base."""
        protocol, shared, probe = self.shared.protocol, self.shared, self._probe
        if probe is None:
            return {}
        untouched = self.arm.train is None and self.arm.sample is None
        armed = self.armed(length)
        found = measure(
            armed.model,
            shared.data,
            armed.probed(probe),
            shared.base_measure if untouched else self.path / "measure",
            heldout=protocol.heldout,
            model_id=shared.base_id if untouched else {**shared.base_id, "arm": self.arm.name, "seed": self.seed},
            nulls_from=None if untouched else shared.base_measure,
            reopen=shared.asked if untouched else None,
            **armed.extra,
            progress=lambda done, total, note: progress(self.cost(), f"measuring, {note}"),
        )
        fit = found.suggest()
        lag = {"length": length, "verdict": fit.verdict, "shape": fit.shape, "gamma": fit.gamma}
        lag |= {"estimates": canonical(fit.estimates), "protocol": found.protocol() | {"model": None}}
        before = Measurement.load(shared.base_measure)
        return lag | {"change": {} if untouched else canonical(lag_changes(before, found))}

    def _rows(self, length: int, found: Evaluation) -> list[dict[str, Any]]:
        armed, rows = self.armed(length), []
        for budget in self.shared.protocol.sampling.steps:
            steps = armed.steps_for(budget)
            nfe = armed.calls(steps)
            for metric in found.metrics:
                estimate = asdict(found.estimate(metric, steps))
                rows.append(
                    {"length": length, "budget": budget, "steps": steps, "nfe": nfe, "metric": metric, **estimate}
                )
        return rows

    def _draws(self, length: int, found: Evaluation) -> dict[str, np.ndarray]:
        armed, draws = self.armed(length), {}
        for budget in self.shared.protocol.sampling.steps:
            for metric in found.metrics:
                values = found.resampled(metric, armed.steps_for(budget))
                draws[draw_key(metric, length, budget)] = values.astype(np.float32)
        return draws

    def _memorised(self, length: int, found: Evaluation) -> dict[str, float]:
        """How near samples come to training images, as a ratio to how near held-out images come, by step count."""
        armed, by_steps = self.armed(length), found.facts["memorisation"]
        return {str(n): by_steps[str(armed.steps_for(n))]["ratio"] for n in self.shared.protocol.sampling.steps}

    def _facts(self, failed: dict[str, Any] | None) -> dict[str, Any]:
        """What the arm is, and what its training came to."""
        trained: dict[str, Any] = {}
        if self.arm.train is not None and failed is None:
            result = read_manifest(self.path / "posttrain", "posttrain")["result"]
            trained = {key: result[key] for key in ("steps", "network_calls", "loss") if key in result}
        return {
            "arm": self.arm.name,
            "group": self.arm.group,
            "gamma": self.arm.gamma,
            "seed": self.seed,
            "train": trained,
            "correction": None if failed or self._correction is None else self._correction.record(),
            "failed": failed,
        }
