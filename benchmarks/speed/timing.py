"""Ratios that a busy machine cannot fake: A and B are interleaved and process time, not wall time, is read.

A quotient is taken of neighbouring runs, which see the same neighbours on the machine; the median over rounds is
reported, with the quartiles as its noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True)
class Ratio:
    """One benchmark.

    Args:
        name: key in last.json. value: median. low, high: quartiles over the rounds.
        side, bar: what is aimed at.
        floor: the same ratio if the extra work ran at the machine's peak; None where none can be named.
        note: what the floor counts, or what was scaled.
    """

    name: str
    value: float
    low: float
    high: float
    side: str
    bar: float
    floor: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """The bar is reached."""
        return self.value <= self.bar if self.side == AT_MOST else self.value >= self.bar

    def worse_than(self, before: Ratio) -> bool:
        """Slower than before by more than both noises: the intervals do not touch."""
        return self.low > before.high if self.side == AT_MOST else self.high < before.low


def seconds(work: Callable[[], object]) -> float:
    """Process time of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def quotients(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """(median, lower and upper quartile) of A over B, after one warm-up of each."""
    a(), b()
    found = [seconds(a) / seconds(b) for _ in range(rounds)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return middle, low, high


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Least process time of several runs: what the machine can do when it is left alone."""
    return min(seconds(work) for _ in range(rounds))
