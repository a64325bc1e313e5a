"""How a run is computed changes nothing that is learned: the same bits where they are promised, rounding elsewhere."""

import contextlib
import threading
import time
import warnings

import pytest
import torch
from torch import nn

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.flow import compiling
from slowflow.io.run import read_manifest
from slowflow.remedies.mixflow import MixFlow
from slowflow.train import execution as how
from slowflow.train import teams
from slowflow.train.execution import DEPTH, Ahead, Execution
from slowflow.train.loop import TrainConfig, drawn, train
from slowflow.train.post import post_train

SHAPE = SiTConfig(4, 2, 1, hidden=8, depth=2, heads=2, classes=3)
SETTINGS = TrainConfig(steps=6, batch_size=8, lr=1e-2, lr_final=1e-2, warmup=0, ema_decay=0.5, valid_every=0, seed=3)
HARDLY = 1e-2 * SETTINGS.lr
"""A parameter without influence (the bias of a key) has a gradient of rounding alone, which Adam scales to the learning
rate: where it moves is arbitrary, how far in six steps is not."""


pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=30):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    return ImageSet("blobs", labels.view(n, 1, 1, 1) / 3 + 0.1 * torch.randn(n, 1, 4, 4, generator=draw), labels, 3)


def tiny():
    net = initialise(SiT(SHAPE), torch.Generator().manual_seed(0))
    return flow_model(net, path="linear", prediction="velocity", name="tiny")


def learned(tmp_path, name="run", config=SETTINGS, **settings):
    state = train(tiny(), images(), MixFlow(gamma=0.3), config, tmp_path / name, execution=Execution(**settings))
    return {**dict(state.net.named_parameters()), "losses": torch.tensor(state.losses, dtype=torch.float64)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("settings", [{"ahead": True}, {"recompute": True}, {"ahead": True, "recompute": True}])
def test_the_same_bits(tmp_path, settings):
    assert same(learned(tmp_path, "plain"), learned(tmp_path, "other", **settings))


def test_a_fused_optimiser_learns_the_same_to_rounding(tmp_path):
    plain, fused = learned(tmp_path, "plain"), learned(tmp_path, "fused", fused=True)
    torch.testing.assert_close(fused["losses"], plain["losses"], rtol=1e-6, atol=0)
    for name in plain:
        torch.testing.assert_close(fused[name], plain[name], rtol=1e-4, atol=HARDLY)


@pytest.mark.parametrize("settings", [{"fused": True}, {"ahead": True, "recompute": True}])
def test_a_cut_run_goes_on_with_any_settings(tmp_path, settings):
    """Nothing of it is part of the state."""

    class Stop(Exception):
        pass

    def stop(done, steps, note):
        if done == 3:
            raise Stop

    def run(name, progress=None, **settings):
        config = TrainConfig(**{**vars(SETTINGS), "save_every": 3})
        return train(
            tiny(), images(), MixFlow(gamma=0.3), config, tmp_path / name,
            progress=progress, execution=Execution(**settings),
        )  # fmt: skip

    whole = run("whole")
    with pytest.raises(Stop):
        run("cut", stop)
    resumed = run("cut", **settings)
    for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=HARDLY)


def test_settings_for_a_gpu_are_chosen_there():
    cpu, gpu = (Execution().on(torch.device(name)) for name in ("cpu", "cuda"))
    assert (cpu.ahead, cpu.fused, gpu.ahead, gpu.fused) == (False, False, True, True)
    assert Execution(fused=False).on(torch.device("cuda")).fused is False


def test_what_was_asked_for_stands_in_the_result(tmp_path):
    def result(name, execution=None):
        config = TrainConfig(**{**vars(SETTINGS), "steps": 1})
        post_train(tiny(), images(), MixFlow(gamma=0.3), config, tmp_path / name, heldout=0.2, execution=execution)
        return read_manifest(tmp_path / name, "posttrain")

    plain, other = result("plain"), result("other", Execution(recompute=True))
    assert "execution" not in plain["result"]
    assert other["result"]["execution"] == {"recompute": True}
    assert plain["config_sha256"] == other["config_sha256"]
    assert plain["files"]["model.safetensors"] == other["files"]["model.safetensors"]


def test_a_compiled_step_learns_the_same_and_the_average_is_not_compiled(tmp_path, monkeypatch):
    real = compiling.compile_in_place
    monkeypatch.setattr(compiling, "compile_in_place", lambda net, device, choice: real(net, device, choice, "eager"))

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(16, 16)

        def forward(self, state, t, cond):
            return self.layer(state.flatten(1) + t[:, None]).view_as(state)

    def run(name, **settings):
        model = tiny().with_net(Small())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            done = train(
                model, images(), MixFlow(gamma=0.3), SETTINGS, tmp_path / name, execution=Execution(**settings)
            )
        return model, done

    (_, plain), (model, other) = run("plain"), run("compiled", compile="on")
    assert compiling.how(model.net) == "on"
    assert other.ema_net._compiled_call_impl is None
    for a, b in zip(plain.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_what_cannot_be_served_is_refused(tmp_path):
    with pytest.raises(InputError, match="graphs are for sampling"):
        Execution(compile="graphs")
    with pytest.raises(InputError, match="not with fsdp"):
        train(
            tiny(), images(), MixFlow(gamma=0.3), SETTINGS, tmp_path / "s", parallel="fsdp", execution=Execution("on")
        )
    with pytest.raises(InputError, match=r"has no torch\.nn\.ModuleList"), how.recomputed(nn.Linear(2, 2), True):
        pass


def test_recomputed_blocks_keep_no_activations_and_are_put_back():
    model = tiny()
    held, state = [], torch.randn(2, 1, 4, 4)

    def kept():
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.numel()) or x, lambda x: x):
            model.net(state, torch.ones(2), torch.zeros(2, dtype=torch.int64))
        return sum(held)

    names = list(model.net.state_dict())
    plain = kept()
    with how.recomputed(model.net, True):
        assert kept() < 0.5 * plain
        assert list(model.net.state_dict()) == names
    assert kept() == plain
    assert "forward" not in vars(model.net.blocks[0])


def test_values_are_made_ahead_in_order_and_by_another_thread():
    made, threads = [], set()

    def make(step):
        threads.add(threading.get_ident())
        made.append(step)
        return step * step

    maker = Ahead(make, last=9)
    assert maker(4) == 16
    for _ in range(200):
        if len(made) == 1 + DEPTH:
            break
        time.sleep(0.01)
    assert made == [4, 5, 6]  # begun before they were asked for, and no further
    assert [maker(k) for k in (5, 6, 7, 8)] == [25, 36, 49, 64]
    maker.close()
    assert made == [4, 5, 6, 7, 8]
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1


def test_an_error_in_the_other_thread_is_raised_here():
    def make(step):
        raise ValueError("broken image")

    with pytest.raises(ValueError, match="broken image"), how.ahead(make, 3, True) as made:
        made(0)


def test_a_step_draws_the_same_whoever_draws_it():
    model, data = tiny(), images()
    a, b = drawn(model, data, SETTINGS, 2), drawn(model, data, SETTINGS, 2)
    assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    assert not torch.equal(a.noise, drawn(model, data, SETTINGS, 3).noise)


def test_a_step_asks_the_device_once_when_everything_is_queued(tmp_path, monkeypatch):
    """On the meta device no value can be read: all of the step but its last question works there."""
    reached = []
    honest = teams.Alone.clipped

    def clipped(self, parameters, limit):
        reached.append(honest(self, parameters, limit))
        return reached[-1]

    monkeypatch.setattr(teams.Alone, "clipped", clipped)
    monkeypatch.setattr(
        torch, "autocast", lambda *given, **named: contextlib.nullcontext()
    )  # which knows no meta device
    model = tiny()
    model.net.to("meta")
    config = TrainConfig(**{**vars(SETTINGS), "micro_batch": 2})
    with pytest.raises(NotImplementedError, match="meta"):
        train(model, images(), MixFlow(gamma=0.3), config, tmp_path / "state")
    assert [norm.device.type for norm in reached] == ["meta"]
