"""Ranks: which part of a run this process makes.

Work is cut into files keyed by sample ids, so any number of processes can share a run: each makes files that nobody else
makes, and the first one merges. How many there are enters no configuration and no byte of the result, so a run that was
begun by 64 processes may be finished by one.

    joined    processes of one launch (torchrun, accelerate launch, srun): they wait for one another and fail together
    array     tasks of a job array: they never talk; whoever finds every file present merges, or the plain command does
    alone     everybody else
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from slowflow.errors import InputError, SlowFlowError

CLAIM = ".merging.part"
"""Who of a job array merges; the ending lets the plain command clear away the claim of a task that was killed."""
FIRST_PORT, PORTS = 20_000, 20_000
"""Where the ranks of a Slurm step meet: a port that follows from the job's number."""


class ShareDone(SlowFlowError):
    """A task of a job array has made its share and others have not; the run is well and unfinished."""

    exit_code = 0


@runtime_checkable
class Link(Protocol):
    """How joined ranks hear of one another."""

    def check(self) -> None:
        """Raise when another rank has failed."""
        ...

    def meet(self) -> None:
        """Wait until every rank is here; raise when one has failed."""
        ...

    def tell(self, value: Any) -> Any:
        """The plain value of rank 0, on every rank."""
        ...


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a run.

    Args:
        rank: 0 to world - 1. world: processes. local: rank among those on this machine; decides the GPU.
        link: to the others; None when alone or in a job array.

    Raises:
        InputError: a rank that is not below the world's size.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    link: Link | None = None

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} of {self.world}: ranks run from 0 to one below their number")

    @property
    def leads(self) -> bool:
        """True for the process that writes what all have in common, and prints."""
        return self.rank == 0 or self.link is None

    @property
    def array(self) -> bool:
        """True for a task of a job array."""
        return self.world > 1 and self.link is None

    def check(self) -> None:
        """Raise when another rank has failed."""
        if self.link is not None:
            self.link.check()

    def meet(self) -> None:
        """Wait for the other ranks."""
        if self.link is not None:
            self.link.meet()

    def share(self, folder: Path, names: Sequence[str]) -> frozenset[str]:
        """The missing files that this process makes; the shares of all ranks are disjoint and leave nothing out.

        Joined ranks deal out what is missing, so that a resumed run is balanced whatever its former world was. Tasks of
        an array cannot know what others are about to make and deal out all files.
        """
        if self.array:
            names = names[self.rank :: self.world]
        missing = [name for name in names if not (folder / name).exists()]
        if self.link is not None:
            missing = list(self.link.tell(missing))[self.rank :: self.world]
        return frozenset(missing)

    def gathered(self, folder: Path, names: Sequence[str]) -> None:
        """Wait until every file is there; whoever `leads` may merge them then.

        Raises:
            ShareDone: a task of an array found files missing, or another task merging.
            InputError: joined ranks do not see one another's files.
        """
        self.meet()
        missing = [name for name in names if not (folder / name).exists()]
        if self.array:
            self._claim(folder, len(missing), len(names))
        elif missing and self.leads:
            raise InputError(
                f"{len(missing)} of {len(names)} shards (first: '{missing[0]}') are not in {folder} though every rank made its "
                "share: --out must be a folder that all ranks share"
            )

    def _claim(self, folder: Path, missing: int, total: int) -> None:
        done = f"task {self.rank} of {self.world} has made its share of {folder}"
        if missing and not folder.exists():
            raise ShareDone(f"{done}, and another task has merged all")
        if missing:
            raise ShareDone(
                f"{done}; {missing} of {total} shards are missing; the last task merges them, or the same command "
                "without the array"
            )
        try:
            os.close(os.open(folder / CLAIM, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise ShareDone(
                f"{done}; another task merges; if it was stopped, the same command without the array does"
            ) from None


ALONE = Ranks()
_here = ALONE


def current() -> Ranks:
    """This process's ranks; alone unless a launch or `acting_as` says otherwise."""
    return _here


@contextmanager
def acting_as(ranks: Ranks) -> Iterator[Ranks]:
    """Be one of several for a while."""
    global _here
    before, _here = _here, ranks
    try:
        yield ranks
    finally:
        _here = before


def launched(environment: Mapping[str, str]) -> Ranks | None:
    """Rank, world and local rank that a launcher told this process, without a link; None when there is only one.

    torchrun and `accelerate launch` set RANK, WORLD_SIZE and LOCAL_RANK. A Slurm step (srun) sets its own names; the
    variables of the allocation (SLURM_NTASKS) are not read, because a batch script that starts one process has them too.

    Raises:
        InputError: variables that are no numbers.
    """
    for rank, world, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if rank in environment and world in environment:
            found = Ranks(_number(environment, rank), _number(environment, world), _number(environment, local, 0))
            return found if found.world > 1 else None
    return None


def array_task(environment: Mapping[str, str]) -> Ranks:
    """This task of a Slurm job array.

    Raises:
        InputError: there is no array, or it has gaps that its step does not explain.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        raise InputError("--job-array: no SLURM_ARRAY_TASK_ID is set; give --rank and --world instead")
    first, step = (_number(environment, f"SLURM_ARRAY_TASK_{name}", low) for name, low in (("MIN", 0), ("STEP", 1)))
    place, rest = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - first, max(step, 1))
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    if rest or not 0 <= place < count:
        raise InputError(
            f"the job array's task numbers have gaps (task {environment['SLURM_ARRAY_TASK_ID']} of {count}, from {first} in "
            f"steps of {step}); submit it as 0-{count - 1}, or give --rank and --world"
        )
    return Ranks(place, count)


def meeting_place(environment: Mapping[str, str]) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, from Slurm's variables where no launcher set them.

    Raises:
        InputError: several ranks and no way to tell where they meet.
    """
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    address = environment.get("MASTER_ADDR") or (first and first[1] + (first[2] or ""))
    if not address or "SLURM_JOB_ID" not in environment:
        raise InputError(
            "several ranks were launched, but MASTER_ADDR and MASTER_PORT are not set; start with torchrun"
        )
    number = 31 * _number(environment, "SLURM_JOB_ID") + _number(environment, "SLURM_STEP_ID", 0)
    return {"MASTER_ADDR": address, "MASTER_PORT": environment.get("MASTER_PORT", str(FIRST_PORT + number % PORTS))}


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise InputError(f"the environment variable {name} is '{text}', expected a number")
    return int(text)
