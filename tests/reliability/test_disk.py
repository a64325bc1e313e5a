"""A full disk: exit 4 with the bytes needed and free, nothing under a final name, and the same command goes on (R7).

A limit on file sizes (RLIMIT_FSIZE) is a real one: the kernel refuses the write in the middle.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.codecs import open_codec
from slowflow.codecs.encoding import EncodeConfig, encode_folder
from slowflow.errors import EnvironmentProblem
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.io import atomic, checkpoint, space
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.train.keeping import Keep, run_bytes
from slowflow.train.loop import TrainConfig
from slowflow.train.post import make_remedy, post_train


@contextlib.contextmanager
def files_of_at_most(size: int):
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_write_that_does_not_fit_says_what_is_needed_and_free(tmp_path):
    with files_of_at_most(1000), pytest.raises(EnvironmentProblem) as caught:
        atomic.write_bytes(tmp_path / "a.bin", bytes(5000))
    assert caught.value.exit_code == 4
    assert "5,000 bytes needed" in str(caught.value)
    assert f"{shutil.disk_usage(tmp_path).free:,}"[:2] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 500, 1500, 2500, 4000, 9000])
def test_a_measurement_on_a_full_disk_ends_in_the_same_bytes_later(tmp_path, tiny_model, images, undisturbed, size):
    def run():
        return measure(tiny_model(), images, Probe(samples=20, steps=(2,), shard=10), tmp_path / "run", heldout=0.5)

    with files_of_at_most(size), pytest.raises(EnvironmentProblem, match=r"bytes needed, [\d,]+ free|cannot write"):
        run()
    for name, content in (contents(tmp_path / "run") if (tmp_path / "run").exists() else {}).items():
        assert name == "running.json" or content == undisturbed[name], name
    run()
    assert contents(tmp_path / "run") == undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model, images):
    out = tmp_path_factory.mktemp("disk") / "run"
    measure(tiny_model(), images, Probe(samples=20, steps=(2,), shard=10), out, heldout=0.5)
    return contents(out)


def test_a_write_that_fails_anywhere_leaves_a_run_that_goes_on(tmp_path, tiny_model, images, undisturbed, monkeypatch):
    """The disk is full at write number n, for every other n."""
    honest, count = os.replace, 0
    for at in range(1, len(undisturbed) + 1, 2):
        count = 0

        def full(source, target, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            honest(source, target)

        out = tmp_path / f"run{at}"
        probe = Probe(samples=20, steps=(2,), shard=10)
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(EnvironmentProblem, match=r"No space left on device; [\d,]+ bytes needed, [\d,]+ free"):
            measure(tiny_model(), images, probe, out, heldout=0.5)
        monkeypatch.undo()
        assert not [p for p in out.rglob("*") if p.name.endswith(".part")]
        measure(tiny_model(), images, probe, out, heldout=0.5)
        assert contents(out) == undisturbed


def test_other_people_s_formats_leave_no_stump_either(tmp_path):
    with files_of_at_most(10_000):
        for write in (checkpoint.save, lambda p, t, _: checkpoint.save_torch(p, t)):
            with pytest.raises(EnvironmentProblem, match="bytes needed"):
                write(tmp_path / "a.pt", {"x": torch.zeros(50_000)}, {})
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_exits_4_and_the_same_command_finishes(tmp_path):
    command = ["sample", "digits-sit", "--n", "40", "--steps", "1", "--batch-size", "20", "--threads", "1"]
    command += ["--out", str(tmp_path / "s.npz"), "--quiet"]
    with files_of_at_most(3000):
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 4, result.stderr
    assert "bytes needed" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "s.npz").exists()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "s.npz").exists()


# --- the estimate beforehand


def refused_without_room(monkeypatch, run) -> int:
    """Bytes that a run asks for where nothing is free."""
    monkeypatch.setattr(space, "free", lambda path: 0)
    with pytest.raises(EnvironmentProblem, match=r"needs about ([\d,]+) bytes") as caught:
        run()
    monkeypatch.undo()
    text = str(caught.value)
    return int(text[text.index("needs about ") + 12 :].split(" ")[0].replace(",", ""))


def asked_for(monkeypatch, run) -> int:
    """The estimate of a run that fits."""
    seen = []
    honest = space.require
    monkeypatch.setattr(space, "require", lambda *a, **k: (seen.append(a[1]), honest(*a, **k))[1])
    run()
    monkeypatch.undo()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("references", [("own", "nearest", "level", "clocks"), ("own", "paired-late", "inverted")])
def test_the_estimate_of_a_measurement_is_within_a_tenth(tmp_path, tiny_model, images, monkeypatch, references):
    probe = Probe(samples=140, steps=(6, 3), references=references, nulls=("genuine",))
    found = asked_for(monkeypatch, lambda: measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5))
    shards = space.written(tmp_path / "run" / "shards")
    assert abs(found - shards) < 0.1 * shards


def test_the_estimates_of_sampling_encoding_and_evaluating_are_within_a_tenth(
    tmp_path, tiny_model, images, monkeypatch
):
    most = []
    honest = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **k: (most.append(space.written(path)), honest(path, **k)))
    seen = []
    fits = space.require
    monkeypatch.setattr(space, "require", lambda *a, **k: (seen.append(a[1]), fits(*a, **k))[1])
    sample(tiny_model(), SampleConfig(n=300, steps=1, shard=300), tmp_path / "s.npz")
    whole = most[0] + (tmp_path / "s.npz").stat().st_size
    evaluate(
        tiny_model(), images, Features("FD-pixels"), Sampling(samples=140, steps=(1, 2)), tmp_path / "e", heldout=0.5
    )
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    encode_folder(tmp_path / "pictures", open_codec("pixels"), EncodeConfig(size=32), tmp_path / "latents")
    for found, true in zip(
        seen, (whole, space.written(tmp_path / "e" / "features"), space.written(tmp_path / "latents")), strict=True
    ):
        assert abs(found - true) < 0.1 * true, (found, true)


@pytest.mark.parametrize("keep", [Keep(), Keep(last=2), Keep(last=1, every=4)])
def test_the_estimate_of_a_training_run_is_within_a_tenth(tmp_path, images, keep, trainable):
    config = TrainConfig(steps=12, batch_size=4, save_every=2)
    remedy = make_remedy("plain")
    post_train(trainable(), images, remedy, config, tmp_path / "run", keep=keep)
    true = space.written(tmp_path / "run")
    assert abs(run_bytes(trainable().net, keep, config) - true) < 0.1 * true


def test_without_room_nothing_is_begun(tmp_path, tiny_model, images, monkeypatch):
    probe = Probe(samples=20, steps=(2,))
    needed = refused_without_room(
        monkeypatch, lambda: measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5)
    )
    assert needed > 10_000
    assert {p.name for p in (tmp_path / "run").rglob("*.safetensors")} == set()
    monkeypatch.setattr(space, "free", lambda path: 0)
    command = [
        "measure",
        "digits-sit",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "m"),
        "--samples",
        "20",
        "--steps",
        "2",
    ]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 4
    assert "are free there" in result.stderr


def test_what_is_already_written_counts(tmp_path, monkeypatch):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "a.bin").write_bytes(bytes(8000))
    monkeypatch.setattr(space, "free", lambda path: 4000)
    space.require(tmp_path / "half", 10_000, "this run")
    with pytest.raises(EnvironmentProblem, match=r"this run needs about 11,000 bytes .* 4,000 are free there"):
        space.require(tmp_path / "none", 10_000, "this run")


# --- checkpoints kept by rule


def test_checkpoints_stay_by_rule_wherever_the_run_was_cut(tmp_path, images, trainable):
    config = TrainConfig(steps=13, batch_size=4, save_every=2, valid_every=0)
    keep, remedy = Keep(last=2, every=4), make_remedy("plain")
    post_train(trainable(), images, remedy, config, tmp_path / "whole", keep=keep)
    wanted = contents(tmp_path / "whole")
    kept = sorted(int(name[17:25]) for name in wanted if name.startswith("checkpoints/"))
    assert kept == [4, 8, 10, 12]
    files = json.loads((tmp_path / "whole" / "manifest.json").read_text())["files"]
    assert sum(name.startswith("checkpoints/") for name in files) == 4

    class Killed(BaseException):
        pass

    for at in (3, 6, 9, 12, 15):
        seen = []

        def tick(path, at=at, seen=seen):
            seen.append(path)
            if len(seen) == at:
                raise Killed

        atomic.after_durable = tick
        try:
            with pytest.raises(Killed):
                post_train(trainable(), images, remedy, config, tmp_path / f"cut{at}", keep=keep)
        finally:
            atomic.after_durable = None
        post_train(trainable(), images, remedy, config, tmp_path / f"cut{at}", keep=keep)
        assert contents(tmp_path / f"cut{at}") == wanted


def test_a_rule_that_cannot_be_kept_is_refused(tmp_path):
    command = ["posttrain", "digits-sit", "--data", "digits", "--gamma", "0.3", "--steps", "4", "--save-every", "2"]
    command += ["--out", str(tmp_path / "p")]
    for more, says in (("3", "name a multiple"), ("-2", "every is -2")):
        result = CliRunner().invoke(app, [*command, "--keep-every", more])
        assert result.exit_code == 3
        assert says in result.stderr
        assert not (tmp_path / "p").exists()


@pytest.fixture
def trainable():
    """A small network whose training state is far larger than its header."""
    from slowflow.flow.model import FlowModel

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.inner = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))

        def forward(self, state, t, cond):
            return self.inner(state.flatten(1)).view_as(state)

    return lambda: FlowModel.from_callable(Net(), shape=(1, 8, 8), classes=10)
