"""Every error SlowFlow raises on purpose.

An error here is one clear sentence for a person: what was found, what was expected, what to do next.
The command line turns the class into an exit code, so no caller has to parse the text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SlowFlowError(Exception):
    """Base of all errors that SlowFlow raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 3


class InputError(SlowFlowError):
    """A value, file or folder given by the user cannot be used as it is."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, unsafe or does not fit the family it was opened with."""


class DataError(InputError):
    """A data set is missing, empty, of the wrong shape or has labels out of range."""


class ConfigMismatchError(InputError):
    """A run folder already holds a run with another configuration."""


class NonFiniteError(InputError):
    """A NaN or an infinity appeared where a number was needed.

    Args:
        text: what happened.
        step: of the training run in which it did; None elsewhere.
    """

    def __init__(self, text: str, step: int | None = None) -> None:
        super().__init__(text)
        self.step = step


class EnvironmentProblem(SlowFlowError):
    """Something outside the input is missing: an optional package, disk space, memory."""

    exit_code = 4


class MissingExtraError(EnvironmentProblem):
    """An optional package is not installed.

    Args:
        package: the import that failed.
        extra: the SlowFlow extra that brings it.
        needed_for: what could not be done without it.
    """

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed: pip install 'slowflow[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the closest known name, empty when none is close: a part of an error's sentence."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
