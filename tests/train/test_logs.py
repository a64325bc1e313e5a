"""Logs: what TensorBoard and Weights & Biases are told while a model trains, once a step, and nothing depends on it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.errors import InputError, MissingExtraError
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint, ranks
from slowflow.io.ranks import Ranks
from slowflow.train import logs
from slowflow.train.loop import TrainConfig
from slowflow.train.post import make_remedy, post_train

CONFIG = TrainConfig(steps=25, batch_size=4, lr=1e-2, lr_final=1e-3, warmup=4, save_every=20, valid_every=15)
LOGGED = [10, 15, 20, 25]


class Stop(Exception):
    """What cuts a run."""


def trained(images, out, names=(), stop_at=None):
    """The losses of every step, after a post-training of a linear network that may be cut."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Linear(64, 64)
    model = FlowModel.from_callable(Wrapped(net), shape=(1, 8, 8), classes=10, name="linear")

    def progress(step, steps, note):
        if step == stop_at:
            raise Stop

    post_train(model, images, make_remedy("plain"), CONFIG, out, progress=progress, logs=names)
    return checkpoint.load(out / "state.safetensors").tensors["losses"].numpy()


class Wrapped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, state, t, cond):
        return self.inner(state.flatten(1)).view_as(state)


@pytest.fixture
def service(monkeypatch):
    """A module that remembers what it is told instead of the real wandb."""
    told = SimpleNamespace(opened=[], entries=[], closed=0)

    class Run:
        def log(self, values, step):
            told.entries.append((step, values))

        def finish(self):
            told.closed += 1

    def init(**how):
        told.opened.append(how)
        return Run()

    module = ModuleType("wandb")
    module.init, module.Settings = init, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return told


def test_what_is_logged_is_what_happened_and_changes_nothing(tmp_path, images, service):
    losses = trained(images, tmp_path / "logged", ["wandb"])
    assert np.array_equal(trained(images, tmp_path / "plain"), losses)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("logged", "plain")]
    assert files[0] == files[1]
    assert (tmp_path / "logged" / "manifest.json").read_bytes() == (tmp_path / "plain" / "manifest.json").read_bytes()
    assert [step for step, _ in service.entries] == LOGGED
    known = dict(service.entries)
    for first, last in ((0, 10), (10, 15), (10, 20), (20, 25)):  # held-out losses come between entries
        assert known[last]["loss/training"] == pytest.approx(losses[first:last].mean(), rel=1e-6)
        assert known[last]["learning rate"] == CONFIG.learning_rate(last - 1)
        assert known[last]["gradient norm"] > 0
    assert {step for step, values in known.items() if "loss/held out" in values} == {15, 25}
    assert all(known[step]["steps a second"] > 0 for step in LOGGED[1:])
    assert service.closed == 1


def test_wandb_stays_offline_and_sends_no_code_unless_told(tmp_path, images, service, monkeypatch):
    trained(images, tmp_path / "a", ["wandb"])
    (how,) = service.opened
    assert how["mode"] == "offline"
    assert how["settings"] == {"console": "off", "disable_git": True, "save_code": False, "silent": True}
    assert how["config"]["train"]["steps"] == 25
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    trained(images, tmp_path / "b", ["wandb"])
    assert (service.opened[1]["mode"], service.opened[1]["project"]) == ("online", "mine")
    assert service.opened[1]["id"] != how["id"]


def test_a_cut_run_goes_on_in_the_same_wandb_run(tmp_path, images, service):
    with pytest.raises(Stop):
        trained(images, tmp_path / "run", ["wandb"], stop_at=12)
    assert service.closed == 1  # what was said is kept
    trained(images, tmp_path / "run", ["wandb"])
    assert service.opened[0]["id"] == service.opened[1]["id"]
    assert [step for step, _ in service.entries] == [10, *LOGGED]


def test_tensorboard_holds_every_step_once_after_a_cut(tmp_path, images):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stop):
        trained(images, tmp_path / "run", ["tensorboard"], stop_at=12)
    losses = trained(images, tmp_path / "run", ["tensorboard"])
    found = EventAccumulator(str(tmp_path / "run" / "logs" / "tensorboard")).Reload()
    scalars = {event.step: event.value for event in found.Scalars("loss/training")}
    assert [event.step for event in found.Scalars("loss/training")] == LOGGED
    assert scalars[20] == pytest.approx(losses[10:20].mean(), rel=1e-5)
    assert [event.step for event in found.Scalars("loss/held out")] == [15, 25]
    assert "settings/text_summary" in found.Tags()["tensors"]


def test_the_real_wandb_writes_offline(tmp_path, images, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained(images, tmp_path / "run", ["wandb"])
    assert list((tmp_path / "run" / "logs" / "wandb").rglob("run-*.wandb"))


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_told_before_there_is_a_folder(tmp_path, images, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'slowflow\[{name}\]'"):
        trained(images, tmp_path / "run", [name])
    assert not (tmp_path / "run").exists()


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(
        "[model]\ninput_size = 8\npatch = 4\nchannels = 1\nhidden = 8\ndepth = 1\nheads = 2\nclasses = 10\n"
        '[data]\nname = "digits"\n[train]\nsteps = 3\nbatch_size = 4\n'
    )
    return str(file)


def test_the_command_line_logs_and_refuses_what_it_does_not_know(tmp_path, service, recipe):
    words = ["pretrain", recipe, "--out", str(tmp_path / "run"), "--quiet", "--log"]
    result = CliRunner().invoke(app, [*words, "wandbe"])
    assert result.exit_code == 3
    assert "did you mean 'wandb'" in result.stderr
    result = CliRunner().invoke(app, [*words, "wandb"])
    assert result.exit_code == 0, result.stderr
    assert [step for step, _ in service.entries] == [3]


def test_only_the_first_of_several_ranks_writes(tmp_path, service):
    class Link:
        def check(self): ...
        def meet(self): ...
        def tell(self, value): ...

    with ranks.acting_as(Ranks(1, 2, link=Link())), logs.open_logs(["wandb"], tmp_path, "x", {}) as log:
        assert log is None
    with ranks.acting_as(Ranks(0, 2, link=Link())), logs.open_logs(["wandb"], tmp_path, "x", {}) as log:
        log(1, {"loss/training": 0.5})
    assert len(service.entries) == 1
    assert not (set(logs.LOGS.names()) - {"tensorboard", "wandb"})


def test_an_unknown_log_is_refused(images, tmp_path):
    with pytest.raises(InputError, match="known: tensorboard, wandb"):
        trained(images, tmp_path / "run", ["csv"])
