"""Who is at work in a run folder, and how far: `running.json`, locked for as long as its writer lives.

The kernel's lock (flock) decides, not the file: it goes with its process however that ends, so a killed run blocks
nobody and a process id that was given out again fools nobody. The content says who it is and, as its heartbeat, how far.
A file system may keep locks for each machine by itself; a holder on another machine therefore counts as alive until its
last sign of life is `SILENCE` old.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowflow.errors import EnvironmentProblem

try:
    import fcntl
except ImportError:  # Windows: only the record tells
    fcntl = None  # type: ignore[assignment]

FILE = "running.json"
SILENCE = 300.0
"""Seconds without a sign of life after which a holder on another machine is taken for dead."""
BEAT = 5.0
"""Seconds between signs of life, where the work reports progress that often."""
PATIENCE = 0.3
"""Seconds a lock is asked for again: somebody may only be looking (`look` takes it for an instant)."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)
Progress = Callable[[int, int, str], None]

command: str | None = None
"""How the work was started, for `status` to repeat; the command line sets it."""


@dataclass(frozen=True)
class Presence:
    """What `running.json` tells.

    Args:
        alive: somebody holds the folder now.
        record: pid, host, since, seen, done, total, note, rate, left, command; as far as they are known.
    """

    alive: bool
    record: dict[str, Any]

    @property
    def who(self) -> str:
        """The holder for people."""
        return f"process {self.record.get('pid', '?')} on {self.record.get('host', '?')}"

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        seen = self.record.get("seen")
        return max(time.time() - float(seen), 0.0) if isinstance(seen, int | float) else float("inf")


class Hold:
    """This process at work in a folder; given back by `release`, at the latest when the process ends.

    Args:
        path: of the file.
        handle: open file on it, with the lock.
        shared: others of the same run may be at work too.
    """

    def __init__(self, path: Path, handle: int, shared: bool = False) -> None:
        self.path = path
        self._handle = handle
        self._began = self._told = time.monotonic()
        self._first: int | None = None
        now = time.time()
        self._record: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "seen": now}
        self._record |= {"shared": True} if shared else {}
        self._record |= {"command": command} if command else {}
        self._write()
        self._done = weakref.finalize(self, _give_back, path, handle, os.getpid())

    def report(self, done: int, total: int, note: str) -> None:
        """A sign of life, at most one in BEAT seconds; another total begins another stage, which is timed by itself."""
        now = time.monotonic()
        if self._first is None or total != self._record["total"] or done < self._record["done"]:
            self._first, self._began = done, now
        elif now - self._told < BEAT and done < total:
            return
        self._told = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = (total - done) / rate if rate > 0 else None
        self._record |= {"done": done, "total": total, "note": note, "rate": rate, "left": left, "seen": time.time()}
        self._write()

    def release(self) -> None:
        """Give the folder back."""
        self._done()

    @property
    def holds(self) -> bool:
        """False once given back, or when the file was removed with its folder."""
        return self._done.alive and _same_file(self._handle, self.path)

    def _write(self) -> None:
        try:
            text = json.dumps(self._record).encode()
            os.pwrite(self._handle, text, 0)
            os.ftruncate(self._handle, len(text))
        except OSError:
            return  # a full disk must not end the work over its heartbeat; the next result will say so


_HELD: weakref.WeakValueDictionary[Path, Hold] = weakref.WeakValueDictionary()


def hold(folder: Path, *, shared: bool = False) -> Hold:
    """Take the folder for this process; one that this process has already is shared with itself.

    Args:
        folder: exists.
        shared: several processes that know of each other (ranks of one run) may be at work; one that does not share
            is still refused.

    Raises:
        EnvironmentProblem: somebody else is at work there, or the folder cannot be written.
    """
    path = folder.resolve() / FILE
    mine = _HELD.get(path)
    if mine is not None and mine.holds:
        return mine
    before = _settled(folder, shared)
    if before is not None:
        raise _taken(folder, before)
    try:
        handle = _locked(path, shared)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}") from error
    if handle is None:
        raise _taken(folder, look(folder) or Presence(True, {}))
    held = Hold(path, handle, shared)
    _HELD[path] = held
    return held


def refuse_taken(folder: Path) -> None:
    """Refuse a folder in which another process is at work, before anything slow is begun.

    Raises:
        EnvironmentProblem: there is one.
    """
    found = look(folder)
    if found is not None and found.alive and found.record.get("pid") != os.getpid():
        found = _settled(folder, shared=True)
        if found is not None:
            raise _taken(folder, found)


def sweep(folder: Path) -> None:
    """Remove the record of a holder that was killed between its last result and giving the folder back."""
    found = look(folder)
    if found is not None and not found.alive:
        with contextlib.suppress(OSError):  # a finished folder may be read-only; the record says nothing then
            (folder / FILE).unlink(missing_ok=True)


def look(folder: Path) -> Presence | None:
    """Who is at work in the folder, or was when it ended without a word; None when nobody is and nobody vanished."""
    path = folder.resolve() / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        record = {}
    record = record if isinstance(record, dict) else {}
    found = Presence(_is_locked(path, record), record)
    foreign = record.get("host") not in (None, socket.gethostname())
    return Presence(True, record) if foreign and found.silence < SILENCE else found


def _settled(folder: Path, shared: bool) -> Presence | None:
    """Who keeps us out; asked for PATIENCE, because somebody may only be looking, or be about to write his record."""
    until = time.monotonic() + PATIENCE
    while True:
        found = look(folder)
        if found is None or not found.alive or (shared and found.record.get("shared")):
            return None
        if time.monotonic() > until:
            return found
        time.sleep(0.02)


def _taken(folder: Path, who: Presence) -> EnvironmentProblem:
    seen = f", last seen {who.silence:.0f} s ago" if who.silence < float("inf") else ""
    foreign = who.record.get("host") not in (None, socket.gethostname())
    hint = f" (if that machine is gone: delete {folder / FILE})" if foreign else ""
    return EnvironmentProblem(
        f"{folder} is in use by {who.who}{seen}; wait for it, stop it, or choose another folder{hint}"
    )


def _locked(path: Path, shared: bool) -> int | None:
    """An open file with the lock, None when somebody has it; a file that was removed meanwhile is not locked."""
    until = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        got = _flock(handle, shared)
        if got and _same_file(handle, path):
            return handle
        os.close(handle)
        if not got and time.monotonic() > until:
            return None
        time.sleep(0.02)


def _flock(handle: int, shared: bool) -> bool:
    """True when the lock was taken, or when there are no locks to be had here."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    return True


def _is_locked(path: Path, record: dict[str, Any]) -> bool:
    """True when a process has the lock; where there are no locks, when the process in the record lives."""
    if fcntl is None:
        return _lives(record)
    try:
        handle = _opened(path)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _lives(record) if error.errno in NO_LOCKS else True
    finally:
        os.close(handle)
    return False


def _opened(path: Path) -> int:
    """For writing where that is allowed: NFS gives an exclusive lock on nothing else, and says EBADF."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return os.open(path, os.O_RDONLY)


def _lives(record: dict[str, Any]) -> bool:
    pid = record.get("pid")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    mine = os.fstat(handle)
    return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)


def _give_back(path: Path, handle: int, pid: int) -> None:
    """Remove the file, then let go of it, so that nobody takes a file that is about to vanish for his own.

    Of several that share it the last one removes it: only he gets the lock for himself.
    """
    if os.getpid() != pid:  # a child process has the file, not the work
        return
    try:
        if _same_file(handle, path) and _flock(handle, shared=False):
            os.unlink(path)
    finally:
        os.close(handle)
