"""Arms of a study: what is done to the model, and nothing else.

An arm has a `train` part (a training remedy and its settings), a `sample` part (a sampling remedy, another sampler), both,
or neither (the base). Everything else, such as learning rate, averages, step counts and n, is the study's protocol and the
same for all arms; an arm that asks for its own is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling
from slowflow.flow.samplers import SAMPLERS
from slowflow.study import making
from slowflow.sweep.folder import BASE
from slowflow.train.loop import TrainConfig

KEYS = ("name", "train", "sample", "sweep", "stage", "until")
NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,79}")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        name: of its folders and its rows.
        group: name of the table it was expanded from.
        train: `remedy` and its settings; None = the base as it is.
        sample: `sampler`, and `remedy` with its settings; None = as the study samples. In both, `measured = true` takes what
            is not set from the measurement of the base.
        stage: arms of one stage are run together, seed by seed; stages one after the other.
        until: the last of the study's lengths that it is trained to; None = all of them. Its looks are those of every
            other arm at the same lengths, because a length is the same run stopped there.
    """

    name: str
    group: str
    train: dict[str, Any] | None = None
    sample: dict[str, Any] | None = None
    stage: int = 0
    until: int | None = None

    def looks(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Post-training steps at which it is looked at: 0 where it is not trained, else the study's up to `until`."""
        if self.train is None:
            return (0,)
        return tuple(length for length in lengths if self.until is None or length <= self.until)

    @property
    def gamma(self) -> float | None:
        """The width of MixFlow's interval where the arm has one."""
        value = (self.train or {}).get("gamma")
        return None if value is None else float(value)

    def sampler(self, usual: str) -> str:
        """Its own sampler, or the study's."""
        return str((self.sample or {}).get("sampler", usual))

    @property
    def wants_measurement(self) -> bool:
        """True when a part of it is made from the measurement of the base."""
        return making.wants_measurement(self.train) or making.wants_measurement(self.sample)


def expand(tables: Sequence[Mapping[str, Any]], where: str) -> list[Arm]:
    """Every arm of the `[[arms]]` tables, in their order; `base` comes first by itself.

    A table's `stage` is its place in the file unless it says otherwise. Its `sweep` maps settings to lists of values; its
    arms are all combinations, the last setting fastest.

    Args:
        tables: as they stand in the file.
        where: said in messages.

    Raises:
        InputError: an unknown key, a setting that belongs to the protocol, a name twice, or an unknown remedy.
    """
    arms = [Arm(BASE, BASE)]
    for number, table in enumerate(tables, start=1):
        arms += _of_table({"stage": number, **table}, where)
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two arms of {where} are called '{twice}'; give one of them another name")
    for arm in arms:
        _checked(arm, where)
    return arms


def _of_table(table: Mapping[str, Any], where: str) -> list[Arm]:
    name = str(table.get("name", ""))
    if not NAME.fullmatch(name):
        raise InputError(f"an arm of {where} is called '{name}'; expected small letters, digits and . _ + -")
    for key in table:
        if key not in KEYS:
            raise InputError(f"the arm '{name}' of {where} sets '{key}'{_why(key)}")
    if type(table["stage"]) is not int:
        raise InputError(f"'stage' of the arm '{name}' of {where} is {table['stage']!r}, expected a whole number")
    if type(table.get("until", 0)) is not int:
        raise InputError(f"'until' of the arm '{name}' of {where} is {table['until']!r}, expected one of the lengths")
    parts = {part: _part(table, part, name, where) for part in ("train", "sample")}
    if not any(parts.values()):
        raise InputError(
            f"the arm '{name}' of {where} has neither a 'train' nor a 'sample' part; '{BASE}' is there anyway"
        )
    sweep = table.get("sweep", {})
    if not isinstance(sweep, dict) or any(not isinstance(values, list) or not values for values in sweep.values()):
        raise InputError(f"'sweep' of the arm '{name}' of {where} must map settings to lists of values")
    part = "train" if parts["train"] else "sample"
    found = []
    for values in itertools.product(*sweep.values()):
        swept = dict(zip(sweep, values, strict=True))
        own = {**parts, part: {**(parts[part] or {}), **swept}}
        title = "-".join([name, *(_plain(value) for value in values)])
        found.append(Arm(title, name, own["train"] or None, own["sample"] or None, table["stage"], table.get("until")))
    return found


def check_until(arm: Arm, lengths: Sequence[int], where: str) -> None:
    """Refuse an arm that stops where the study does not look, or that has nothing to stop.

    Raises:
        InputError: `until` is none of the lengths, or the arm is not trained.
    """
    if arm.until is None:
        return
    if arm.train is None:
        raise InputError(f"the arm '{arm.name}' of {where} is not trained, so it has no 'until'; leave it out")
    if arm.until not in lengths:
        raise InputError(
            f"'until' of the arm '{arm.name}' of {where} is {arm.until}, expected one of the study's lengths, "
            f"{', '.join(map(str, lengths))}"
        )


def _part(table: Mapping[str, Any], part: str, name: str, where: str) -> dict[str, Any]:
    found = table.get(part, {})
    if not isinstance(found, dict):
        raise InputError(f"'{part}' of the arm '{name}' of {where} is {found!r}, expected a table")
    if part == "train" and found and "remedy" not in found:
        raise InputError(f"'train' of the arm '{name}' of {where} names no remedy")
    return dict(found)


def _checked(arm: Arm, where: str) -> None:
    """Refuse an arm that cannot be made, before anything is run."""
    for part in (arm.train, arm.sample):
        for key in part or {}:
            if key in _protocol_fields() and key != "sampler" and (part is arm.train or "remedy" not in (part or {})):
                raise InputError(f"the arm '{arm.name}' of {where} sets '{key}'{_why(key)}")
    try:
        making.check(arm.train, arm.sample)
        SAMPLERS.get(arm.sampler("euler"))
    except InputError as error:
        raise InputError(f"the arm '{arm.name}' of {where}: {error}") from error


def _protocol_fields() -> set[str]:
    return {f.name for kind in (TrainConfig, Sampling) for f in fields(kind)} - {"shift"} | {"n", "lengths", "features"}


def _why(key: str) -> str:
    if key in _protocol_fields():
        return ", but every arm has the same: it belongs to the protocol ([train], [sampling] or the top of the file)"
    return f"; expected {', '.join(KEYS)}"


def _plain(value: Any) -> str:
    return re.sub(r"[^a-z0-9._+-]+", "-", f"{value:g}" if isinstance(value, float) else str(value).lower())
