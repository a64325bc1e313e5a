"""Out of memory: the batch is halved and the same work done again, until it fits or one sample does not.

Samples know nothing of their batch (noise, class and time belong to the sample), so the result is that of never having
failed. What fits is remembered for each network. Devices report the same thing in different words; they are matched here.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

from slowflow.errors import EnvironmentProblem

T = TypeVar("T")
WORDS = (
    "out of memory",  # CUDA, HIP, MPS, XPU
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "cudnn_status_alloc_failed",
    "cudnn_status_not_supported",  # cuDNN's answer when its workspace does not fit
    "cudnn_status_internal_error_device_allocation_failed",
    "cublas_status_alloc_failed",
)


class SmallerBatch(UserWarning):
    """The batch was made smaller because memory ran out; results are the same."""


_fits: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


class _State:
    """whole: batches must not be halved now."""

    whole = False


class Watch:
    """Sees how small batches became while it exists; what a run's manifest records.

    fitted: samples that went through at once where memory had run out, the smallest; None where it never did.
    """

    def __init__(self) -> None:
        self.fitted: int | None = None
        _watches.add(self)


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def used(owner: object) -> None:
    """Tell every watch that `owner` goes on with fewer samples at once, where it does."""
    size = _fits.get(owner)
    if size is None:
        return
    for watch in tuple(_watches):
        watch.fitted = size if watch.fitted is None else min(watch.fitted, size)


@contextlib.contextmanager
def undivided(wanted: bool = True) -> Iterator[None]:
    """Inside, running out of memory is an error: ranks exchange something in every call, so all must make as many."""
    before, _State.whole = _State.whole, _State.whole or wanted
    try:
        yield
    finally:
        _State.whole = before


def ran_out(error: BaseException) -> bool:
    """True when the error means that memory ran out, whatever device says so."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text for w in WORDS))


def fitting(owner: object) -> int | None:
    """Samples at once that fit where memory ran out before; None where it never did."""
    return _fits.get(owner)


def in_parts(owner: object, work: Callable[[int, int], T], n: int) -> list[T]:
    """`work(first, last)` over n samples in as few parts as memory allows; in order.

    Args:
        owner: what the size is remembered for, such as a network.
        work: what is done to samples first to last - 1; called again with fewer when memory ran out.
        n: number of samples.

    Raises:
        EnvironmentProblem: one sample alone does not fit.
    """
    if _State.whole:
        return [work(0, n)] if n else []
    done: list[T] = []
    first = 0
    while first < n:
        size = min(_fits.get(owner, n), n - first)
        try:
            part = work(first, first + size)
        except Exception as error:
            if not ran_out(error):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            failed = True
        else:
            failed = False
        if failed:  # outside of the handler, which would keep the memory of the failed call alive
            halve(owner, size, reason)
            continue
        done.append(part)
        first += size
    used(owner)
    return done


def halve(owner: object, size: int, reason: str) -> int:
    """Remember half of `size` for `owner`, say so once, and free what can be freed.

    Raises:
        EnvironmentProblem: `size` was one.
    """
    if size <= 1:
        raise EnvironmentProblem(
            f"out of memory with a single sample ({reason}); a smaller model, another --dtype or a larger device is needed"
        )
    if owner not in _fits:
        warnings.warn(
            SmallerBatch(f"out of memory with {size} samples at once; going on with fewer, the results stay the same"),
            stacklevel=3,
        )
    _fits[owner] = size // 2
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return size // 2
