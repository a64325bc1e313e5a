"""The Python surface: the verbs of the command line as functions.

import slowflow

model = slowflow.load("mnist-sit")
before = slowflow.measure(model, "mnist5k", slowflow.Probe(samples=500, steps=50), out="runs/before")
print(before.summary(), before.suggest())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.evaluating import engine as evaluation
from slowflow.evaluating.evaluation import Evaluation
from slowflow.evaluating.features import open_features
from slowflow.evaluating.sampling import SampleConfig
from slowflow.evaluating.sampling import sample as _sample
from slowflow.families.base import OpenOptions
from slowflow.families.open import identity, open_model
from slowflow.figures.base import FIGURES, Figure, rendered, write
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure as _measure
from slowflow.measuring.measurement import Measurement
from slowflow.records import Estimate, GammaFit, Probe
from slowflow.remedies import TrainingRemedy
from slowflow.reporting.page import write_page
from slowflow.results import RunResult, lag_change
from slowflow.train.loop import TrainConfig
from slowflow.train.post import post_train as _post_train

Data = str | Path | ImageSet
Model = FlowModel | str | Path
Run = str | Path | Measurement | Evaluation


def _opened(model: Model) -> FlowModel:
    return model if isinstance(model, FlowModel) else load(model)


def load(
    model: str | Path,
    *,
    family: str = "sit",
    interpolant: str | None = None,
    prediction: str | None = None,
    heads: int | None = None,
    factory: str | None = None,
) -> FlowModel:
    """Open a bundled model, a checkpoint file, or what a factory makes.

    Args:
        model: a bundled name (`slowflow ls models`) or a path; `-` for a factory without a file.
        family: who opens a path (slowflow ls families); files of SlowFlow's own name theirs.
        interpolant, prediction, heads: what the file cannot tell.
        factory: `package.module:function` for the custom family.

    Raises:
        CheckpointError: missing, damaged, unsafe, or of another family.
    """
    return open_model(model, family, OpenOptions(interpolant, prediction, heads, factory)).model


def measure(
    model: Model, data: Data, probe: Probe | None = None, *, out: str | Path, heldout: float = 0.2
) -> Measurement:
    """How slow the model's states run, with nulls. Resumes `out` when it is unfinished.

    Args:
        model: from `load` or `FlowModel.from_callable`.
        data: a name, a path or an ImageSet.
        probe: what is measured; the defaults when None.
        out: run folder.
        heldout: share of each class kept out of the bank, for the nulls.
    """
    asked = {
        "model": None if isinstance(model, FlowModel) else str(model),
        "data": None if isinstance(data, ImageSet) else str(data),
    }
    model = _opened(model)
    images = open_data(data, classes=model.classes)
    identified = identity(model)
    return _measure(model, images, probe or Probe(), out, heldout=heldout, model_id=identified, reopen=asked)


def suggest(measurement: Measurement | str | Path) -> GammaFit:
    """gamma with intervals and a verdict, from a measurement or its folder."""
    found = measurement if isinstance(measurement, Measurement) else Measurement.load(measurement)
    return found.suggest()


def post_train(
    model: Model,
    data: Data,
    *,
    remedy: TrainingRemedy,
    steps: int,
    out: str | Path,
    seed: int = 0,
    heldout: float = 0.2,
    **settings: Any,
) -> FlowModel:
    """A copy of the model, post-trained with `remedy`; resumes `out` when it is unfinished.

    Args:
        model: the starting point, left as it is.
        data: a name, a path or an ImageSet.
        remedy: `MixFlow(gamma)`, or `Plain()` for the control arm.
        steps: optimiser steps.
        out: run folder.
        seed: of every draw; equal for arms that are compared.
        heldout: share of each class never trained on.
        settings: other fields of `slowflow.train.loop.TrainConfig`.
    """
    config = TrainConfig(steps=steps, seed=seed, **settings)
    model = _opened(model)
    images = open_data(data, classes=model.classes)
    return _post_train(model, images, remedy, config, out, heldout=heldout, model_id=identity(model))


def sample(
    model: Model,
    n: int,
    *,
    steps: int = 50,
    sampler: str = "euler",
    guidance: float = 1.0,
    seed: int = 0,
    out: str | Path,
    pixels: bool = True,
) -> Path:
    """Write n samples to the .npz file `out` (`arr_0` uint8 NHWC and `labels`) and return its path."""
    model = _opened(model)
    config = SampleConfig(n=n, steps=steps, sampler=sampler, guidance=guidance, seed=seed)
    return Path(_sample(model, config, out, pixels=pixels, model_id=identity(model))["file"])


def evaluate(
    model: Model,
    data: Data,
    *,
    features: str,
    samples: int = 500,
    steps: Sequence[int] = (50,),
    sampler: str = "euler",
    guidance: float = 1.0,
    seed: int = 0,
    out: str | Path,
    heldout: float = 0.2,
) -> Evaluation:
    """Fidelity and coverage of the model's samples against held-out images, with intervals.

    Args:
        model, data: as for `measure`.
        features: a bundled extractor (`slowflow ls features`), `pixels`, or a classifier file.
        samples, steps, sampler, guidance, seed: how samples are made.
        out: run folder.
        heldout: share of each class that is the reference.
    """
    model = _opened(model)
    images = open_data(data, classes=model.classes)
    sampling = evaluation.Sampling(samples=samples, steps=tuple(steps), sampler=sampler, guidance=guidance, seed=seed)
    return evaluation.evaluate(
        model,
        images,
        open_features(features, model.shape),
        sampling,
        out,
        heldout=heldout,
        model_id=identity(model),
    )


@dataclass(frozen=True)
class Comparison:
    """Two measurements side by side, paired by sample id.

    lag_change: change of the lag in units of gamma, negative = smaller lag after.
    """

    before: Measurement
    after: Measurement
    lag_change: Estimate

    def __str__(self) -> str:
        return f"lag of {self.after.path} against {self.before.path}, in units of gamma: {self.lag_change} (negative = smaller)"


def compare(before: Measurement, after: Measurement) -> Comparison:
    """Compare two measurements of one protocol.

    Raises:
        InputError: the protocols differ; the message says in what.
    """
    mine, theirs = before.protocol(), after.protocol()
    unlike = [key for key in mine if key != "model" and mine[key] != theirs[key]]
    if unlike:
        raise InputError(f"the measurements differ in {unlike[0]}: {mine[unlike[0]]} and {theirs[unlike[0]]}")
    return Comparison(before, after, lag_change(before, after))


class Drawing:
    """One figure of finished runs. A notebook shows it; `table` holds every number in it."""

    def __init__(self, figure: Figure, table: pd.DataFrame) -> None:
        self.table = table
        self.alt: str = figure.alt(table)
        self.caption = figure.caption
        self._figure = figure

    def save(self, path: str | Path) -> Path:
        """Write it as .png, .svg or .pdf, with its table as CSV beside it."""
        return write(self._figure, self.table, path)

    def _repr_png_(self) -> bytes:
        return rendered(self._figure, self.table, "png")

    def __repr__(self) -> str:
        return self.alt


def plot(runs: Run | Sequence[Run], figure: str) -> Drawing:
    """One figure of a finished run, or of several together.

    Args:
        runs: measurements, evaluations, post-trainings, whole runs, or their folders.
        figure: a name of `slowflow ls figures`.

    Raises:
        InputError: no such figure, or the runs lack what it shows.
    """
    chosen = FIGURES.get(figure)
    listed = [runs] if isinstance(runs, str | Path | Measurement | Evaluation) else runs
    return Drawing(chosen, chosen.data(RunResult.load(*map(_path, listed))))


def _path(run: Run) -> str | Path:
    return run if isinstance(run, str | Path) else run.path


def report(runs: Sequence[Run], *, out: str | Path) -> Path:
    """One page from finished runs; returns its path.

    Args:
        runs: measurements, evaluations, diagnoses, calibrations, a whole run, or their folders.
        out: `.html` for a page that holds everything and opens offline, `.md` for Markdown without pictures.
    """
    return write_page(RunResult.load(*map(_path, runs)), out)
