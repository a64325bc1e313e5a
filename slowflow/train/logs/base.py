"""The interface of a log, and several of them as one.

A log is for looking on: nothing is read back from it, it stands in no manifest, and a training writes the same weights
with and without it. Steps that a resumed run makes again replace those that were logged before it was cut.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slowflow.io import ranks
from slowflow.registry import Registry

EVERY = 10
"""Steps between entries; the last step and those with a held-out loss have one of their own."""
FOLDER = "logs"
Numbers = Callable[[int, Mapping[str, float]], None]
"""Called with the number of steps taken and what is known after them, by name."""


class Log(ABC):
    """One place that numbers go to. Making it writes nothing, so that what is missing is told before a run begins.

    Args:
        folder: that it may fill.
        name: of the run, for people.
        settings: of the run, in plain values.

    Raises:
        MissingExtraError: the package behind it is not installed.
    """

    @abstractmethod
    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add an entry; the first call opens the log at this step."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will come; called also when a run was cut."""


LOGS: Registry[type[Log]] = Registry("log", "slowflow.train.logs")


def check(names: Sequence[str]) -> None:
    """Refuse what cannot be logged to, before there is a run folder.

    Raises:
        InputError: no such log.
        MissingExtraError: a package is not installed.
    """
    for one in names:
        LOGS.get(one)(Path(FOLDER), "", {})


@contextlib.contextmanager
def open_logs(names: Sequence[str], run: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Numbers | None]:
    """What writes into all logs called `names`, with the rate beside the numbers; None where there is none to write.

    Args:
        names: as LOGS has them.
        run: the run folder; each log has a folder in it.
        name, settings: as for a log.

    Raises:
        InputError: no such log.
        MissingExtraError: a package is not installed; on every rank alike, though only the first one writes.
    """
    logs = [LOGS.get(one)(run / FOLDER / one, name, settings) for one in dict.fromkeys(names)]
    before: tuple[int, float] | None = None

    def write(step: int, values: Mapping[str, float]) -> None:
        nonlocal before
        now = time.monotonic()
        rate = {} if before is None else {"steps a second": (step - before[0]) / max(now - before[1], 1e-9)}
        before = step, now
        for log in logs:
            log.write(step, {**values, **rate})

    try:
        yield write if logs and ranks.current().leads else None
    finally:
        for log in logs:
            log.close()
