"""Who is at work: two writers, stale holders, heartbeats, signals, and `status` (R10, long runs)."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.errors import EnvironmentProblem, InputError
from slowflow.io import atomic, checkpoint, holder, stopping
from slowflow.io.run import RunFolder
from slowflow.io.status import status
from slowflow.train import loop

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom slowflow.io import holder\n"
    "held = holder.hold(Path(sys.argv[1]), shared='shared' in sys.argv)\n"
    "held.report(0, 10, 'a note')\n"
    "print('held', flush=True)\nsys.stdin.readline()\n"
)
POSTTRAIN = ["posttrain", "digits-sit", "--data", "digits", "--gamma", "0.3", "--steps", "6", "--batch-size", "4"]
POSTTRAIN += ["--save-every", "4", "--threads", "1", "--quiet"]


@pytest.fixture
def other(process):
    """other(folder, *more): another process that holds the folder until it is told to end or killed."""

    def start(folder: Path, *more: str) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        return process(HOLD, "held", folder, *more)

    return start


def slowflow(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_second_process_is_refused_at_once_and_told_who_is_there(tmp_path, other):
    first = other(tmp_path / "run")
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=f"in use by process {first.pid} on {socket.gethostname()}") as caught:
        RunFolder(tmp_path / "run", "measure", {"a": 1})
    assert time.monotonic() - began < 60  # it waits PATIENCE = 0.3 s; the rest is this machine's
    assert caught.value.exit_code == 4
    result = slowflow(*POSTTRAIN, "--out", tmp_path / "run")
    assert result.exit_code == 4
    assert f"process {first.pid}" in result.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [holder.FILE]


def test_a_holder_that_was_killed_blocks_nobody(tmp_path, other):
    first = other(tmp_path / "run")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "run" / holder.FILE).exists()
    assert not holder.look(tmp_path / "run").alive
    run = RunFolder(tmp_path / "run", "measure", {"a": 1})
    assert holder.look(tmp_path / "run").record["pid"] == os.getpid()
    run.finish([], {})
    assert not (tmp_path / "run" / holder.FILE).exists()


def test_a_holder_that_ends_in_order_leaves_nothing(tmp_path, other):
    first = other(tmp_path / "run")
    first.communicate("\n")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_system_that_locks_only_what_is_open_for_writing(tmp_path, other, monkeypatch):
    """NFS: a dead holder must not look alive because nobody could ask."""
    fcntl = pytest.importorskip("fcntl")
    honest = fcntl.flock

    def flock(handle, how):
        if how & fcntl.LOCK_EX and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        honest(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    first = other(tmp_path / "run")
    assert holder.look(tmp_path / "run").alive
    first.kill()
    first.wait()
    assert not holder.look(tmp_path / "run").alive
    holder.hold(tmp_path / "run").release()


def test_ranks_share_a_folder_and_a_lone_process_is_kept_out(tmp_path, other):
    first = other(tmp_path / "run", "shared")
    with pytest.raises(EnvironmentProblem, match="in use by"):
        holder.hold(tmp_path / "run")
    second = other(tmp_path / "run", "shared")  # another rank is welcome
    second.communicate("\n")  # and may leave before the others
    with pytest.raises(EnvironmentProblem, match="in use by"):
        holder.hold(tmp_path / "run")
    first.communicate("\n")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lone_process_keeps_ranks_out(tmp_path, other):
    other(tmp_path / "run")
    with pytest.raises(EnvironmentProblem, match="in use by"):
        holder.hold(tmp_path / "run", shared=True)


@pytest.mark.parametrize(("silence", "refused"), [(10.0, True), (holder.SILENCE + 10, False)])
def test_a_holder_on_another_machine_counts_until_it_is_silent(tmp_path, silence, refused):
    record = {"pid": 7, "host": "elsewhere", "seen": time.time() - silence}
    (tmp_path / holder.FILE).write_text(json.dumps(record))
    if refused:
        with pytest.raises(EnvironmentProblem, match=r"process 7 on elsewhere, last seen 1\d s ago.*delete"):
            holder.hold(tmp_path)
    else:
        holder.hold(tmp_path).release()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\x00", b'{"pid": "x", "seen": "y", "host": 5}', b"[" * 10**5]
)
def test_a_damaged_record_blocks_nobody(tmp_path, content):
    (tmp_path / holder.FILE).write_bytes(content)
    holder.hold(tmp_path).release()
    assert not (tmp_path / holder.FILE).exists()


def test_without_locks_the_record_decides(tmp_path, other, monkeypatch):
    first = other(tmp_path / "run")
    monkeypatch.setattr(holder, "fcntl", None)
    with pytest.raises(EnvironmentProblem, match=f"process {first.pid}"):
        holder.hold(tmp_path / "run")
    first.kill()
    first.wait()
    holder.hold(tmp_path / "run").release()


def test_one_process_may_open_its_own_folder_again_even_after_it_was_removed(tmp_path):
    first = holder.hold(tmp_path)
    assert holder.hold(tmp_path) is first
    (tmp_path / holder.FILE).unlink()
    second = holder.hold(tmp_path)
    assert second is not first
    first.release()
    assert (tmp_path / holder.FILE).exists()
    second.release()


# --- heartbeat


def test_a_heartbeat_tells_rate_and_remaining_time(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    held = holder.hold(tmp_path)
    for done in range(0, 51):
        held.report(done, 200, "sampling")
        now += 2.0  # one in two seconds
    record = holder.look(tmp_path).record
    assert record["done"] in (48, 49, 50)
    assert record["rate"] == pytest.approx(0.5)
    assert record["left"] == pytest.approx((200 - record["done"]) / 0.5)
    assert (record["total"], record["note"]) == (200, "sampling")
    held.release()


def test_a_heartbeat_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    held = holder.hold(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    held.report(1, 1, "x")
    monkeypatch.undo()
    held.release()


# --- signals


@pytest.fixture
def signalled(monkeypatch):
    """signalled(number, at): the process sends itself a signal while it works on step `at`."""

    # a shell starts jobs in the background with the first ignored, nohup with the second, and pytest inherits it
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)

    def arrange(number: int, at: int) -> None:
        honest = loop.step_batch

        def step(model, remedy, data, config, k):
            if k == at:
                os.kill(os.getpid(), number)
            return honest(model, remedy, data, config, k)

        monkeypatch.setattr(loop, "step_batch", step)

    return arrange


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The bytes of an undisturbed post-training run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("presence") / "run"
    assert slowflow(*POSTTRAIN, "--out", out).exit_code == 0
    return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_the_step_at_hand_and_the_same_command_ends_in_the_same_bytes(
    tmp_path, signalled, monkeypatch, number, trained
):
    signalled(number, at=2)
    result = slowflow(*POSTTRAIN, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "To go on: slowflow" in result.stderr
    assert checkpoint.load(tmp_path / "run" / "state.safetensors").metadata["step"] == 3  # not 0, not 4
    monkeypatch.undo()
    assert slowflow(*POSTTRAIN, "--out", tmp_path / "run").exit_code == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == trained


def test_work_in_shards_stops_at_once(tmp_path, monkeypatch):
    from slowflow.measuring import engine

    made = []
    honest = engine._write_shard

    def shard(path, *rest):
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal was not heard")
        made.append(path.name)
        honest(path, *rest)

    monkeypatch.setattr(engine, "_write_shard", shard)
    command = ["measure", "digits-sit", "--data", "digits", "--samples", "20", "--steps", "2", "--threads", "1"]
    result = slowflow(*command, "--batch-size", "10", "--out", tmp_path / "m", "--quiet")
    assert result.exit_code == 130
    assert sorted(p.name for p in (tmp_path / "m" / "shards").iterdir()) == sorted(made)
    assert status(tmp_path / "m").state == "unfinished"


def test_a_second_signal_does_not_wait():
    def twice():
        with stopping.listening(), stopping.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopping.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the second signal was not heard")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert not stopping.asked()


def test_a_step_that_never_ends_is_ended_by_the_grace_time(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.05)

    def endless():
        began = time.monotonic()
        with stopping.listening(), stopping.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            while time.monotonic() - began < 60:
                time.sleep(0.01)
            pytest.fail("nothing ended the step")

    with pytest.raises(KeyboardInterrupt):
        endless()


def test_handlers_come_back_and_ignored_signals_stay_ignored():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.listening(), stopping.deferred():
            os.kill(os.getpid(), signal.SIGHUP)  # nohup
            assert not stopping.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopping.asked()
    finally:
        signal.signal(signal.SIGHUP, before[2])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)] == before


# --- status


def test_status_tells_running_stale_unfinished_and_finished(tmp_path, other):
    folder = tmp_path / "run"
    first = other(folder)
    atomic.write_json(folder / "config.json", {"schema": 1, "kind": "measure", "config": {"a": 1}})
    found = status(folder)
    assert (found.kind, found.state, found.done, found.total, found.note) == ("measure", "running", 0, 10, "a note")
    assert found.holder == f"process {first.pid} on {socket.gethostname()}"
    first.kill()
    first.wait()
    found = status(folder)
    assert found.state == "stale"
    assert "ended without a word" in found.problems[0]
    run = RunFolder(folder, "measure", {"a": 1})
    atomic.write_text(folder / "table.csv", "a\n")
    assert status(folder).state == "running"
    run._hold.release()
    assert status(folder).state == "unfinished"
    run.finish(["table.csv"], {})
    assert status(folder).state == "finished"
    (folder / "table.csv").write_text("b\n")
    found = status(folder)
    assert found.state == "unfinished"
    assert "'table.csv' is missing or damaged" in found.problems[0]


def test_every_stage_is_timed_by_itself(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(holder.time, "monotonic", lambda: clock[0])
    run = RunFolder(tmp_path / "run", "run", {})
    beat = run.watched(None)
    for at, done, total in ((0, 0, 100), (10, 50, 100), (20, 0, 8), (28, 4, 8), (40, 8, 8), (50, 0, 8), (60, 1, 8)):
        clock[0] = at
        beat(done, total, "a stage")
    assert holder.look(tmp_path / "run").record["rate"] == pytest.approx(1 / 10)  # of the last stage alone
    assert status(tmp_path / "run").left == pytest.approx(70, abs=5)


def test_status_of_a_run_shows_its_stages_and_answers_json(tmp_path):
    outer = RunFolder(tmp_path / "run", "run", {"a": 1})
    RunFolder(tmp_path / "run" / "measure-base", "measure", {"b": 1}).finish([], {})
    result = slowflow("status", tmp_path / "run", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["kind"], found["state"]) == ("run", "running")
    assert [(s["kind"], s["state"]) for s in found["stages"]] == [("measure", "finished")]
    assert "measure, finished" in slowflow("status", tmp_path / "run").stdout
    outer._hold.release()


def test_status_of_a_cut_training_run_knows_its_saved_step(tmp_path, signalled):
    signalled(signal.SIGTERM, at=2)
    slowflow(*POSTTRAIN, "--out", tmp_path / "run")
    found = status(tmp_path / "run")
    assert (found.state, found.done, found.total) == ("unfinished", 3, 6)


def test_status_of_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, says in ((tmp_path / "gone", "no such run"), (tmp_path / "empty", "no run of SlowFlow")):
        with pytest.raises(InputError, match=says):
            status(path)
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is not one of SlowFlow's"):
        status(tmp_path / "empty")
    assert slowflow("status", tmp_path / "s.npz").exit_code == 3


def test_status_changes_nothing_and_loads_no_torch(tmp_path):
    RunFolder(tmp_path / "run", "measure", {"b": 1}).finish([], {})
    code = (
        "import sys\nfrom slowflow.io.status import status\n"
        f"print(status({str(tmp_path / 'run')!r}).state, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["finished", "False"]
