"""Search while the network samples: what is done with finished trajectories runs behind the sampler's back.

A GPU is idle while the host searches, and the host while the GPU samples. One thread takes the finished trajectories, one
batch at a time, on a stream of its own, so that matrix products of the search fall between those of the network. What is
computed, and the order in which it is, stays the same. On a CPU both would want the same cores: there it is done at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

Job = Callable[[], None]


def _now(job: Job) -> None:
    job()


@contextlib.contextmanager
def behind(wanted: bool, device: torch.device) -> Iterator[Callable[[Job], None]]:
    """Something that takes jobs: done one after the other, at most one at a time behind the caller's back.

    Leaving waits for the last job; what a job raises is raised at the next call or on leaving.

    Args:
        wanted: in another thread; False = at once.
        device: where the other work is.
    """
    if not wanted:
        yield _now
        return
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    last: list[Future[None]] = []

    def work(job: Job) -> None:
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            job()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="slowflow-search") as pool:

        def take(job: Job) -> None:
            if last:
                last.pop().result()  # no more than one batch waits: trajectories are large
            last.append(pool.submit(work, job))

        yield take
        if last:
            last.pop().result()
