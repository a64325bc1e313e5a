"""Verbs on several processes: who works, who prints, and how one failure stops all.

torchrun --nproc-per-node 8 -m slowflow_cli measure ...      processes that know one another
slowflow measure ... --rank 3 --world 20                     one task of a job array; tasks never talk
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from slowflow_cli import shared

from slowflow.errors import InputError

ARRAY = ("measure", "sample", "evaluate", "encode")
"""Verbs whose work a job array can share."""
TOGETHER = (*ARRAY, "posttrain", "pretrain", "run", "demo")
"""Verbs that every process of a launch works on; the first process does the others alone."""
OPTIONS = {
    "rank": Annotated[
        int | None, typer.Option(help="Which task of a job array this is, from 0; with --world.", show_default=False)
    ],
    "world": Annotated[
        int | None,
        typer.Option(help="Tasks of the job array: each makes its share, the last one merges.", show_default=False),
    ],
    "job_array": Annotated[bool, typer.Option("--job-array", help="--rank and --world from Slurm's job array.")],
}
DEFAULTS: dict[str, Any] = {"rank": None, "world": None, "job_array": False}


def spread(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """A verb that may be one of several processes."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> int | None:
        asked = {name: options.pop(name, value) for name, value in DEFAULTS.items()}
        if not any(value not in (None, False) for value in asked.values()) and not _several():
            return function(*args, **options)
        from slowflow.io import launch, ranks

        output = shared.Output(bool(options.get("json")), bool(options.get("quiet")))
        try:
            with launch.joined(_task(**asked)) as here, _muted(not here.leads):
                if function.__name__ in TOGETHER:
                    return function(*args, **options)
                if here.leads:
                    with ranks.acting_as(ranks.ALONE):
                        return function(*args, **options)
        except launch.OtherRankError as error:
            return error.exit_code  # the rank that failed says why
        except ranks.ShareDone as done:
            output.say(str(done))
            output.answer({"finished": False, "told": str(done)})
        return 0

    if function.__name__ in ARRAY:
        _add_options(wrapped, function)
    return wrapped


def _add_options(wrapped: Any, function: Callable[..., int | None]) -> None:
    kind = inspect.Parameter.KEYWORD_ONLY
    extra = [inspect.Parameter(name, kind, default=DEFAULTS[name], annotation=OPTIONS[name]) for name in OPTIONS]
    signature = inspect.signature(function, eval_str=True)
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])
    wrapped.__annotations__ = {name: p.annotation for name, p in wrapped.__signature__.parameters.items()}


def _several() -> bool:
    """A first look at the environment that costs nothing; `ranks.launched` decides."""
    return any(os.environ.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))


def _task(rank: int | None, world: int | None, job_array: bool) -> Any:
    """The task of a job array that was asked for, None when none was.

    Raises:
        InputError: half of --rank and --world, or an array inside a launch of several processes.
    """
    from slowflow.io import ranks

    if rank is None and world is None and not job_array:
        return None
    if job_array and (rank is not None or world is not None):
        raise InputError("--job-array takes rank and world from Slurm; give it, or --rank and --world, not both")
    if not job_array and (rank is None or world is None):
        raise InputError("--rank and --world belong together: --rank 0 --world 8 is the first of eight tasks")
    if ranks.launched(os.environ) is not None:
        raise InputError("a task of a job array is one process; start it without torchrun and with one task a step")
    return ranks.array_task(os.environ) if job_array else ranks.Ranks(int(rank or 0), int(world or 1))


@contextlib.contextmanager
def _muted(wanted: bool) -> Iterator[None]:
    """Only the first process prints."""
    if not wanted:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
