"""How a network is run: its batch, its memory format, and compiled; none of which changes what comes out."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from slowflow.errors import EnvironmentProblem, InputError
from slowflow.evaluating.sampling import precision
from slowflow.families.open import identity
from slowflow.flow import batching, compiling, cost, placing
from slowflow.flow.generate import final_states
from slowflow.flow.habits import Guiding
from slowflow.flow.model import FlowModel

IDS = np.arange(5)


class Small(nn.Module):
    """Two layers that see state, time and class."""

    def __init__(self, width: int = 16):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer, self.classes = nn.Linear(16, width), nn.Linear(width, 16), nn.Embedding(4, width)

    def forward(self, state, t, cond):
        hidden = torch.tanh(self.inner(state.flatten(1)) + t[:, None].to(state) + self.classes(cond))
        return self.outer(hidden).view_as(state)


def small(**more):
    return FlowModel.from_callable(Small(), shape=(1, 4, 4), classes=3, **more)


def through(model, **more):
    return final_states(model, IDS, steps=3, **more)


# --- batch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("available", "size"), [(10_000, 64), (1100, 64), (1059, 32), (340, 16), (116, 1), (3, 1)])
def test_the_largest_power_of_two_that_fits_is_taken(available, size):
    """Bytes 100 + 15 n."""
    assert batching.largest(lambda rows: 100 + 15 * rows, available, 64) == size


def test_where_nobody_can_tell_the_limit_is_taken():
    assert batching.largest(lambda rows: None, 0, 64) == 64


def test_memory_is_affine_in_rows_so_two_small_batches_tell_a_large_one():
    model = small()
    few, more, many = (cost.peak(model, rows) for rows in (*batching.PROBED, 64))
    assert many == pytest.approx(more + (64 - 8) * (more - few) / 4, rel=0.02)


def test_guidance_doubles_the_rows_and_a_guide_does_not(monkeypatch):
    asked = []
    monkeypatch.setattr(batching, "room", lambda device: 1000)
    monkeypatch.setattr(cost, "peak", lambda model, rows: asked.append(rows) or rows)
    model = small()
    batching.automatic(model, guidance=2.0)
    batching.automatic(model, guidance=1.0)
    guided = FlowModel(**{**vars(model), "guiding": Guiding(guide=small())})
    batching.automatic(guided, guidance=2.0)
    assert asked == [8, 16, 4, 8, 4, 8]


def test_a_small_machine_gets_a_small_batch(monkeypatch):
    model = small()
    with monkeypatch.context() as patched:  # states this small need no counting
        patched.setattr(cost, "peak", lambda *given: pytest.fail("counted"))
        assert batching.automatic(model) == 64
    monkeypatch.setattr(batching, "room", lambda device: 2 * cost.peak(model, 16) + 1)
    assert batching.automatic(model) in (8, 16)


def test_samples_do_not_depend_on_the_batch():
    assert torch.allclose(through(small(), batch_size=2), through(small(), batch_size=5), atol=1e-6)


# --- memory format -------------------------------------------------------------------------------------------------


def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def test_channels_last_is_for_windows_that_overlap():
    assert placing.convolutional(nn.Sequential(nn.Conv2d(1, 2, 3)))
    assert not placing.convolutional(nn.Sequential(nn.Conv2d(1, 2, kernel_size=2, stride=2)))
    patches = nn.Conv2d(4, 8, kernel_size=2, stride=2)
    placing.channels_last(patches)
    assert patches.weight.is_contiguous()


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))


def test_convolutions_answer_the_same_in_channels_last():
    net, state = convolutions(), torch.randn(2, 1, 8, 8)
    before = net(state)
    placing.channels_last(net)
    assert net[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(before, net(state), atol=1e-5)


@pytest.mark.full
def test_a_unet_answers_the_same_in_channels_last():
    net = unet().eval()
    other = copy.deepcopy(net)
    placing.channels_last(other)
    assert other.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    state, t = torch.randn(2, 1, 8, 8), torch.tensor([10, 500])
    with torch.no_grad():
        a, b = net(state, t).sample, other(state, t).sample
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_a_network_in_16_bits_keeps_float64_states_near_those_of_float32(dtype, close):
    """bfloat16 has 8 significant bits: 2^-8 of a velocity, three times; float16 has 11."""
    coarse = small()
    placing.place(coarse.net, torch.device("cpu"), dtype)
    assert coarse.dtype == dtype
    assert precision(coarse) == f"{str(dtype)[6:]} network, float64 states"
    whole = through(small())
    assert 0 < (through(coarse) - whole).abs().max() < close * whole.abs().max()


# --- compiled ------------------------------------------------------------------------------------------------------


def test_what_compiling_is_not():
    with pytest.raises(InputError, match="'fast', expected one of off, on, graphs"):
        placing.compiled(small(), "fast")
    with pytest.raises(InputError, match="needs a CUDA device, and the network is on 'cpu'"):
        placing.compiled(small(), "graphs")
    model = small()
    placing.compiled(model, "off")
    assert compiling.how(model.net) == "off"


def test_a_missing_compiler_is_said_at_once(monkeypatch):
    def missing(function):
        raise RuntimeError("No working C++ compiler found\nlong story")

    monkeypatch.setattr(torch, "compile", missing)
    model = small()
    with pytest.raises(EnvironmentProblem, match=r"needs a C\+\+ compiler .*: No working C\+\+ compiler found\)"):
        placing.compiled(model, "on")
    assert compiling.how(model.net) == "off"


def test_answers_of_replayed_graphs_are_copied(monkeypatch):
    """CUDA graphs write every answer to the same place; one is kept while the next is made (Heun, two calls a step)."""

    class Replayed(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.zeros(5, 1, 4, 4)

        def forward(self, state, t, cond):
            return self.place.copy_(state * (1 + t[:, None, None, None]))

    class Fresh(Replayed):
        def forward(self, state, t, cond):
            return state * (1 + t[:, None, None, None])

    def made(net):
        model = FlowModel.from_callable(net, shape=(1, 4, 4))
        noise, cond = torch.ones(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
        with torch.no_grad():
            return [model.velocity(noise, torch.tensor(t), cond) for t in (0.0, 0.5)]

    net = Replayed()
    assert torch.equal(*made(net))  # the first answer was written over
    compiling._how[net] = "graphs"
    for a, b in zip(made(net), made(Fresh()), strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def traced():
    """A model and one compiled by the tracer alone: no compiler is needed."""
    plain, model = small(), small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        placing.compiled(model, "on", rows=5, backend="eager")
        through(model)
    return plain, model


def test_a_compiled_network_keeps_its_names_and_its_identity(traced):
    plain, model = traced
    assert compiling.how(model.net) == "on"
    assert list(model.net.state_dict()) == list(plain.net.state_dict())
    assert identity(model) == identity(plain)
    again = copy.deepcopy(model.net)
    assert compiling.how(again) == "off"
    assert again._compiled_call_impl is None


def test_a_compiled_network_makes_the_same_samples_and_records_say_so(traced):
    plain, model = traced
    assert torch.allclose(through(plain), through(model), atol=1e-6)
    assert precision(model) == "float32 network, compiled, float64 states"
    assert precision(plain) == "float32 network, float64 states"


def test_a_guide_is_compiled_too():
    guide = small()
    model = FlowModel(**{**vars(small()), "guiding": Guiding(guide=guide)})
    placing.compiled(model, "on", backend="eager")
    assert compiling.how(guide.net) == compiling.how(model.net) == "on"


def test_a_network_that_cannot_be_compiled_is_refused(monkeypatch):
    class Stubborn(nn.Module):
        def forward(self, state, t, cond):
            raise RuntimeError("dynamo gave up")

    monkeypatch.setattr(compiling, "compile_in_place", lambda *rest: None)
    with pytest.raises(InputError, match=r"cannot be compiled \(RuntimeError: dynamo gave up\)"):
        placing.compiled(FlowModel.from_callable(Stubborn(), shape=(1, 2, 2)), "on", rows=2)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kernels_made_by_the_compiler_agree_to_rounding():
    model = small()
    placing.compiled(model, "on", rows=5)
    assert torch.allclose(through(model), through(small()), rtol=1e-5, atol=1e-5)
