"""pilot: gamma by short post-trainings, successive halving on a metric that the final evaluation never uses.

Three disjoint parts of the data: the held-out share (which `evaluate` judges by) is put aside untouched; of the rest, a
`selection` share is what the pilot judges by, and what is left is what it trains on. The base has usually been trained on
the selection share too, which flatters all candidates alike. Plain training of the same length goes along to the last rung
and is no candidate: it says whether the pick is worth more than no correction.

    out/runs/GAMMA-seed0.safetensors    one training run a candidate and seed, extended from rung to rung
    out/looks/...                       samples judged, a folder a candidate, rung and seed
    out/rung-0.json ...                 what each rung came to
    out/manifest.json                   the pick

Resumable after a stop at any moment. Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943).
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slowflow.config import canonical
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.families.open import identity
from slowflow.flow.count import network_calls
from slowflow.flow.model import FlowModel
from slowflow.io import atomic
from slowflow.io.run import RunFolder, read_json
from slowflow.measuring import evidence
from slowflow.records import HIGHER_IS_BETTER, Estimate, GammaFit, change_word
from slowflow.remedies import make
from slowflow.study.cell import BACKWARD
from slowflow.sweep import halving
from slowflow.sweep.grid import Sweep
from slowflow.sweep.regret import against
from slowflow.train.loop import TrainConfig, train

GAMMAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """Settings of a pilot.

    Args:
        budget: network calls it may take, training and sampling together; a gradient counts as two calls beside its own.
        gammas: candidates, ascending.
        seeds: every candidate is trained under each.
        metric: fd, density, coverage or agreement.
        selection: share of the training part that candidates are judged by.
        sampling: how samples are made; at most as many as the selection share has images.
        train: settings of every post-training; its steps follow from the budget.
        heldout: share that is put aside for the final evaluation.
        control: train plainly beside the candidates at every rung.
    """

    budget: int
    gammas: tuple[float, ...] = GAMMAS
    seeds: tuple[int, ...] = (0, 1)
    metric: str = "fd"
    selection: float = 0.25
    sampling: Sampling = field(default_factory=lambda: Sampling(samples=500, steps=(20,), seed=2000))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1, warmup=20, ema_ramp=9.0, valid_every=0))
    heldout: float = 0.2
    control: bool = True

    def __post_init__(self) -> None:
        if len(self.gammas) < 2 or list(self.gammas) != sorted(set(self.gammas)):
            raise InputError(f"gammas is {list(self.gammas)}, expected at least two, ascending")
        if not self.seeds:
            raise InputError("a pilot needs at least one seed")
        if self.metric not in HIGHER_IS_BETTER:
            raise InputError(f"metric is '{self.metric}', expected one of {', '.join(HIGHER_IS_BETTER)}")
        if len(self.sampling.steps) != 1:
            raise InputError(f"a pilot samples at one step count, got {list(self.sampling.steps)}")
        for gamma in self.gammas:
            make("mixflow", {"gamma": gamma})


@dataclass(frozen=True)
class Pick:
    """What a pilot found.

    Args:
        gamma: the candidate that won.
        estimate: the same with its neighbours among the candidates as ends: the pilot resolves no finer.
        wrong, loss: chance that another candidate is better, and what that is expected to cost in the metric.
        calls: network calls that were spent. budget: that were allowed.
        split: one sentence on what was trained on, judged by, and put aside.
        rungs: candidates, length, gammas and their means, and the mean of plain training, rung by rung.
        over_plain: metric of the pick minus that of plain training at the last rung; None where that was not trained.
    """

    gamma: float
    estimate: Estimate
    wrong: float
    loss: float
    calls: int
    budget: int
    metric: str
    split: str
    rungs: list[dict[str, Any]]
    over_plain: Estimate | None = None

    def over(self, fit: GammaFit) -> GammaFit:
        """The fit of a measurement with this gamma recommended, warned by what pilots cost in the studies."""
        chosen = (
            f"pilot: best {self.metric} of {len(self.rungs[0]['gammas'])} gammas after short post-trainings of up to "
            f"{self.rungs[-1]['length']} steps ({self.calls:,} network calls); the chance that another candidate is better "
            f"is {'below 1%' if self.wrong < 0.01 else f'{self.wrong:.0%}'}, at an expected cost of {self.loss:.3g} in "
            f"{self.metric}; {self.split}{self._beside()}"
        )
        estimates = {**fit.estimates, "pilot": self.estimate}
        warnings = (*fit.warnings, *filter(None, [evidence.pilots()]))
        return replace(fit, gamma=self.gamma, method="pilot", estimates=estimates, chosen=chosen, warnings=warnings)

    def _beside(self) -> str:
        """The pick against no correction, in words."""
        if self.over_plain is None:
            return ""
        value, low, high = (f"{x:+.3g}" for x in (self.over_plain.value, self.over_plain.low, self.over_plain.high))
        steps = self.rungs[-1]["length"]
        said = f"; against plain training of the same {steps} steps it is {value} [{low}, {high}] in {self.metric}"
        word = change_word(self.metric, self.over_plain)
        return f"{said}, {word}" + (": on this evidence no correction is the better choice" if word == "worse" else "")


def pilot(
    model: FlowModel,
    data: ImageSet,
    features: Features,
    config: PilotConfig,
    out: str | Path,
    *,
    model_id: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Pick:
    """Find a gamma by short post-trainings; resumes an unfinished folder.

    Args:
        model: the base, left as it is.
        data: real images; the held-out share is not touched.
        features: what the metric is measured in.
        config: candidates, budget and protocol.
        out: run folder.
        model_id: what identifies the base.
        progress: called with (network calls done, in all, note).

    Raises:
        InputError: the budget is too small, or the metric needs a classifier that the features do not have.
    """
    rest, aside = data.split(config.heldout)
    fit_part, judge_part = rest.split(config.selection)
    samples = min(config.sampling.samples, len(judge_part))
    config = replace(config, sampling=replace(config.sampling, samples=samples))
    if config.metric == "agreement" and features.net is None:
        raise InputError("agreement needs a classifier as features; take fd, density or coverage")
    how = config.sampling
    per_look = samples * network_calls(model, how.sampler, how.steps[0], guidance=how.guidance, shift=how.shift)
    per_step = config.train.batch_size * (1 + BACKWARD)
    seeds = len(config.seeds)
    beside = int(config.control)
    plan = halving.longest_plan(len(config.gammas), config.budget, seeds, per_step, per_look, beside)
    described = {"model": model_id or identity(model), "data_sha256": data.fingerprint, "features": features.sha256}
    folder = RunFolder(out, "pilot", {**described, "pilot": config, "plan": plan})
    split = (
        f"trained on {len(fit_part)} images, judged by {len(judge_part)} others, {len(aside)} held-out images left for the "
        "final evaluation"
    )
    if not folder.finished:
        work = _Work(model, rest, fit_part, features, config, folder.path)
        seen = _halved(work, plan, per_step, per_look, folder.watched(progress))
        pick = float(seen[-1].gammas[halving.survivors(seen[-1], 1)[0]])
        sure = halving.doubt(seen, pick)
        rows = [_row(rung, sweep) for rung, sweep in zip(plan, seen, strict=True)]
        spent = halving.calls(plan, seeds, per_step, per_look)
        result = {"gamma": pick, "wrong": sure.wrong, "loss": sure.loss, "calls": spent, "rungs": rows}
        result["over_plain"] = canonical(_over_plain(seen[-1], pick)) if config.control else None
        folder.finish([f"rung-{number}.json" for number in range(len(plan))], {**result, "split": split})
    for leftover in ("runs", "looks"):
        shutil.rmtree(folder.path / leftover, ignore_errors=True)
    found = folder.manifest["result"]
    return Pick(
        estimate=_neighbours(config.gammas, found["gamma"], seeds),
        budget=config.budget,
        metric=config.metric,
        over_plain=None if found["over_plain"] is None else Estimate(**found["over_plain"]),
        **{key: found[key] for key in ("gamma", "wrong", "loss", "calls", "split", "rungs")},
    )


def _row(rung: halving.Rung, sweep: Sweep) -> dict[str, Any]:
    """What a rung came to, in the metric's own direction."""
    means = (sweep.sign * sweep.mean).tolist()
    row = {"length": rung.length, "gammas": sweep.gammas.tolist(), "means": means[: len(sweep.gammas)]}
    return {**row, "plain": means[-1]} if rung.beside else row


def _over_plain(sweep: Sweep, pick: float) -> Estimate:
    """Metric of the pick minus that of plain training, in the metric's own direction."""
    found = against(sweep, pick, None)
    low, high = sorted((sweep.sign * found.low, sweep.sign * found.high))
    return Estimate(sweep.sign * found.value, low, high, found.n)


def _neighbours(gammas: tuple[float, ...], pick: float, n: int) -> Estimate:
    at = gammas.index(pick)
    return Estimate(pick, gammas[max(at - 1, 0)], gammas[min(at + 1, len(gammas) - 1)], n)


@dataclass(frozen=True)
class _Work:
    """What the rungs share: `rest` is the data without the part put aside, `fit_part` what is trained on."""

    model: FlowModel
    rest: ImageSet
    fit_part: ImageSet
    features: Features
    config: PilotConfig
    path: Path

    def look(self, gamma: float | None, seed: int, length: int) -> tuple[float, list[float]]:
        """Train one candidate, or plainly for None, up to `length` steps and judge it: (value, bootstrap draws)."""
        name, config = f"{'plain' if gamma is None else f'{gamma:g}'}-seed{seed}", self.config
        settings = replace(config.train, steps=length, lr_final=config.train.lr, seed=seed)
        copied = self.model.with_net(copy.deepcopy(self.model.net))
        remedy = make("plain", {}) if gamma is None else make("mixflow", {"gamma": gamma})
        state = train(copied, self.fit_part, remedy, settings, self.path / "runs" / f"{name}.safetensors")
        found = evaluate(
            copied.with_net(state.ema_net.eval()),
            self.rest,
            self.features,
            replace(config.sampling, seed=config.sampling.seed + seed),
            self.path / "looks" / f"{name}-{length:07d}",
            heldout=config.selection,
            model_id={"name": self.model.name, "gamma": gamma, "seed": seed, "length": length},
        )
        steps = config.sampling.steps[0]
        return found.estimate(config.metric, steps).value, found.resampled(config.metric, steps).tolist()


def _halved(work: _Work, plan: list[halving.Rung], per_step: int, per_look: int, progress: Progress) -> list[Sweep]:
    """Every rung; a rung that is on disk is read back."""
    config = work.config
    seen: list[Sweep] = []
    sign = -1.0 if HIGHER_IS_BETTER[config.metric] else 1.0
    alive, done, reached = np.array(config.gammas), 0, 0
    total = halving.calls(plan, len(config.seeds), per_step, per_look)
    for number, rung in enumerate(plan):
        if number:
            alive = seen[-1].gammas[halving.survivors(seen[-1], rung.candidates)]
        file = work.path / f"rung-{number}.json"
        if not file.exists():
            looks: list[list[tuple[float, list[float]]]] = []
            for gamma in [*alive.tolist(), *([None] if rung.beside else [])]:
                title = "plain" if gamma is None else f"gamma {gamma:g}"
                looks.append([])
                for seed in config.seeds:
                    looks[-1].append(work.look(gamma, seed, rung.length))
                    done += (rung.length - reached) * per_step + per_look
                    progress(done, total, f"rung {number + 1} of {len(plan)}: {title}, {rung.length} steps")
            values = [[value for value, _ in row] for row in looks]
            draws = [[draw for _, draw in row] for row in looks]
            atomic.write_json(file, canonical({"gammas": alive.tolist(), "values": values, "draws": draws}))
        stored = read_json(file)
        done = halving.calls(plan[: number + 1], len(config.seeds), per_step, per_look)
        reached = rung.length
        shown = {key: np.array(stored[key]) for key in ("gammas", "values", "draws")}
        seen.append(Sweep(shown["gammas"], sign * shown["values"], sign * shown["draws"], config.metric, sign))
    return seen
