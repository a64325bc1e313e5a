"""Stopping on a signal: at once, or after the step at hand where a saved state is worth more than the time.

Ctrl-C, SIGTERM (schedulers, pre-empted machines) and SIGHUP (a lost terminal) all mean: save and end. Work in shards is
ended at once, because what is finished is on disk already. Training runs under `deferred`, saves when `asked` and then
obeys. A second signal, or GRACE seconds, end it at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE = 20.0
"""Seconds from the signal to a stop without saving; schedulers commonly kill after 30."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _State:
    """asked: a signal came. waiting: how many parts of the work look at it by themselves. alarm: handler before ours."""

    asked = False
    waiting = 0
    alarm: Any = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only sets `asked`; who uses this must look at it often, save, and `obey`."""
    _State.waiting += 1
    try:
        yield
    finally:
        _State.waiting -= 1


def asked() -> bool:
    """True when a signal asked to stop."""
    return _State.asked


def obey(asked: bool) -> None:
    """End the work when that was asked for, of this process or of another that works on the same.

    Raises:
        KeyboardInterrupt: it was.
    """
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Signals stop the work inside; for the command line. Handlers that were there before come back.

    A signal that the surroundings ignore stays ignored (nohup, jobs in the background).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked = False
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal) for number in heard}
    try:
        yield
    finally:
        _State.asked = False
        if _State.alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            before[signal.SIGALRM], _State.alarm = _State.alarm, None
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    again, _State.asked = _State.asked, True
    if again or not _State.waiting:
        raise KeyboardInterrupt
    if hasattr(signal, "SIGALRM"):
        _State.alarm = signal.signal(signal.SIGALRM, _out_of_time) or signal.SIG_DFL
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
