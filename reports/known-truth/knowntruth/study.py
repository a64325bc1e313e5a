"""One setting from start to end: pretrain three seeds, measure the bases, post-train every arm, judge the snapshots.

Resumable: a setting is a folder, `base.safetensors` and one JSON a phase, each written whole or not at all; what exists
is not done again. Every arm of a seed sees the same data, noise and draws, and is judged from the same starting noise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from knowntruth import arms, ensemble, measurement, metrics, probes
from knowntruth.solve import FINE, KEPT, SOLVERS, Field, everywhere, solve
from knowntruth.truth import Optimum
from knowntruth.worlds import World, world
from slowflow import rng
from slowflow.errors import InputError
from slowflow.io import atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What all settings share; lengths are steps, `lengths` those of post-training at which snapshots are judged."""

    gammas: tuple[float, ...]
    seeds: tuple[int, ...]
    batch: int
    pretrain: dict[str, int]
    lengths: tuple[int, ...]
    rate: float
    post_rate: float
    decay: float
    samples: int
    probe: int
    oracle: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """One world and one network.

    data: size of the training set, 0 = fresh draws. pretrain, lengths: instead of the plan's.
    """

    d: int
    kind: str
    idle: float
    width: int
    reader: bool = False
    data: int = 0
    pretrain: dict[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        marks = ["reader"] * self.reader + [f"data{self.data}"] * bool(self.data) + ["long"] * bool(self.lengths)
        return "-".join([f"d{self.d}", self.kind, f"w{self.width}", *marks])

    @property
    def shape(self) -> ensemble.Shape:
        """Of its networks."""
        return ensemble.Shape(self.d, self.width, reader=self.reader)


class Source:
    """Training pairs of every seed, in step: fresh draws, or draws from a fixed set."""

    def __init__(self, worlds: Sequence[World], seeds: Sequence[int], size: int, purpose: str) -> None:
        self.worlds = worlds
        self.generators = [rng.torch_generator(s, purpose) for s in seeds]
        sets = [rng.torch_generator(s, "training set") for s in seeds]
        self.sets = [w.draw(size, g)[0] for w, g in zip(worlds, sets, strict=True)] if size else []

    def pairs(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(noise, data [seed, n, d], two uniform draws [seed, n])."""
        found = []
        for k, (one, g) in enumerate(zip(self.worlds, self.generators, strict=True)):
            data = self.sets[k][torch.randint(len(self.sets[k]), (n,), generator=g)] if self.sets else one.draw(n, g)[0]
            found.append((torch.randn(n, one.d, generator=g), data, *torch.rand(2, n, generator=g)))
        noise, data, u, w = (torch.stack(x) for x in zip(*found, strict=True))
        return noise, data, u, w


def worlds_of(setting: Setting, plan: Plan) -> list[World]:
    """One world a seed."""
    return [world(setting.d, setting.idle, s) for s in plan.seeds]


def done(path: Path, make: Callable[[], Any]) -> None:
    """Write what `make` returns to `path` unless it is there."""
    if path.exists():
        return
    begin = time.monotonic()
    atomic.write_json(path, make())
    log.info("%s %.0f s", "/".join(path.parts[-2:]), time.monotonic() - begin)


def pretrain(setting: Setting, plan: Plan, folder: Path) -> dict[str, ensemble.Weights]:
    """Base name -> averaged weights [seed, ...]; from the folder when they are there."""
    path, wanted = folder / "base.safetensors", setting.pretrain or plan.pretrain
    if not path.exists():
        begin = time.monotonic()
        source = Source(worlds_of(setting, plan), plan.seeds, setting.data, "pretraining")
        fresh = ensemble.start(setting.shape, [rng.torch_generator(s, "weights") for s in plan.seeds])
        trainer = ensemble.Trainer(setting.shape, fresh, plan.rate, plan.decay)
        kept: dict[str, Tensor] = {}
        for step in range(1, max(wanted.values()) + 1):
            noise, data, u, _ = source.pairs(plan.batch)
            velocity = data - noise
            trainer.step(torch.addcmul(noise, u[..., None], velocity), u, velocity)
            for name, length in wanted.items():
                if step == length:
                    kept |= {f"{name}.{k}": v.clone() for k, v in trainer.average.items()}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        save_file(kept, temporary)
        temporary.replace(path)
        log.info("%s base %.0f s", setting.name, time.monotonic() - begin)
    read = load_file(path)
    return {
        name: {k.removeprefix(f"{name}."): v for k, v in read.items() if k.startswith(f"{name}.")} for name in wanted
    }


def sampled(
    shape: ensemble.Shape, weights: ensemble.Weights, noise: Tensor, solver: str
) -> tuple[Tensor, dict[float, Tensor]]:
    """Ends [e, n, d] and kept states; noise [e, n, d], taken 128 samples at a time."""

    def net(state: Tensor, t: float) -> Tensor:
        return ensemble.forward(shape, weights, state, everywhere(state, t))

    with torch.no_grad():
        chunks = [solve(net, part, solver) for part in noise.split(128, dim=1)]
    return torch.cat([c[0] for c in chunks], 1), {t: torch.cat([c[1][t] for c in chunks], 1) for t in KEPT}


def starts(setting: Setting, plan: Plan, arm_count: int) -> Tensor:
    """Starting noise [arm * seed, n, d], equal across arms."""
    one = torch.stack(
        [torch.randn(plan.samples, setting.d, generator=rng.torch_generator(s, "judging")) for s in plan.seeds]
    )
    return one.expand(arm_count, *one.shape).reshape(-1, plan.samples, setting.d)


def single(shape: ensemble.Shape, weights: ensemble.Weights, index: int) -> measurement.Net:
    """One network of the ensemble as a function of (state [n, d], label [n])."""
    own = {k: v[index : index + 1].detach() for k, v in weights.items()}

    def net(state: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return ensemble.forward(shape, own, state[None], t[None])[0]

    return net


def judged(
    setting: Setting, plan: Plan, weights: ensemble.Weights, labels: Sequence[str], gammas: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of metrics (one a network and solver) and probes (one a network)."""
    worlds, rows = worlds_of(setting, plan), []
    noise = starts(setting, plan, len(labels))
    zero = [metrics.entropy(w, rng.torch_generator(s, "entropy")) for w, s in zip(worlds, plan.seeds, strict=True)]
    own: dict[float, Tensor] = {}
    for solver in SOLVERS:
        ends, kept = sampled(setting.shape, weights, noise, solver)
        own = kept if solver == "euler20" else own
        for k, (arm, _, s, one) in enumerate(networks(plan, labels, gammas, worlds)):
            found = metrics.measured(one, ends[k], zero[plan.seeds.index(s)])
            rows.append({"arm": arm, "seed": s, "solver": solver, **found})
    for k, (arm, gamma, s, one) in enumerate(networks(plan, labels, gammas, worlds)):
        g = rng.torch_generator(s, "probing")
        data, start = one.draw(plan.probe, g)[0], torch.randn(plan.probe, setting.d, generator=g)
        u, w = torch.rand(2, plan.probe, generator=g)
        states = {t: x[k, : plan.probe // len(KEPT)] for t, x in own.items()}
        net = single(setting.shape, weights, k)
        rows.append(
            {"arm": arm, "seed": s, "solver": "probe", **probes.probe(one, net, gamma, data, start, u, w, states)}
        )
    return rows


def networks(
    plan: Plan, labels: Sequence[str], gammas: Sequence[float], worlds: Sequence[World]
) -> Iterator[tuple[str, float, int, World]]:
    """(arm, gamma, seed, world) in the order of the ensemble."""
    for arm, gamma in zip(labels, gammas, strict=True):
        for seed, one in zip(plan.seeds, worlds, strict=True):
            yield arm, gamma, seed, one


def measure_base(setting: Setting, plan: Plan, weights: ensemble.Weights) -> list[dict[str, Any]]:
    """What a measurement says of each base: lags by solver, what is left from a late start, leaning on the label."""
    rows: list[dict[str, Any]] = []
    noise = starts(setting, plan, 1)
    for k, (s, one) in enumerate(zip(plan.seeds, worlds_of(setting, plan), strict=True)):
        g = rng.torch_generator(s, "measuring")
        data, other = one.draw(plan.samples, g)[0], torch.randn(plan.samples, setting.d, generator=g)
        genuine = measurement.genuine_states(data, other)
        zero = {t: measurement.readings(one, x) for t, x in genuine.items()}
        net = single(setting.shape, weights, k)
        for solver in SOLVERS:
            own = sampled(setting.shape, {n: v[k : k + 1] for n, v in weights.items()}, noise[k : k + 1], solver)[1]
            rows.append({"seed": s, "solver": solver, **measurement.lags(one, {t: x[0] for t, x in own.items()}, zero)})
        late = solve(lambda x, t, net=net: net(x, everywhere(x, t)), genuine[0.4], FINE, (0.8,), 0.4, 0.8)[1]
        rows.append({"seed": s, "solver": "late", **measurement.lags(one, late, zero)})
        u, w = torch.rand(2, plan.samples, generator=g)
        leaning = measurement.leaning(net, data, other, u, w, plan.gammas)
        exact = measurement.leaning(Optimum(one), data, other, u, w, ())["loss"]
        rows.append({"seed": s, "solver": "leaning", **leaning, "loss_exact": exact})
    return rows


def post_train(setting: Setting, plan: Plan, base: ensemble.Weights) -> list[dict[str, Any]]:
    """Every arm from one base, judged at each length."""
    labels, gammas = arms.names(plan.gammas), [0.0, *plan.gammas]
    source = Source(worlds_of(setting, plan), plan.seeds, setting.data, "post-training")
    weights = {k: v.repeat(len(labels), *[1] * (v.ndim - 1)) for k, v in base.items()}
    trainer = ensemble.Trainer(setting.shape, weights, plan.post_rate, plan.decay)
    lengths, rows = setting.lengths or plan.lengths, []
    for step in range(1, max(lengths) + 1):
        noise, data, u, w = source.pairs(plan.batch)
        losses = trainer.step(*arms.batch(plan.gammas, noise, data, u, w))
        if step in lengths:
            if not bool(losses.isfinite().all()):
                raise InputError(f"{setting.name}: a loss is not finite at step {step}; lower `post_rate`")
            rows += [{"length": step, **row} for row in judged(setting, plan, trainer.average, labels, gammas)]
    return rows


def run(setting: Setting, plan: Plan, out: Path) -> None:
    """All phases of one setting."""
    folder = out / setting.name
    done(folder / "setting.json", lambda: asdict(setting) | {"parameters": setting.shape.parameters})
    bases = pretrain(setting, plan, folder)
    for name, weights in bases.items():
        done(folder / f"measured-{name}.json", lambda w=weights: measure_base(setting, plan, w))
        done(folder / f"base-{name}.json", lambda w=weights: judged(setting, plan, w, ["base"], [0.0]))
        done(folder / f"post-{name}.json", lambda w=weights: post_train(setting, plan, w))


def oracle(setting: Setting, plan: Plan, out: Path) -> None:
    """The exact optimum of each gamma from the same noise, and the floor: the metrics of genuine samples."""

    def make() -> list[dict[str, Any]]:
        rows = []
        noise = starts(setting, plan, 1)
        for k, (s, one) in enumerate(zip(plan.seeds, worlds_of(setting, plan), strict=True)):
            zero = metrics.entropy(one, rng.torch_generator(s, "entropy"))
            for repeat in range(20):
                data = one.draw(plan.samples, rng.torch_generator(s, "floor", repeat))[0]
                rows.append({"arm": "data", "seed": s, "solver": "none", **metrics.measured(one, data, zero)})
            for gamma in plan.oracle:
                optimum = Optimum(one, gamma)
                exact: Field = lambda x, t, f=optimum: f(x, everywhere(x, t))  # noqa: E731
                for solver in SOLVERS:
                    found = metrics.measured(one, solve(exact, noise[k], solver)[0], zero)
                    rows.append({"arm": f"optimum {gamma:g}", "seed": s, "solver": solver, **found})
        return rows

    done(out / f"oracle-d{setting.d}-{setting.kind}.json", make)
