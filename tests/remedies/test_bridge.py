"""The bridge to other trainers: pasted lines run, in every convention of time, and the wrapper needs nothing else."""

import json
import subprocess
import sys

import pytest
import torch

import slowflow
from slowflow.errors import InputError
from slowflow.flow.interpolants import interpolant
from slowflow.flow.table import Table
from slowflow.remedies.bridge import BY_FAMILY, TIMES, bridge

GAMMA = 0.6
HEAVY = {"faiss", "pandas", "scipy", "matplotlib"}


class Trainer:
    """A user's own loop around pasted lines: what its network was told, and what the loss compared it with."""

    def __init__(self, answer):
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen = {}
        self.answer = answer
        draw = torch.Generator().manual_seed(1)
        self.names = {
            "data": torch.randn(64, 1, 4, 4, generator=draw),
            "label": torch.zeros(64, dtype=torch.int64),
            "generator": torch.Generator().manual_seed(2),
            "optimizer": torch.optim.SGD([self.weight], lr=1.0),
            "net": self.net,
        }

    def net(self, state, time, label):
        self.seen |= {"state": state, "time": time}
        return self.answer * self.weight if torch.is_tensor(self.answer) else self.weight * torch.zeros_like(state)

    def run(self, lines):
        exec(compile(lines, "snippet", "exec"), self.names)  # noqa: S102
        return self.names


def genuine(names, path, **settings):
    """The pair that MixFlow draws, with the generator's seed of the trainer."""
    remedy = slowflow.MixFlow(gamma=round(GAMMA, 3), interpolant=path, **settings)
    return remedy.pair(names["noise"], names["data"], torch.Generator().manual_seed(2))


@pytest.mark.parametrize("time", TIMES)
def test_a_snippet_has_seven_lines_and_one_training_step(time):
    found = bridge(GAMMA, time=time, path="table" if time == "index" else "linear")
    lines = found.snippet.splitlines()
    assert len(lines) == 7
    assert "slowflow.MixFlow(gamma=0.600" in found.snippet
    assert ".pair(noise, data, generator)" in found.snippet
    trainer = Trainer(None)
    names = trainer.run(found.snippet)
    assert torch.isfinite(names["loss"])
    assert trainer.weight.grad is not None


@pytest.mark.parametrize(
    ("time", "path"), [("forward", "linear"), ("forward", "gvp"), ("reversed", "linear"), ("reversed", "gvp")]
)
def test_the_network_sees_a_noisier_state_than_its_own_time_says(time, path):
    trainer = Trainer(None)
    names = trainer.run(bridge(GAMMA, time=time, path=path).snippet)
    state, told = trainer.seen["state"].double(), trainer.seen["time"].double()
    t = told if time == "forward" else 1 - told
    basis = torch.stack([names["data"].flatten(1), names["noise"].flatten(1)], dim=2).double()
    signal, noise = torch.linalg.lstsq(basis, state.flatten(1)[..., None]).solution[:, :, 0].T
    full = interpolant(path)
    m = full.time_of_log_snr(2 * torch.log(signal / noise))
    # states are float32
    assert bool((m <= t + 1e-4).all())
    assert bool((m >= (1 - GAMMA) * t - 1e-4).all())
    assert float((m / t).mean()) == pytest.approx(1 - GAMMA / 2, abs=0.1)


@pytest.mark.parametrize(("time", "sign"), [("forward", 1.0), ("reversed", -1.0)])
def test_the_loss_is_zero_for_the_velocity_of_that_convention(time, sign):
    trainer = Trainer(None)
    names = trainer.run(bridge(GAMMA, time=time).snippet)
    towards_data = names["data"] - names["noise"]
    again = Trainer(sign * towards_data)
    again.names |= {"data": names["data"]}
    torch.manual_seed(0)
    lines = bridge(GAMMA, time=time).snippet.replace("torch.randn_like(data)", "given")
    again.names["given"] = names["noise"]
    # one rounding of float32 in the target
    assert float(again.run(lines)["loss"].detach()) == pytest.approx(0.0, abs=1e-10)


def given(time, prediction, path):
    """The seven lines with the trainer's noise, run once to see the pair and once with the right answer."""
    lines = bridge(GAMMA, time=time, path=path, prediction=prediction).snippet
    first = Trainer(None)
    names = first.run(lines)
    path_name = "table" if time == "index" else path
    more = {"levels": 1000} if time == "index" else {}
    pair = genuine(names, path_name, prediction=prediction, **more)
    again = Trainer(-pair.target if time == "reversed" and prediction == "velocity" else pair.target)
    again.names |= {"data": names["data"], "given": names["noise"]}
    return again.run(lines.replace("torch.randn_like(data)", "given"))


@pytest.mark.parametrize("prediction", ["velocity", "noise", "data", "score", "v"])
@pytest.mark.parametrize(
    ("time", "path"), [("forward", "gvp"), ("reversed", "gvp"), ("reversed", "linear"), ("index", "table")]
)
def test_every_prediction_has_its_own_target_and_only_a_velocity_turns_with_time(time, path, prediction):
    if path == "table" and prediction == "velocity":
        with pytest.raises(InputError, match="a table of noise levels has no velocity"):
            bridge(GAMMA, time=time, path=path, prediction=prediction)
        return
    loss = float(given(time, prediction, path)["loss"].detach())
    # float32; a score divides by sigma, which is small near data
    assert loss == pytest.approx(0.0, abs=1e-6)


def test_the_sentence_says_what_the_network_returns():
    assert bridge(GAMMA, path="gvp").convention.endswith("the velocity of the gvp path, d state / d t")
    assert bridge(GAMMA, path="gvp", time="reversed").convention.endswith("d state / d (1 - t)")
    assert bridge(GAMMA, prediction="noise").convention.endswith("the network returns the noise")
    assert bridge(GAMMA, time="reversed").convention.endswith("noise - data")
    with pytest.raises(InputError, match="prediction is 'eps', expected velocity, noise, data, score, v"):
        bridge(GAMMA, prediction="eps")


def test_labels_keep_their_digits_in_half_precision():
    """bfloat16 has 8 bits: levels of a thousand would be off by whole steps, and the last one would be -1."""
    data = torch.randn(256, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    remedy = slowflow.MixFlow(gamma=GAMMA, interpolant="table", prediction="noise", levels=1000)
    fine = remedy.pair(data, data, torch.Generator().manual_seed(3))
    half = remedy.pair(data.bfloat16(), data.bfloat16(), torch.Generator().manual_seed(3))
    assert half.state.dtype == half.target.dtype == torch.bfloat16
    assert half.t.dtype == torch.float32
    assert torch.equal(half.t, fine.t)
    assert int(((1000 * (1 - half.t)).round().long() - 1).min()) >= 0


def test_an_index_is_a_level_of_the_table_and_the_target_is_the_noise():
    trainer = Trainer(None)
    names = trainer.run(bridge(GAMMA, time="index", path="table").snippet)
    index = trainer.seen["time"]
    assert index.dtype == torch.int64
    assert 0 <= int(index.min()) < int(index.max()) <= 999
    expected = genuine(names, "table", prediction="noise", levels=1000)
    assert torch.equal(expected.target, names["noise"])
    assert torch.equal(index.double(), Table().label(expected.t.double()))
    assert torch.equal(trainer.seen["state"], expected.state)


def test_time_that_runs_the_other_way_is_warned_of():
    assert bridge(GAMMA).warnings == ()
    assert bridge(GAMMA, family="sit").time == "forward"
    for family, time in BY_FAMILY.items():
        found = bridge(GAMMA, family=family, path="table" if time == "index" else "linear")
        assert found.time == time
        assert "time runs the other way" in found.warnings[0]
    assert any("share of shifted time" in text for text in bridge(GAMMA, family="rae").warnings)
    assert any("does not carry over" in text for text in bridge(GAMMA, time="index", path="linear").warnings)
    assert any("does not carry over" in text for text in bridge(GAMMA, time="forward", path="table").warnings)
    with pytest.raises(InputError, match="time is 'backwards', expected auto, forward, reversed, index"):
        bridge(GAMMA, time="backwards")


def test_the_loss_wrapper_loads_nothing_of_models_and_measures():
    code = (
        "import sys, json, torch, slowflow\n"
        "noise, data = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)\n"
        "state, t, target = slowflow.MixFlow(gamma=0.4).pair(noise, data, torch.Generator().manual_seed(0))\n"
        "assert torch.equal(target, data - noise), 'target'\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = [name for name in json.loads(out) if name.startswith("slowflow.") or name in HEAVY]
    assert {"slowflow.remedies.mixflow", "slowflow.flow.interpolants"} <= set(loaded)
    heavy = ("families", "measuring", "evaluating", "train", "data", "figures", "flow.model", "flow.samplers", "codecs")
    assert [name for name in loaded if name.removeprefix("slowflow.").startswith(heavy)] == []
    assert HEAVY.isdisjoint(loaded)


def test_the_loss_wrapper_needs_torch_and_its_annotations_only():
    """Every other package is hidden before SlowFlow is imported; jaxtyping holds the shapes of the signatures."""
    code = (
        "import sys, torch\n"
        "known = {name.partition('.')[0] for name in sys.modules} | {'slowflow', 'jaxtyping', *sys.stdlib_module_names}\n"
        "class Hidden:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return self.finder.find_spec(name, path, target) if name.partition('.')[0] in known else None\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "sys.meta_path[:] = [Hidden(one) for one in sys.meta_path]\n"
        "import slowflow\n"
        "noise, data = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)\n"
        "state, t, target = slowflow.MixFlow(gamma=0.4).pair(noise, data, torch.Generator().manual_seed(0))\n"
        "assert torch.equal(target, data - noise)\n"
        "try:\n"
        "    import pandas\n"
        "except ModuleNotFoundError:\n"
        "    print('alone')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "alone\n"
