"""How a verb fails: a sentence on stderr and an exit code, never a traceback without --debug."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from slowflow import memory
from slowflow.errors import SlowFlowError
from slowflow.io import holder, ranks, stopping


def verb(function: Callable[..., int | None]) -> Callable[..., None]:
    """Errors as sentences and exit codes; never a traceback without --debug."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> None:
        holder.command = shlex.join(["slowflow", *sys.argv[1:]])
        try:
            told = ranks.launched(os.environ)
            if isinstance(options.get("out"), Path) and (told is None or told.rank == 0):  # who has it for all ranks
                holder.refuse_taken(options["out"])
            with stopping.listening(), _notes():
                code = function(*args, **options) or 0
        except KeyboardInterrupt:
            complain(f"stopped; everything finished is saved. To go on: {holder.command}", options)
            code = 130
        except SlowFlowError as error:
            complain(str(error), options)
            code = error.exit_code
        except BrokenPipeError:
            # whoever read our output has seen enough; nothing may be written to it any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            complain(f"cannot read or write{where}: {error.strerror or error}", options)
            code = 4
        except Exception as error:
            if memory.ran_out(error):
                complain("out of memory; a smaller --batch-size needs less", options)
                code = 4
            else:
                complain(f"internal error ({type(error).__name__}: {error}); --debug shows where", options)
                code = 1
        raise typer.Exit(code)

    return wrapped


def complain(text: str, options: dict[str, Any]) -> None:
    """One sentence on stderr, behind a traceback where --debug asks for one."""
    if options.get("debug") and sys.exc_info()[0] is not KeyboardInterrupt:
        traceback.print_exc()
    print(f"slowflow: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """SlowFlow's own warnings as one line on stderr, each once."""
    before = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, memory.SmallerBatch):
            print(f"note: {message}", file=sys.stderr, flush=True)
        else:
            before(message, category, *rest)

    with warnings.catch_warnings():
        warnings.simplefilter("always", memory.SmallerBatch)
        warnings.showwarning = show
        yield
