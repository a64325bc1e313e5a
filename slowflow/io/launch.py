"""Joining the ranks of one launch: a shared key-value store, and a process group only where gradients need one.

Measuring, sampling, encoding and evaluating exchange no tensors: ranks wait for one another through the store that every
launcher brings (torch.distributed.rendezvous). Waiting there has no time limit, as a share may take hours, and shows at
once when another rank has failed: the first failure is written into the store, every rank stops with its sentence and its
exit code, and only the rank that failed first says it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from slowflow.errors import EnvironmentProblem, SlowFlowError
from slowflow.io import ranks
from slowflow.io.ranks import Ranks

if TYPE_CHECKING:
    import torch.distributed as dist

FAREWELL = 10.0
"""Seconds for which a failed rank keeps the store alive, so that the others can read why."""
START = timedelta(minutes=10)
FAILED = "failed"


class OtherRankError(SlowFlowError):
    """Another rank has failed and has said why.

    Args:
        told: its sentence. exit_code: what every rank returns.
    """

    def __init__(self, told: str, exit_code: int) -> None:
        super().__init__(told)
        self.exit_code = exit_code


@dataclass
class StoreLink:
    """A link through the launcher's store.

    Args:
        store: shared by all ranks. rank, world: as in Ranks.
    """

    store: dist.Store
    rank: int
    world: int
    _met: int = field(default=0, init=False)
    _told: int = field(default=0, init=False)

    def check(self) -> None:
        """Raise when another rank has failed, or the store is gone with the rank that kept it."""
        try:
            failed = json.loads(self.store.get(FAILED)) if self.store.check([FAILED]) else None
        except RuntimeError as error:  # the store's own errors derive from it
            raise EnvironmentProblem(
                "the rank that kept the others together is gone; its own output says why"
            ) from error
        if failed is not None and failed["rank"] != self.rank:
            raise OtherRankError(failed["told"], int(failed["exit_code"]))

    def meet(self) -> None:
        """Wait until every rank is here."""
        self._met += 1
        key = f"meet/{self._met}"
        self.store.add(key, 1)
        self._until(lambda: self.store.add(key, 0) >= self.world)

    def tell(self, value: Any) -> Any:
        """The plain value of rank 0, on every rank."""
        self._told += 1
        key = f"tell/{self._told}"
        if self.rank == 0:
            self.store.set(key, json.dumps(value))
            return value
        self._until(lambda: self.store.check([key]))
        return json.loads(self.store.get(key))

    def _until(self, ready: Any) -> None:
        pause = 0.001
        while True:
            self.check()
            try:
                if ready():
                    return
            except RuntimeError:
                self.check()
                raise
            time.sleep(pause)
            pause = min(2 * pause, 0.2)

    def fail(self, told: str, exit_code: int) -> bool:
        """Tell the others; True when this rank is the first to fail and should say so itself."""
        first = self.store.add("failures", 1) == 1
        if first:
            said = {"rank": self.rank, "told": f"rank {self.rank} of {self.world}: {told}", "exit_code": exit_code}
            self.store.set(FAILED, json.dumps(said))
        return first

    def leave(self) -> None:
        """Wait a moment for the others: the store may live in this process."""
        end = time.monotonic() + FAREWELL
        try:
            self.store.add("left", 1)
            while self.rank == 0 and time.monotonic() < end and self.store.add("left", 0) < self.world:
                time.sleep(0.01)
        except RuntimeError:
            return  # the store is gone, so there is nobody to wait for


@contextmanager
def joined(given: Ranks | None = None) -> Iterator[Ranks]:
    """Be one of the ranks of this launch, if there are several.

    Args:
        given: a task of a job array; None = what the environment says.

    Raises:
        InputError: variables of a launcher that make no sense.
        EnvironmentProblem: the ranks cannot find one another.
        OtherRankError: another rank failed.
    """
    told = given or ranks.launched(os.environ)
    if told is None or given is not None:
        with ranks.acting_as(told or ranks.ALONE) as here:
            yield here
        return
    link = StoreLink(_store(told), told.rank, told.world)
    _choose_device(told.local)
    try:
        with ranks.acting_as(replace(told, link=link)) as here:
            yield here
        _end_group()
    except OtherRankError:
        raise
    except BaseException as error:
        _fail(link, error)
        raise
    finally:
        link.leave()


def _fail(link: StoreLink, error: BaseException) -> None:
    """Tell the others; or raise, where this failure only follows from theirs (a peer that closes its connection).

    Raises:
        OtherRankError: another rank failed first.
    """
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    try:
        if link.fail(str(error) or type(error).__name__, int(code)):
            return
        for _ in range(100):  # the first one is about to write its sentence
            link.check()
            time.sleep(0.01)
    except (RuntimeError, EnvironmentProblem):
        return  # the store is gone


def _store(told: Ranks) -> dist.Store:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    place = {
        **ranks.meeting_place(os.environ),
        "RANK": str(told.rank),
        "WORLD_SIZE": str(told.world),
        "LOCAL_RANK": str(told.local),
    }
    os.environ.update(place)
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=START)))
    except (RuntimeError, OSError) as error:
        raise EnvironmentProblem(
            f"rank {told.rank} of {told.world} cannot reach the others at {place['MASTER_ADDR']}:{place['MASTER_PORT']}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return PrefixStore("slowflow", store)


def _choose_device(local: int) -> None:
    """One GPU a rank; a step that shows every task its own GPU shows it as number 0."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())


def group() -> None:
    """Start the process group that gradients travel through: gloo for tensors on the CPU, nccl for those on GPUs."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    here = ranks.current()
    if dist.is_initialized() or not isinstance(here.link, StoreLink):
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = PrefixStore("group", here.link.store)
    dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.world, timeout=START)


def _end_group() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
