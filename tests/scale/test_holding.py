"""A run folder that several processes share: who takes it, who tidies it, and who is kept out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slowflow.errors import EnvironmentProblem, SlowFlowError
from slowflow.io import holder, ranks
from slowflow.io.ranks import Ranks, acting_as
from slowflow.io.run import RunFolder

CONFIG = {"a": 1}
OPEN = (
    "import sys\nfrom slowflow.io import ranks\nfrom slowflow.io.run import RunFolder\n"
    "def begin():\n    global run\n    run = RunFolder(sys.argv[1], 'measure', {'a': 1})\n"
    "    print('open', flush=True)\n    sys.stdin.readline()\n"
    "world = int(sys.argv[2])\n"
    "with ranks.acting_as(ranks.Ranks(0, world)):\n    begin()\n"
)


@pytest.fixture
def other(process, tmp_path):
    """other(world): another process, the first task of an array of `world`, that has the folder open."""
    return lambda world: process(OPEN, "open", tmp_path / "run", world)


@dataclass
class Met:
    """A link that remembers what the folder held whenever the ranks met."""

    folder: Path
    seen: list[set[str]] = field(default_factory=list)

    def check(self) -> None:
        return None

    def meet(self) -> None:
        self.seen.append({p.name for p in self.folder.rglob("*")} if self.folder.exists() else set())

    def tell(self, value: Any) -> Any:
        return value


def leftovers(folder: Path) -> None:
    """What a task that was killed leaves: half a shard, and the claim to merge."""
    for name in ("shards/.00000000.safetensors.abc.part", ranks.CLAIM):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_tasks_of_an_array_share_a_folder_and_leave_the_work_of_others_alone(tmp_path, other):
    folder = tmp_path / "run"
    first = other(3)
    leftovers(folder)
    with acting_as(Ranks(1, 3)):
        task = RunFolder(folder, "measure", CONFIG)
    names = {p.name for p in folder.rglob("*")}
    assert {ranks.CLAIM, ".00000000.safetensors.abc.part"} <= names  # others may be writing and merging
    assert holder.look(folder).record["shared"]
    task.finish([], {})
    assert not (folder / ranks.CLAIM).exists()
    assert (folder / holder.FILE).exists()  # the first task is still at work
    first.communicate("\n")
    assert not (folder / holder.FILE).exists()


def test_an_array_keeps_a_lone_process_and_a_launch_out(tmp_path, other):
    process = other(2)
    with pytest.raises(EnvironmentProblem, match=f"in use by process {process.pid}"):
        RunFolder(tmp_path / "run", "measure", CONFIG)
    launch = Ranks(0, 2, link=Met(tmp_path / "run"))
    with acting_as(launch), pytest.raises(EnvironmentProblem, match="in use by"):
        RunFolder(tmp_path / "run", "measure", CONFIG)


def test_a_lone_process_keeps_an_array_out(tmp_path, other):
    other(1)
    with acting_as(Ranks(1, 2)), pytest.raises(EnvironmentProblem, match="in use by"):
        RunFolder(tmp_path / "run", "measure", CONFIG)


def test_the_first_of_a_launch_takes_and_tidies_the_folder_before_the_others_open_it(tmp_path):
    folder = tmp_path / "run"
    RunFolder(folder, "measure", CONFIG)  # given back at once
    leftovers(folder)
    link = Met(folder)
    with acting_as(Ranks(0, 2, link=link)):
        run = RunFolder(folder, "measure", CONFIG)
    assert link.seen == [{"config.json", holder.FILE, "shards"}]
    run.finish([], {})
    with acting_as(Ranks(0, 2, link=link)):
        RunFolder(folder, "measure", CONFIG)
    assert link.seen[1] == {"config.json", "manifest.json", "shards"}  # a finished folder is not taken, but they meet


def test_the_others_of_a_launch_open_what_the_first_holds(tmp_path, other):
    other(1)
    link = Met(tmp_path / "run")
    with acting_as(Ranks(1, 2, link=link)):
        run = RunFolder(tmp_path / "run", "measure", CONFIG)
        with pytest.raises(SlowFlowError, match="another configuration"):
            RunFolder(tmp_path / "run", "measure", {"a": 2})
    assert len(link.seen) == 2
    run.watched(None)(1, 2, "a note")  # the heartbeat is the first one's
    assert "note" not in holder.look(tmp_path / "run").record


def test_a_finished_folder_that_more_is_added_to_is_held_again(tmp_path):
    folder = tmp_path / "run"
    RunFolder(folder, "measure", CONFIG).finish([], {})
    run = RunFolder(folder, "measure", CONFIG)
    assert holder.look(folder) is None  # whoever only reads takes nothing
    run.reopen()
    code = "import sys\nfrom slowflow.io.run import RunFolder\nRunFolder(sys.argv[1], 'measure', {'a': 1}).reopen()\n"
    path = os.pathsep.join(p for p in sys.path if p)
    words = [sys.executable, "-c", code, folder]
    second = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in second.stderr
    run.finish([], {})
    assert holder.look(folder) is None
