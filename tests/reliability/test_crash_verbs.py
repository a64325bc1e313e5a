"""Every verb that writes, killed at every durable operation: the same command ends in the same bytes (R8, R9, R11).

A kill strikes either just before a file gets its final name, or just after. `make test` tries a few operations of each
verb, `make test-full` all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slowflow.codecs import open_codec
from slowflow.codecs.encoding import EncodeConfig, encode_folder
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, holder
from slowflow.measuring.calibration.calibration import calibrate
from slowflow.measuring.causes.diagnosing import diagnose
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.train.loop import TrainConfig
from slowflow.train.post import make_remedy, post_train
from slowflow.train.pretrain import pretrain, read_recipe


class Killed(BaseException):
    """Stands in for kill -9: nothing in the library may catch it or tidy up after it."""


class Net(torch.nn.Module):
    """Small, trainable, the same for everybody."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inner = torch.nn.Linear(64, 64)

    def forward(self, state, t, cond):
        return self.inner(state.flatten(1)).view_as(state)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for i in range(14):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


RECIPE = """
name = "tiny"
[model]
input_size = 8
patch = 4
channels = 1
hidden = 8
depth = 1
heads = 2
classes = 10
[data]
name = "digits"
[train]
steps = 4
batch_size = 4
save_every = 2
valid_every = 2
"""


@pytest.fixture(scope="module")
def verbs(tmp_path_factory, tiny_model, images, pictures):
    """name -> the work, into a folder."""
    kept = tmp_path_factory.mktemp("verbs")
    (kept / "r.toml").write_text(RECIPE)
    probe = Probe(samples=20, steps=(2,), shard=10, nulls=("genuine",))

    def diagnosed(out: Path) -> object:
        seen = measure(tiny_model(), images, Probe(samples=20, steps=(4,), shard=10), kept / "m", heldout=0.5)
        return diagnose(seen, tiny_model(), images, out / "run", samples=20)

    remedy, config = make_remedy("mixflow", 0.3), TrainConfig(steps=5, batch_size=4, save_every=2, valid_every=2)

    def trainable():
        return FlowModel.from_callable(Net(), shape=(1, 8, 8), classes=10)

    features, sampling = Features("FD-pixels"), Sampling(samples=20, steps=(1, 2))
    return {
        "measure": lambda out: measure(tiny_model(), images, probe, out / "run", heldout=0.5),
        "diagnose": diagnosed,
        "calibrate": lambda out: calibrate(
            tiny_model(), images, references=("own",), samples=20, times=4, heldout=0.5, shard=10, out=out / "run"
        ),
        "encode": lambda out: encode_folder(
            pictures, open_codec("pixels"), EncodeConfig(size=16, flips=True, shard=6, batch=4), out / "run"
        ),
        "sample": lambda out: sample(tiny_model(), SampleConfig(n=20, steps=2, shard=8), out / "s.npz"),
        "evaluate": lambda out: evaluate(tiny_model(), images, features, sampling, out / "run", heldout=0.5),
        "posttrain": lambda out: post_train(trainable(), images, remedy, config, out / "run"),
        "pretrain": lambda out: pretrain(read_recipe(kept / "r.toml"), out / "run"),
    }


@pytest.fixture(scope="module")
def undisturbed(verbs, tmp_path_factory):
    """name -> (bytes of an undisturbed run, number of durable operations in it); made when first asked for."""
    known: dict[str, tuple[dict[str, bytes], int]] = {}

    def of(name: str) -> tuple[dict[str, bytes], int]:
        if name not in known:
            if name == "diagnose":
                verbs[name](
                    tmp_path_factory.mktemp("first")
                )  # its measurement is made once, before anything is counted
            out = tmp_path_factory.mktemp(name)
            done: list[Path] = []
            atomic.after_durable = done.append
            try:
                verbs[name](out)
            finally:
                atomic.after_durable = None
            known[name] = contents(out), len(done)
        return known[name]

    return of


pytestmark = pytest.mark.usefixtures("one_thread")


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".part")}


def killed(work: Callable[[Path], object], out: Path, at: int, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run into the kill."""
    count, honest = 0, os.replace

    def struck(*arguments):
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        return honest(*arguments) if before else None

    if before:
        monkeypatch.setattr(os, "replace", struck)
    else:
        monkeypatch.setattr(atomic, "after_durable", struck)
    with pytest.raises(Killed):
        work(out)
    monkeypatch.undo()


QUICK = ("measure", "encode", "sample", "evaluate", "posttrain")
NAMES = (*QUICK, "pretrain", "diagnose", "calibrate")


def check(work, out, at, before, wanted, monkeypatch):
    killed(work, out, at, before, monkeypatch)
    for name, content in contents(out).items():  # what has its final name is whole already
        stays = "state" not in name and not name.endswith((holder.FILE, "config.json")) and name in wanted
        assert not stays or content == wanted[name], name
    work(out)
    assert contents(out) == wanted


@pytest.mark.parametrize("name", QUICK)
def test_killed_at_some_operation_it_ends_in_the_same_bytes(tmp_path, verbs, undisturbed, monkeypatch, name):
    wanted, count = undisturbed(name)
    for at, before in ((1, True), (max(count // 2, 1), False), (count, True)):
        check(verbs[name], tmp_path / f"{at}{before}", at, before, wanted, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_every_operation_it_ends_in_the_same_bytes(tmp_path, verbs, undisturbed, monkeypatch, name):
    wanted, count = undisturbed(name)
    for at in range(1, count + 1, max(count // 6, 1) if name == "calibrate" else 1):  # its shards are alike and slow
        for before in (True, False):
            check(verbs[name], tmp_path / f"{at}{before}", at, before, wanted, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("name", ["measure", "posttrain", "sample"])
def test_killed_again_and_again_it_ends_in_the_same_bytes(tmp_path, verbs, undisturbed, monkeypatch, name):
    """Every attempt dies at its second write, until one gets through."""
    wanted, count = undisturbed(name)
    for _ in range(count):
        try:
            killed(verbs[name], tmp_path / "run", 2, False, monkeypatch)
        except pytest.fail.Exception:  # fewer than two writes were left: it is done
            monkeypatch.undo()
            break
    assert contents(tmp_path / "run") == wanted


def test_a_training_run_loses_at_most_the_steps_since_its_last_save(tmp_path, images, monkeypatch):
    from slowflow.train import loop

    taken = []
    honest = loop.step_batch
    monkeypatch.setattr(loop, "step_batch", lambda m, r, d, c, k: (taken.append(k), honest(m, r, d, c, k))[1])
    model = FlowModel.from_callable(Net(), shape=(1, 8, 8), classes=10)
    config = TrainConfig(steps=9, batch_size=4, save_every=3, valid_every=0)

    def die(path):
        if len(taken) == 6:
            raise Killed

    atomic.after_durable = die
    try:
        with pytest.raises(Killed):
            post_train(model, images, make_remedy("plain"), config, tmp_path / "run")
    finally:
        atomic.after_durable = None
    del taken[:]
    post_train(model, images, make_remedy("plain"), config, tmp_path / "run")
    assert taken == [6, 7, 8]


def test_a_kill_between_the_manifest_and_giving_the_folder_back_leaves_no_trace(
    tmp_path, tiny_model, images, monkeypatch
):
    """Found by the soak: a finished folder is not taken again, so nobody removed the record of its dead holder."""

    def run():
        return measure(
            tiny_model(), images, Probe(samples=20, steps=(2,), nulls=("genuine",)), tmp_path / "run", heldout=0.5
        )

    honest = os.unlink

    def struck(path, *rest, **more):
        if str(path).endswith(holder.FILE):
            raise Killed
        honest(path, *rest, **more)

    monkeypatch.setattr(os, "unlink", struck)
    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    assert (tmp_path / "run" / "manifest.json").exists()
    assert (tmp_path / "run" / holder.FILE).exists()
    run()
    assert not (tmp_path / "run" / holder.FILE).exists()
