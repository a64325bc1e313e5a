"""The whole loop, killed at every durable operation: the same command finishes it, and ends in the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slowflow.data.open import open_data
from slowflow.evaluating.engine import Sampling
from slowflow.families.open import open_model
from slowflow.io import atomic
from slowflow.pipeline import RunConfig, run
from slowflow.records import Probe
from slowflow.train.loop import TrainConfig

CONFIG = RunConfig(
    probe=Probe(samples=20, steps=(2,), shard=10),
    sampling=Sampling(samples=20, steps=(1, 2)),
    features="fd-digits",
    train=TrainConfig(steps=4, batch_size=8, save_every=2, valid_every=0),
    heldout=0.1,
)


class Killed(BaseException):
    """Stands in for a kill: nothing in the library may catch it."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def whole(out, digits):
    run(open_model("digits-sit"), "digits-sit", digits, CONFIG, out)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; leftovers of a killed write excepted."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".part")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits):
    """(files of an undisturbed run, number of durable operations it made)."""
    count = 0

    def tick(path):
        nonlocal count
        count += 1

    out = tmp_path_factory.mktemp("undisturbed") / "run"
    atomic.after_durable = tick
    try:
        whole(out, digits)
    finally:
        atomic.after_durable = None
    return files(out), count


def kill_and_finish(out, digits, at):
    """Kill after the given durable operation, then repeat the command."""
    seen = 0

    def tick(path):
        nonlocal seen
        seen += 1
        if seen == at:
            raise Killed

    atomic.after_durable = tick
    try:
        with pytest.raises(Killed):
            whole(out, digits)
    finally:
        atomic.after_durable = None
    whole(out, digits)


def compare(found, wanted):
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.75, 0.98])
def test_killed_at_some_operations_it_ends_in_the_same_bytes(tmp_path, digits, undisturbed, share):
    wanted, count = undisturbed
    kill_and_finish(tmp_path / "run", digits, at=max(round(share * count), 1))
    compare(files(tmp_path / "run"), wanted)


@pytest.mark.full
def test_killed_at_every_operation_it_ends_in_the_same_bytes(tmp_path, digits, undisturbed):
    wanted, count = undisturbed
    for at in range(1, count):
        kill_and_finish(tmp_path / f"run{at}", digits, at)
        compare(files(tmp_path / f"run{at}"), wanted)


def test_a_real_kill_9_in_the_middle_is_finished_by_the_same_command(tmp_path, digits):
    script = tmp_path / "victim.py"
    script.write_text(
        "import os, signal, sys\n"
        "from slowflow.io import atomic\n"
        "left = int(sys.argv.pop(1))\n"
        "def tick(path):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left == 0:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if left:\n"
        "    atomic.after_durable = tick\n"
        "from slowflow_cli.main import main\n"
        "main()\n"
    )
    command = ["run", "digits-sit", "--data", "digits", "--out", str(tmp_path / "out"), "--features", "fd-digits"]
    command += [
        "--samples",
        "20",
        "--steps",
        "2",
        "--eval-steps",
        "2",
        "--train-steps",
        "2",
        "--threads",
        "1",
        "--quiet",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, script, "7", *command], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = subprocess.run(
        [sys.executable, script, "0", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "report.html").exists()
