"""A study's settings: one protocol, many arms, in one TOML file.

    name = "mnist5k"
    data = "mnist5k"              # as for --data
    features = "fd-mnist"
    lengths = [100, 300, 1000]    # stops of ONE run of the longest length
    seeds = [0, 1, 2]
    model = "mnist-sit"           # or [base.model] and [base.train]: a recipe of its own; family, factory, interpolant,
                                  # prediction and heads as for measure
    [train]     learning rate, batch, averages: as for posttrain, the same for every arm
    [sampling]  samples, steps, sampler: as for evaluate, the same for every arm
    [measure]   samples, steps, references: as for measure; left out, no lag is measured
    [[arms]]    name, train, sample, sweep, stage, until

The protocol is the identity of a study's folder; arms may be added to it later. `extends = "other.toml"` takes the
protocol of another file, so that a file of further arms cannot differ from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from slowflow.config import canonical, from_mapping, read_toml
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling
from slowflow.families.base import OpenOptions
from slowflow.families.sit.backbone import SiTConfig
from slowflow.records import Probe
from slowflow.study.arms import Arm, check_until, expand
from slowflow.train.loop import TrainConfig
from slowflow.train.pretrain import DataRecipe, Recipe

SECTIONS = ("base", "train", "sampling", "measure")
OPENING = tuple(field.name for field in fields(OpenOptions))
PLAIN = ("name", "data", "heldout", "features", "lengths", "seeds", "model", "family")
OWN = ("steps", "lr_final", "seed", "valid_every")
"""Fields of a training configuration that a study sets itself."""


@dataclass(frozen=True)
class Protocol:
    """What every arm shares.

    Args:
        name: of the study.
        data: as for `--data`.
        features: what the Frechet distance is measured in.
        lengths: post-training steps at which an arm is looked at, ascending.
        seeds: of post-training; the sampling noise of seed s is `sampling.seed` + s.
        train: settings of every post-training; `steps` is the longest length and the learning rate is constant after
            warm-up, so that a length of 300 is the same run stopped at 300.
        sampling: how samples are made.
        probe: what is measured of the base and of the longest length; None = nothing.
        model: the starting point; None where `base` says how it is trained.
        base: recipe of the starting point.
        family: who opens `model`. opening: what its file cannot tell.
        heldout: share of each class that is never trained on, and judged by.
    """

    name: str
    data: str
    features: str
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    train: TrainConfig
    sampling: Sampling
    probe: Probe | None = None
    model: str | None = None
    base: Recipe | None = None
    family: str = "sit"
    opening: OpenOptions = field(default_factory=OpenOptions)
    heldout: float = 0.2

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 1:
            raise InputError(f"lengths is {list(self.lengths)}, expected ascending numbers of steps, each at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds is {list(self.seeds)}, expected different whole numbers")
        if (self.model is None) == (self.base is None):
            raise InputError(
                "a study starts from a 'model' or from a recipe in [base.model] and [base.train]; give one"
            )
        if self.base is not None and self.opening != OpenOptions():
            raise InputError("interpolant, prediction, heads and factory belong to a 'model'; a [base] names its own")

    @property
    def identity(self) -> dict[str, Any]:
        """The protocol in plain values; what was not told of the opening is left out, so that studies begun before it could
        be told go on."""
        found = canonical(self)
        told = {key: value for key, value in found.pop("opening").items() if value is not None}
        return found | ({"opening": told} if told else {})

    def training(self, seed: int, until: int | None = None) -> TrainConfig:
        """Settings of one post-training; `until` is its last length, the longest when None."""
        return replace(self.train, seed=seed, steps=until or self.lengths[-1])

    def drawing(self, seed: int) -> Sampling:
        """How samples of one post-training are made: each seed has its own noise, every arm of a seed the same."""
        return replace(self.sampling, seed=self.sampling.seed + seed)


@dataclass(frozen=True)
class Study:
    """A protocol and its arms, in the order they are run."""

    protocol: Protocol
    arms: tuple[Arm, ...] = field(default_factory=tuple)

    def cells(self) -> list[tuple[Arm, int]]:
        """(arm, seed) in running order: stage by stage, inside one seed by seed.

        A study that is stopped has then finished a whole sweep under few seeds rather than a few arms under all.
        """
        every = [(arm, seed) for seed in self.protocol.seeds for arm in self.arms]
        return sorted(every, key=lambda cell: cell[0].stage)


def read_study(path: str | Path) -> Study:
    """Parse a study's file strictly.

    Raises:
        InputError: not TOML, an unknown, missing or wrong setting, or an arm that cannot be made.
    """
    path = Path(path)
    content = read_toml(path)
    tables = content.pop("arms", [])
    if "extends" in content:
        base = content.pop("extends")
        if content:
            raise InputError(
                f"{path} extends {base} and sets '{next(iter(content))}'; such a file may only add [[arms]]"
            )
        first = read_study(path.parent / str(base))
        last = max(arm.stage for arm in first.arms)
        more = [replace(arm, stage=last + arm.stage) for arm in expand(tables, str(path))[1:]]
        known = {arm.name for arm in first.arms}
        twice = next((arm.name for arm in more if arm.name in known), None)
        if twice is not None:
            raise InputError(f"the arm '{twice}' of {path} is already one of {base}")
        return _checked(Study(first.protocol, (*first.arms, *more)), path)
    return _checked(Study(_protocol(content, path), tuple(expand(tables, str(path)))), path)


def _checked(study: Study, path: Path) -> Study:
    for arm in study.arms:
        check_until(arm, study.protocol.lengths, str(path))
    return study


def _protocol(content: dict[str, Any], path: Path) -> Protocol:
    for key in content:
        if key not in (*PLAIN, *OPENING, *SECTIONS):
            known = ", ".join((*PLAIN, *OPENING, *SECTIONS))
            raise InputError(f"unknown setting '{key}' in {path} (known: {known}, arms, extends)")
        if key in SECTIONS and not isinstance(content[key], dict):
            raise InputError(f"'{key}' in {path} is {content[key]!r}, expected a section [{key}]")
    plain = from_mapping(_Plain, {key: content[key] for key in PLAIN if key in content}, str(path))
    told = dict(content.get("train", {}))
    for key in OWN:
        if key in told:
            raise InputError(
                f"[train] of {path} sets '{key}', which a study sets itself: steps = the longest length, a constant "
                "learning rate, seeds as listed, no held-out losses"
            )
    steps = max(plain.lengths, default=1)
    train = from_mapping(TrainConfig, {**told, "steps": steps, "valid_every": 0}, f"[train] of {path}")
    return Protocol(
        name=plain.name,
        data=plain.data,
        features=plain.features,
        lengths=plain.lengths,
        seeds=plain.seeds,
        train=replace(train, lr_final=train.lr),
        sampling=from_mapping(Sampling, content.get("sampling", {}), f"[sampling] of {path}"),
        probe=from_mapping(Probe, content["measure"], f"[measure] of {path}") if "measure" in content else None,
        model=plain.model,
        base=_base(content.get("base"), plain, path),
        family=plain.family,
        opening=from_mapping(OpenOptions, {key: content[key] for key in OPENING if key in content}, str(path)),
        heldout=plain.heldout,
    )


@dataclass(frozen=True)
class _Plain:
    """The settings above the sections."""

    name: str
    data: str
    features: str
    lengths: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    model: str | None = None
    family: str = "sit"
    heldout: float = 0.2


def _base(content: dict[str, Any] | None, plain: _Plain, path: Path) -> Recipe | None:
    if content is None:
        return None
    unknown = sorted(content.keys() - {"model", "train", "interpolant", "prediction"})
    if unknown:
        raise InputError(f"unknown setting '{unknown[0]}' in [base] of {path}")
    return Recipe(
        name=f"{plain.name}-base",
        model=from_mapping(SiTConfig, content.get("model", {}), f"[base.model] of {path}"),
        data=DataRecipe(plain.data, plain.heldout),
        train=from_mapping(TrainConfig, content.get("train", {}), f"[base.train] of {path}"),
        interpolant=str(content.get("interpolant", "linear")),
        prediction=str(content.get("prediction", "velocity")),
    )
