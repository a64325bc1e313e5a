"""What a verb says while it works and when it has finished: text for people, JSON for machines, progress."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

LOG_EVERY = 10.0
"""Seconds between progress lines when stderr is not a terminal."""


class Output:
    """People's text and the machine's answer, kept apart."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._stage, self._since, self._last, self._done0 = "", 0.0, 0.0, 0
        self._width = 0

    @property
    def columns(self) -> int:
        """Width of the terminal that people's text goes to; 0 for a file or a pipe."""
        stream = sys.stderr if self.as_json else sys.stdout
        return shutil.get_terminal_size().columns if stream.isatty() else 0

    def say(self, text: str) -> None:
        """Lines for people, broken between words where a terminal is narrower; see `paste` for what must stay whole."""
        self.paste("\n".join(folded(line, self.columns) for line in text.split("\n")))

    def paste(self, text: str) -> None:
        """Text as it is, such as code: stdout, or stderr when stdout belongs to JSON."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def answer(self, value: Any) -> None:
        """The machine's answer, only with --json."""
        if self.as_json:
            from slowflow.config import canonical

            print(json.dumps(_finite(canonical(value)), indent=2, ensure_ascii=False), flush=True)

    def stage(self, stage: str, done: int, total: int, note: str) -> None:
        """Progress with rate and remaining time: a bar on a terminal, a plain line now and then elsewhere."""
        if self.quiet:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._end()
            self._stage, self._since, self._last, self._done0 = stage, now, now, done
        terminal = sys.stderr.isatty()
        if done < total and now - self._last < (0.1 if terminal else LOG_EVERY):
            return
        self._last = now
        rate = (done - self._done0) / max(now - self._since, 1e-9)
        left = f"{_clock((total - done) / rate)} left" if rate > 0 and done < total else _clock(now - self._since)
        left = f"{_rate(rate)}, {left}" if rate > 0 else left
        if terminal:
            filled = round(24 * done / max(total, 1))
            line = f"  {stage}  {'█' * filled}{'░' * (24 - filled)} {done}/{total}  {left}  {note}"
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            print("\r" + line[: columns - 1].ljust(min(self._width, columns - 1)), end="", file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(f"  {stage}: {done}/{total}, {left}, {note}", file=sys.stderr, flush=True)
        if done >= total:
            self._end()

    def progress(self, stage: str) -> Callable[[int, int, str], None]:
        """A progress callback for one stage."""
        return lambda done, total, note: self.stage(stage, done, total, note)

    def _end(self) -> None:
        if self._stage and sys.stderr.isatty() and self._width:
            print(file=sys.stderr)
        self._stage, self._width = "", 0


def folded(line: str, columns: int) -> str:
    """A line broken between words for so many columns; it goes on under the text that follows its name, if it has one.

    Args:
        line: without line ends.
        columns: of the terminal; 0 leaves the line as it is, for a file or a pipe.
    """
    if not columns or len(line) < columns:
        return line
    name = re.match(r"\s*\S.*?\s{2,}(?=\S)", line)
    start = len(line) - len(line.lstrip())
    indent = name.end() if name and name.end() <= columns // 2 else start + (2 if start <= columns // 2 else 0)
    return textwrap.fill(
        line,
        columns - 1,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def _rate(rate: float) -> str:
    """`12.5/s`, or the time of one where one takes more than a second."""
    return f"{rate:.3g}/s" if rate >= 1.0 else f"{1.0 / rate:.3g} s each"


def _clock(seconds: float) -> str:
    seconds = max(round(seconds), 0)
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02d}"
    )


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which JSON can hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
