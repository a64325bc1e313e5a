"""The Python surface: the verbs of the command line as functions.

import slowflow

model = slowflow.load("mnist-sit")
before = slowflow.measure(model, "mnist5k", slowflow.Probe(samples=500, steps=50), out="runs/before")
print(before.summary(), before.suggest())
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import InputError
from slowflow.evaluating import engine as evaluation
from slowflow.evaluating.evaluation import Evaluation
from slowflow.evaluating.features import open_features
from slowflow.evaluating.reference import is_reference, open_reference
from slowflow.evaluating.sampling import SampleConfig
from slowflow.evaluating.sampling import sample as _sample
from slowflow.families.base import OpenOptions
from slowflow.families.open import identity, open_model
from slowflow.figures.base import FIGURES
from slowflow.figures.drawing import Drawing
from slowflow.fitting import findings
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure as _measure
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.training_law import remedy as _training_remedy
from slowflow.records import GammaFit, Probe
from slowflow.remedies import TrainingRemedy
from slowflow.remedies import sampling as sampling_remedies
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.presets import preset as _preset
from slowflow.reporting.page import write_report
from slowflow.results import RunResult
from slowflow.train.execution import Execution
from slowflow.train.loop import TrainConfig
from slowflow.train.post import post_train as _post_train

Data = str | Path | ImageSet
Model = FlowModel | str | Path
Remedy = SamplingRemedy | Fit | str | None
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


def sampling_remedy(name: str, *, preset: str | None = None, **settings: Any) -> SamplingRemedy:
    """A sampling remedy by its name (`slowflow ls remedies`).

    Args:
        name: such as `epsilon-scaling`.
        preset: published constants (`slowflow ls presets`); settings override them.
        settings: by the names of the remedy's arguments.

    Raises:
        InputError: unknown remedy, preset or setting, or a value out of range.
    """
    published = {} if preset is None else _preset(name, preset).settings
    return sampling_remedies.make(name, {**published, **settings})


def fit_remedy(
    name: str,
    run: Measurement | str | Path,
    *,
    model: Model,
    data: Data,
    steps: int | None = None,
    **settings: Any,
) -> Fit:
    """A sampling remedy whose constants come from a measurement of the same model.

    Args:
        name: such as `epsilon-scaling`.
        run: the measurement, or its folder.
        model, data: what was measured.
        steps: at which of its step counts; the first unless told.
        settings: choices that are not fitted.

    Raises:
        InputError: a measurement of another model, or one that lacks what this remedy is fitted to.
    """
    measured = run if isinstance(run, Measurement) else Measurement.load(run)
    model = _opened(model)
    found = findings(measured, model, open_data(data, classes=model.classes), steps)
    return sampling_remedies.fitted(name, found, settings)


def _correction(remedy: Remedy) -> SamplingRemedy | None:
    if isinstance(remedy, TrainingRemedy):
        raise InputError(f"{type(remedy).__name__} is a training remedy: post_train takes it, sampling does not")
    if isinstance(remedy, Fit):
        return remedy.remedy
    return sampling_remedy(remedy) if isinstance(remedy, str) else remedy


def measure(
    model: Model,
    data: Data,
    probe: Probe | None = None,
    *,
    out: str | Path,
    heldout: float = 0.2,
    remedy: Remedy = None,
) -> Measurement:
    """How slow the model's states run, with nulls. Resumes `out` when it is unfinished.

    Args:
        model: from `load` or `FlowModel.from_callable`.
        data: a name, a path or an ImageSet.
        probe: what is measured; the defaults when None.
        out: run folder.
        heldout: share of each class kept out of the bank, for the nulls.
        remedy: a sampling remedy, its fit, or its name.
    """
    asked = {
        "model": None if isinstance(model, FlowModel) else str(model),
        "data": None if isinstance(data, ImageSet) else str(data),
    }
    model = _opened(model)
    images = open_data(data, classes=model.classes)
    identified = identity(model)
    return _measure(
        model,
        images,
        probe or Probe(),
        out,
        heldout=heldout,
        model_id=identified,
        reopen=asked,
        remedy=_correction(remedy),
    )


def suggest(measurement: Measurement | str | Path, *, method: str = "auto") -> GammaFit:
    """gamma with intervals and a verdict, from a measurement or its folder.

    Args:
        measurement: what `measure` returned, or its folder.
        method: whose gamma is recommended: auto, band or excess. (pilot trains: `slowflow.study.pilot.pilot`.)
    """
    found = measurement if isinstance(measurement, Measurement) else Measurement.load(measurement)
    return found.suggest(method=method)


def remedy(
    name: str, *, measured: Measurement | str | Path | None = None, raw: bool = False, **settings: Any
) -> TrainingRemedy:
    """The training remedy called `name` (`slowflow ls remedies`), for `post_train` or a loop of your own.

    Args:
        name: mixflow, soar, empirical, ...
        measured: a measurement of the model to be trained, or its folder: brings gamma, the law of m or the clocks to
            the remedies that take them.
        raw: take a measured law with its null left in.
        settings: of the remedy, by name; they override what was measured.
    """
    found = Measurement.load(measured) if isinstance(measured, str | Path) else measured
    return _training_remedy(name, found, raw=raw, **settings)


def post_train(
    model: Model,
    data: Data,
    *,
    remedy: TrainingRemedy,
    steps: int,
    out: str | Path,
    seed: int = 0,
    heldout: float = 0.2,
    parallel: str = "ddp",
    logs: Sequence[str] = (),
    execution: Execution | None = None,
    **settings: Any,
) -> FlowModel:
    """A copy of the model, post-trained with `remedy`; resumes `out` when it is unfinished.

    Args:
        model: the starting point, left as it is.
        data: a name, a path or an ImageSet.
        remedy: `MixFlow(gamma)`, `Plain()` for the control arm, or any other (`slowflow.remedy(name, ...)`).
        steps: optimiser steps.
        out: run folder.
        seed: of every draw; equal for arms that are compared.
        heldout: share of each class never trained on.
        parallel: ddp or fsdp, inside `slowflow.joined()` on several processes.
        logs: `"tensorboard"`, `"wandb"`: where the numbers of every few steps go too, in `out`/logs.
        execution: how it is computed: compiled, with gradient checkpointing, ...; nothing is learned otherwise.
        settings: other fields of `slowflow.train.loop.TrainConfig`.
    """
    config = TrainConfig(steps=steps, seed=seed, **settings)
    model = _opened(model)
    images = open_data(data, classes=model.classes)
    identified = identity(model)
    return _post_train(
        model,
        images,
        remedy,
        config,
        out,
        heldout=heldout,
        model_id=identified,
        parallel=parallel,
        execution=execution,
        logs=logs,
    )


def sample(
    model: Model,
    n: int,
    *,
    steps: int = 50,
    sampler: str = "euler",
    guidance: float = 1.0,
    seed: int = 0,
    labels: str = "balanced",
    out: str | Path,
    pixels: bool = True,
    remedy: Remedy = None,
) -> Path:
    """Write n samples to the .npz file `out` (`arr_0` uint8 NHWC and `labels`) and return its path.

    Args:
        model: from `load`, or a name.
        n: how many.
        steps, sampler, guidance, seed: how.
        labels: balanced (sample i has class i mod classes), random, or the number of one class.
        out: the file.
        pixels: states are images; otherwise they are written as float32 `data`.
        remedy: a sampling remedy, its fit, or its name.
    """
    model = _opened(model)
    config = SampleConfig(n=n, steps=steps, sampler=sampler, guidance=guidance, seed=seed, labels=labels)
    found = _sample(model, config, out, pixels=pixels, model_id=identity(model), remedy=_correction(remedy))
    return Path(found["file"])


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
    remedy: Remedy = None,
) -> Evaluation:
    """Fidelity and coverage of the model's samples against held-out images, with intervals.

    Args:
        model: as for `measure`.
        data: as for `measure`; or the path of a reference file in ADM's layout (.npz with mu and sigma).
        features: a bundled extractor, `pixels`, a file, KIND:PATH (`slowflow ls features`) or `module:function`.
        samples, steps, sampler, guidance, seed: how samples are made.
        out: run folder.
        heldout: share of each class that is the reference.
        remedy: a sampling remedy, its fit, or its name.
    """
    model = _opened(model)
    file = not isinstance(data, ImageSet) and is_reference(data)
    images = open_reference(str(data)) if file else open_data(data, classes=model.classes)
    sampling = evaluation.Sampling(samples=samples, steps=tuple(steps), sampler=sampler, guidance=guidance, seed=seed)
    return evaluation.evaluate(
        model,
        images,
        open_features(features, model.shape, device=model.device),
        sampling,
        out,
        heldout=heldout,
        model_id=identity(model),
        remedy=_correction(remedy),
    )


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


def report(runs: Sequence[Run], *, out: str | Path, published: str | None = None) -> Path:
    """One page from finished runs; returns its path.

    Args:
        runs: measurements, evaluations, diagnoses, calibrations, a whole run, or their folders; or folders of studies.
        out: `.html` for a page that holds everything and opens offline, `.md` for Markdown without pictures.
        published: model of the published tables to put FID beside, where the checkpoint's name does not tell.

    Raises:
        InputError: unfinished runs, another ending, or no published model of that name.
    """
    return write_report([_path(run) for run in runs], out, published=published)
