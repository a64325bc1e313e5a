"""Out of memory: smaller batches, the same results, said once; and one clear error when nothing helps (R12)."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow import memory
from slowflow.codecs import open_codec
from slowflow.codecs.encoding import EncodeConfig, encode_folder
from slowflow.errors import EnvironmentProblem
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.io.run import read_manifest
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.train.loop import TrainConfig
from slowflow.train.post import make_remedy, post_train

MESSAGES = (
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.90 GiB total capacity)",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
)


class Crowded(torch.nn.Module):
    """Passes on to a network, and runs out of memory when more than `room` samples come at once."""

    def __init__(self, inner: torch.nn.Module, room: int, message: str = MESSAGES[0]) -> None:
        super().__init__()
        self.inner, self.room, self.message, self.sizes = inner, room, message, []

    def forward(self, state, t, cond):
        if len(state) > self.room:
            raise RuntimeError(self.message)
        self.sizes.append(len(state))
        return self.inner(state, t, cond)


def crowded(model: FlowModel, room: int, message: str = MESSAGES[0]) -> FlowModel:
    return model.with_net(Crowded(model.net, room, message))


@pytest.mark.parametrize(
    ("message", "room"), [*zip(MESSAGES, (3, 3, 3, 3), strict=True), (MESSAGES[0], 1), (MESSAGES[3], 20)]
)
def test_sampling_goes_on_with_fewer_and_makes_the_same(tiny_model, message, room):
    wanted = final_states(tiny_model(), np.arange(24), steps=2, guidance=2.0)  # guidance doubles a batch
    model = crowded(tiny_model(), room, message)
    with pytest.warns(memory.SmallerBatch, match="out of memory with 48 samples at once") as said:
        found = final_states(model, np.arange(24), steps=2, guidance=2.0)
    assert torch.equal(found, wanted)
    assert len(said) == 1
    assert max(model.net.sizes) <= room
    assert memory.fitting(model.net) == max(n for n in (24, 12, 6, 3, 1) if n <= room)


def test_ranks_that_compute_together_do_not_halve_one_by_one(tiny_model):
    model = crowded(tiny_model(), 3)
    with memory.undivided(), pytest.raises(RuntimeError, match="memory"):
        final_states(model, np.arange(24), steps=2)
    assert model.net.sizes == []  # a second, smaller call would wait for ranks that do not make it
    with memory.undivided(False), pytest.warns(memory.SmallerBatch):
        final_states(model, np.arange(24), steps=2)


def test_a_real_allocator_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
    assert memory.ran_out(MemoryError())
    if hasattr(torch, "OutOfMemoryError"):
        assert memory.ran_out(torch.OutOfMemoryError(MESSAGES[0]))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_pass_through_untouched(error):
    class Broken(torch.nn.Module):
        def forward(self, state, t, cond):
            raise error

    model = FlowModel.from_callable(Broken(), shape=(1, 2, 2))
    with pytest.raises(type(error)) as caught:
        final_states(model, np.arange(4), steps=1)
    assert caught.value is error


def test_one_sample_that_does_not_fit_is_one_clear_error(tiny_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", memory.SmallerBatch)
        with pytest.raises(EnvironmentProblem, match=r"with a single sample \(CUDA out of memory") as caught:
            final_states(crowded(tiny_model(), 0), np.arange(4), steps=1)
    assert caught.value.exit_code == 4


def results(folder: Path) -> dict[str, object]:
    """Every byte, but for the record of the batch that fitted, which stands beside the result, and the seal over it."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    for name in [name for name in found if name.endswith("manifest.json")]:
        found[name] = {k: v for k, v in json.loads(found[name]).items() if k not in ("fitted_batch", "seal")}
    return found


@pytest.mark.filterwarnings("ignore::slowflow.memory.SmallerBatch")
def test_measuring_and_sampling_end_in_the_same_bytes(tmp_path, tiny_model, images):
    probe = Probe(samples=20, steps=(2,), guidance=2.0, nulls=("genuine",), references=("own", "nearest"))
    for name, model in (("a", tiny_model()), ("b", crowded(tiny_model(), 7))):
        identified = {"name": "the same"}
        measure(model, images, probe, tmp_path / name / "m", heldout=0.5, model_id=identified)
        sample(model, SampleConfig(n=30, steps=3), tmp_path / name / "s.npz", model_id=identified)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert "fitted_batch" not in read_manifest(tmp_path / "a" / "m", "measure")
    assert read_manifest(tmp_path / "b" / "m", "measure")["fitted_batch"] == 4  # 64 in the test of direction, halved


class Net(torch.nn.Module):
    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inner = torch.nn.Linear(64, 64, dtype=torch.float64)

    def forward(self, state, t, cond):
        if len(state) > self.room:
            raise RuntimeError(MESSAGES[3])
        return self.inner(state.flatten(1)).view_as(state)


def test_training_goes_on_in_pieces_with_the_same_gradient(tmp_path, images):
    config = TrainConfig(steps=6, batch_size=16, warmup=0, save_every=6, valid_every=0)
    found = []
    for room in (64, 5):
        model = FlowModel.from_callable(Net(room), shape=(1, 8, 8), classes=10)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trained = post_train(model, images, make_remedy("plain"), config, tmp_path / str(room))
        assert len([w for w in said if w.category is memory.SmallerBatch]) == (room == 5)
        recorded = read_manifest(tmp_path / str(room), "posttrain").get("fitted_batch")
        assert recorded == (4 if room == 5 else None)
        found.append(trained.net.inner.weight.detach())
    # the gradient of a batch is the sum over its pieces: rounding of float64, magnified by Adam's division
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-9)


def test_an_autoencoder_that_runs_out_encodes_fewer_at_once(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for i in range(9):
        Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(tmp_path / "in" / f"{i}.png")
    config, codec = EncodeConfig(size=8, batch=8), open_codec("pixels")
    encode_folder(tmp_path / "in", codec, config, tmp_path / "a")
    honest = codec.encode

    def encode(images, noise=None):
        if len(images) > 3:
            raise RuntimeError(MESSAGES[0])
        return honest(images, noise)

    codec.encode = encode
    with pytest.warns(memory.SmallerBatch):
        encode_folder(tmp_path / "in", codec, config, tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert read_manifest(tmp_path / "b", "encode")["fitted_batch"] == 2


def test_the_command_line_notes_it_on_one_line_and_succeeds(tmp_path, monkeypatch):
    from slowflow.families.sit.backbone import SiT

    honest = SiT.forward

    def forward(self, state, *rest):
        if len(state) > 10:
            raise RuntimeError(MESSAGES[0])
        return honest(self, state, *rest)

    monkeypatch.setattr(SiT, "forward", forward)
    command = ["sample", "digits-sit", "--n", "30", "--steps", "1", "--out", str(tmp_path / "s.npz"), "--quiet"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("note: out of memory with 30 samples at once") == 1


@pytest.mark.full
def test_a_real_limit_on_memory_is_survived(tmp_path):
    """A process that may hold little more than the network needs for a few samples at once."""
    code = (
        "import resource, numpy as np, torch, warnings\n"
        "from slowflow import memory\n"
        "from slowflow.flow.generate import final_states\n"
        "from slowflow.flow.model import FlowModel\n"
        "torch.set_num_threads(1)\n"
        "def net(state, t, cond):\n"
        "    wide = state.float().flatten(1).repeat(1, 2**18)\n"  # 64 MiB a sample
        "    return -state + 0 * wide[:, :1].view(-1, 1, 1, 1)\n"
        "model = FlowModel.from_callable(net, shape=(1, 8, 8))\n"
        "free = final_states(model, np.arange(4), steps=1, batch_size=1)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    found = final_states(model, np.arange(64), steps=1)\n"
        "print(len(said), torch.equal(found[:4], free), memory.fitting(model.net))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    count, same, fits = said.stdout.split()
    assert (count, same) == ("1", "True")
    assert 1 <= int(fits) < 64
