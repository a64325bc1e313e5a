"""The SiT family: golden numbers of the official code, safe and strict opening, time direction, custom factories."""

import argparse
import copy
import math
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from golden import det, filled
from torch import nn

from slowflow.data.images import ImageSet
from slowflow.errors import CheckpointError, InputError, NonFiniteError
from slowflow.families.base import FAMILIES, OpenOptions
from slowflow.families.metadata import describe
from slowflow.families.open import direction_test, open_model
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.families.sit.shapes import config_from_shapes
from slowflow.flow.exact import ExactMixture
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.checkpoint import load_strictly

DOUBLE = torch.float64
GOLDEN_CONFIG = SiTConfig(8, 2, 4, hidden=32, depth=2, heads=2, classes=10, learn_sigma=True)
TINY = SiTConfig(4, 2, 1, hidden=8, depth=1, heads=2, classes=3)


# --- sizes and shapes


PRESETS = [
    ("S/2", 384, 12, 6, 32, True, 32_963_360),
    ("B/2", 768, 12, 12, 32, True, 130_512_416),
    ("L/2", 1024, 24, 16, 32, True, 458_102_816),
    ("XL/2", 1152, 28, 16, 32, True, 675_129_632),
    ("XL/2 512", 1152, 28, 16, 64, True, 676_014_368),
    ("XL/2 no sigma", 1152, 28, 16, 32, False, 675_111_184),
    ("XL/2 512 no sigma", 1152, 28, 16, 64, False, 675_995_920),
]


@pytest.mark.parametrize(("name", "hidden", "depth", "heads", "size", "sigma", "count"), PRESETS)
def test_parameter_counts_of_the_published_sizes(name, hidden, depth, heads, size, sigma, count):
    config = SiTConfig(size, 2, 4, hidden, depth, heads, 1000, sigma)
    with torch.device("meta"):
        net = SiT(config)
    assert sum(p.numel() for p in net.parameters()) == count
    assert config_from_shapes(net.state_dict(), None, "file") == config


def fresh(config=TINY, seed=0):
    net = initialise(SiT(config), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        net.final_layer.linear.weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(seed + 1))
    return net


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        SiTConfig(8, 2, 4, 16, 3, 4, 10, True),
        SiTConfig(6, 1, 3, 24, 2, 2, 1, False),
        SiTConfig(8, 4, 2, 8, 1, 1, 5, True),
    ],
    ids=lambda c: f"{c.hidden}x{c.depth}",
)
def test_config_is_read_off_the_shapes(config):
    assert config_from_shapes(SiT(config).state_dict(), config.heads, "file") == config


def test_unknown_width_asks_for_the_heads():
    with pytest.raises(CheckpointError, match="8 wide; the number of attention heads is not in the file, give --heads"):
        config_from_shapes(fresh().state_dict(), None, "file")


def test_a_file_of_something_else_is_named():
    with pytest.raises(
        CheckpointError, match=r"is not a SiT checkpoint: 'x_embedder.proj.weight' is missing \(it holds a, b"
    ):
        config_from_shapes({"a": torch.zeros(1), "b": torch.zeros(1)}, None, "file")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x_embedder.proj.weight", (8, 4)),
        ("pos_embed", (8,)),
        ("y_embedder.embedding_table.weight", ()),
        ("final_layer.linear.weight", ()),
    ],
)
def test_a_required_tensor_with_the_wrong_number_of_axes_is_refused(tmp_path, name, shape):
    tensors = {**fresh().state_dict(), name: torch.zeros(shape)}
    checkpoint.save(tmp_path / "net.safetensors", tensors, {})
    with pytest.raises(CheckpointError):
        open_model(tmp_path / "net.safetensors", "sit", OpenOptions(heads=2))


@pytest.mark.parametrize("heads", [3, -2])
def test_heads_that_do_not_divide_the_width_are_refused_at_opening(tmp_path, heads):
    checkpoint.save(tmp_path / "net.safetensors", fresh().state_dict(), {})
    with pytest.raises(InputError, match="heads"):
        open_model(tmp_path / "net.safetensors", "sit", OpenOptions(heads=heads))


def test_strict_loading_counts_and_lists_what_does_not_fit():
    tensors = dict(fresh().state_dict())
    gone = sorted(name for name in tensors if name.startswith("blocks.0"))
    for name in gone:
        del tensors[name]
    tensors |= {"extra.one": torch.zeros(1), "extra.two": torch.zeros(1)}
    tensors["final_layer.linear.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        load_strictly(fresh(), tensors, "net.pt")
    text = str(caught.value)
    assert text.startswith("net.pt does not fit a SiT: ")
    assert f"{len(gone)} missing ({', '.join(gone[:5])})" in text
    assert gone[5] not in text
    assert "2 unexpected (extra.one, extra.two)" in text
    assert "1 of another shape (final_layer.linear.bias (7,) instead of (4,))" in text


def test_strict_loading_leaves_the_network_alone_when_it_refuses():
    net, other = fresh(seed=0), dict(fresh(seed=5).state_dict())
    before = copy.deepcopy(net.state_dict())
    del other["pos_embed"]
    with pytest.raises(CheckpointError, match="1 missing"):
        load_strictly(net, other, "net.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


# --- opening files


def opened_weights(path, **options):
    opened = open_model(path, "sit", OpenOptions(heads=2, **options))
    return opened, opened.model.net.state_dict()


def same(tensors, net):
    own = net.state_dict()
    return tensors.keys() == own.keys() and all(torch.equal(tensors[name], own[name]) for name in own)


def namespace():
    return argparse.Namespace(model="SiT-XL/2", lr=1e-4, flags=["a", "b"], nothing=None)


def test_plain_pt_state_dict_is_opened(tmp_path):
    net = fresh()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    opened, weights = opened_weights(tmp_path / "net.pt")
    assert same(weights, net)
    assert opened.part == "flat"
    assert opened.model.shape == (1, 4, 4)
    assert (opened.model.classes, opened.model.null) == (3, 3)
    assert (opened.model.interpolant.name, opened.model.prediction) == ("linear", "velocity")
    assert any("default" in note for note in opened.notes)
    assert not opened.model.net.training


def test_the_old_torch_format_is_opened(tmp_path):
    net = fresh()
    torch.save(net.state_dict(), tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    assert same(opened_weights(tmp_path / "net.pt")[1], net)


def test_trainer_file_with_a_namespace_gives_the_ema(tmp_path):
    net, ema = fresh(seed=0), fresh(seed=7)
    optimizer = torch.optim.AdamW(net.parameters())
    content = {"model": net.state_dict(), "ema": ema.state_dict(), "opt": optimizer.state_dict(), "args": namespace()}
    torch.save(content, tmp_path / "0400000.pt")
    opened, weights = opened_weights(tmp_path / "0400000.pt")
    assert opened.part == "ema"
    assert same(weights, ema)
    assert not same(weights, net)


def test_trainer_file_without_ema_gives_the_model(tmp_path):
    net = fresh()
    torch.save({"model": net.state_dict(), "args": namespace()}, tmp_path / "net.pt")
    opened, weights = opened_weights(tmp_path / "net.pt")
    assert opened.part == "model"
    assert same(weights, net)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, prefix):
    net = fresh()
    torch.save({"ema": {prefix + name: tensor for name, tensor in net.state_dict().items()}}, tmp_path / "net.pt")
    assert same(opened_weights(tmp_path / "net.pt")[1], net)


def test_safetensors_are_opened_whatever_the_file_is_called(tmp_path):
    net = fresh()
    (tmp_path / "net.bin").write_bytes(safetensors.torch.save(dict(net.state_dict())))
    opened, weights = opened_weights(tmp_path / "net.bin")
    assert same(weights, net)
    assert opened.model.name == "net"


def test_own_files_need_no_options(tmp_path):
    model = flow_model(fresh(), path="gvp", prediction="data", name="mine")
    checkpoint.save(tmp_path / "file.safetensors", model.net.state_dict(), {"model": describe(model)})
    opened = open_model(tmp_path / "file.safetensors")
    assert (opened.model.name, opened.model.interpolant.name, opened.model.prediction) == ("mine", "gvp", "data")
    assert opened.settings == {**asdict(TINY), "interpolant": "gvp", "prediction": "data"}
    state, t = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    cond = torch.tensor([0, 2])
    assert torch.equal(model.predict(state, t, cond)[0], opened.model.predict(state, t, cond)[0])
    assert torch.equal(model.predict(state, t, cond)[1], opened.model.predict(state, t, cond)[1])


def test_the_user_overrides_the_file(tmp_path):
    model = flow_model(fresh(), path="gvp", prediction="data", name="mine")
    checkpoint.save(tmp_path / "file.safetensors", model.net.state_dict(), {"model": describe(model)})
    opened, _ = opened_weights(tmp_path / "file.safetensors", interpolant="vp", prediction="noise")
    assert (opened.model.interpolant.name, opened.model.prediction) == ("vp", "noise")


@pytest.mark.parametrize(
    "metadata", ["[1]", '"text"', '{"model": "text"}', '{"model": [1]}', '{"model": {"heads": "six"}}']
)
def test_metadata_of_the_wrong_form_is_refused(tmp_path, metadata):
    content = safetensors.torch.save(dict(fresh().state_dict()), {"slowflow": metadata})
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        open_model(tmp_path / "net.safetensors", "sit")


# --- hostile and damaged files


class Runs:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Restores:
    """Unpickles through __setstate__."""

    def __init__(self, canary):
        self.canary = canary

    def __setstate__(self, state):
        os.system(f"touch {state['canary']}")


def payloads(canary):
    return {
        "os.system": Runs(os.system, f"touch {canary}"),
        "subprocess": Runs(subprocess.call, ["touch", str(canary)]),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w').close()"),
        "exec": Runs(exec, f"open({str(canary)!r}, 'w').close()"),
        "open": Runs(open, str(canary), "w"),
        "setstate": Restores(canary),
        "dict": {"ema": {"weight": torch.zeros(2), "x": Runs(os.system, f"touch {canary}")}},
        "namespace": {"model": {"w": torch.zeros(2)}, "args": argparse.Namespace(x=Runs(os.system, f"touch {canary}"))},
    }


def write_zip(content, path):
    torch.save(content, path)


def write_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle2(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_pickle4(content, path):
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("writer", [write_zip, write_old, write_pickle2, write_pickle4])
@pytest.mark.parametrize("name", payloads("x"))
def test_hostile_files_are_refused_and_run_nothing(tmp_path, name, writer):
    canary, file = tmp_path / "canary", tmp_path / "net.pt"
    writer(payloads(canary)[name], file)
    with pytest.raises(CheckpointError, match=r"cannot be opened safely|is not a checkpoint") as caught:
        checkpoint.load(file)
    # PyTorch's own message advises how to run what is in the file
    assert "weights_only" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", payloads("x"))
def test_the_payloads_are_live(tmp_path, name):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(payloads(canary)[name]))  # noqa: S301 - the control: the payload must really run
    assert canary.exists()


def lengths(total):
    """All of the first and last sixteen lengths and 60 in between."""
    middle = np.linspace(16, total - 16, 60).astype(int).tolist()
    return sorted({*range(1, 17), *middle, *range(total - 16, total)})


def as_safetensors(content, path):
    path.write_bytes(safetensors.torch.save(dict(content)))


@pytest.mark.parametrize("writer", [write_zip, write_old, as_safetensors])
def test_truncation_at_any_length_is_a_checkpoint_error(tmp_path, writer):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    writer(fresh().state_dict(), whole)
    content = whole.read_bytes()
    for length in lengths(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(cut)
        assert f"({length:,} bytes)" in str(caught.value)


@pytest.mark.parametrize("writer", [write_zip, write_old, as_safetensors])
def test_a_flipped_byte_is_a_checkpoint_error_or_nothing(tmp_path, writer):
    file = tmp_path / "net"
    writer(fresh().state_dict(), file)
    content = file.read_bytes()
    draw = np.random.default_rng(0)
    # half of the flips in the first 2 kB, where names and sizes are
    places = [*draw.integers(0, 2048, 60), *draw.integers(0, len(content), 60)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draw.integers(8))
        file.write_bytes(bytes(flipped))
        try:
            checkpoint.load(file)
        except CheckpointError:
            continue


def test_a_giant_safetensors_header_is_refused(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(CheckpointError, match="not a checkpoint, or is damaged"):
        checkpoint.load(tmp_path / "net.safetensors")


def test_missing_empty_and_folder_are_told_apart(tmp_path):
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match=r"is empty \(0 bytes\)"):
        checkpoint.load(tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 5, {"epoch": 3}, {"ema": {}}], ids=str)
def test_files_without_named_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"expected a mapping|holds no tensors"):
        checkpoint.load(tmp_path / "net.pt")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.attn.qkv.weight"])
def test_nan_and_infinity_are_refused_by_name(tmp_path, name, value):
    tensors = {key: tensor.clone() for key, tensor in fresh().state_dict().items()}
    tensors[name].view(-1)[2] = value
    torch.save(tensors, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=f"'{name}' holds 1 NaN or infinite values"):
        open_model(tmp_path / "net.pt", "sit", OpenOptions(heads=2))


def test_text_files_are_refused(tmp_path):
    (tmp_path / "net.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        checkpoint.load(tmp_path / "net.pt")


# --- open_model


def test_unknown_model_lists_the_bundled_ones(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no model '.*gone': neither a bundled name \(.*digits-sit.*\) nor a path"
    ):
        open_model(tmp_path / "gone")


def test_unknown_family_suggests_one(tmp_path):
    with pytest.raises(InputError, match="did you mean 'sit'"):
        open_model(tmp_path, "sitt")


@pytest.fixture
def stranger():
    class Stranger:
        def fits(self, names):
            return False

        def open(self, path, options):
            raise CheckpointError(f"{path} is not mine")

    FAMILIES.register("stranger", summary="refuses everything", source="test")(Stranger())
    yield
    del FAMILIES._entries["stranger"]


@pytest.mark.usefixtures("stranger")
def test_a_family_that_would_fit_is_named(tmp_path):
    torch.save(fresh().state_dict(), tmp_path / "net.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="is not mine; it would fit --family dit or sit"):
        open_model(tmp_path / "net.pt", "stranger")
    with pytest.raises(CheckpointError, match=r"is not mine$"):
        open_model(tmp_path / "other.pt", "stranger")


def test_a_repa_file_does_not_count_as_sit():
    names = set(SiT(TINY).state_dict())
    assert FAMILIES.get("sit").fits(names)
    assert not FAMILIES.get("sit").fits(names | {"projectors.0.0.weight"})
    assert not FAMILIES.get("sit").fits(names - {"pos_embed"})


# --- time direction


def blobs(n=30):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    centres = torch.tensor([-0.8, 0.0, 0.8])[labels].view(n, 1, 1, 1)
    return ImageSet("blobs", centres + 0.1 * torch.randn(n, 1, 2, 2, generator=draw), labels, 3)


def perfect(images, label, **settings):
    field = ExactMixture(images.data.double(), images.labels, 0.1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, state, told, cond):
            return settings.get("sign", 1.0) * field.velocity(state, label(told), cond)

    return FlowModel.from_callable(Net(), shape=images.shape, classes=3, label=settings.get("says"))


def test_the_declared_direction_has_the_smaller_loss():
    images = blobs()
    found = direction_test(perfect(images, lambda t: t), images)
    assert found.declared < 0.8 * found.flipped
    assert found.problem is None


def test_a_native_label_that_is_declared_is_accepted():
    images = blobs()
    model = perfect(images, lambda n: 1 - n / 1000, says=lambda t: 1000 * (1 - t))
    assert direction_test(model, images).problem is None


def test_a_flipped_time_convention_is_caught():
    images = blobs()
    found = direction_test(perfect(images, lambda t: 1 - t), images)
    assert found.declared > 1.2 * found.flipped
    assert "declared wrongly" in found.problem


def test_a_flipped_velocity_sign_is_worse_than_predicting_nothing():
    images = blobs()
    found = direction_test(perfect(images, lambda t: t, sign=-1.0), images)
    assert found.declared > found.zero
    assert "declared wrongly" in found.problem


def test_a_flip_of_time_and_sign_together_is_caught():
    images = blobs()
    assert direction_test(perfect(images, lambda t: 1 - t, sign=-1.0), images).problem is not None


def test_nan_on_genuine_states_is_refused():
    images = blobs()
    model = FlowModel.from_callable(lambda s, label, c: s * torch.nan, shape=images.shape, name="broken")
    with pytest.raises(NonFiniteError, match="'broken' returns NaN or infinity"):
        direction_test(model, images)


# --- custom factories


FACTORY = """
import pathlib
from slowflow import FlowModel

def make(path=None):
    scale = 1.0 if path is None else float(pathlib.Path(path).read_text())
    return FlowModel.from_callable(lambda state, t, cond: scale * state, shape=(2,), name="mine")

def wrong():
    return 5
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "slowflow_test_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "slowflow_test_factory"
    sys.modules.pop("slowflow_test_factory", None)


def test_custom_factory_makes_a_model(factory):
    opened = open_model("-", "custom", OpenOptions(factory=f"{factory}:make"))
    assert (opened.model.name, opened.path, opened.sha256, opened.part) == ("mine", None, None, "factory")


def test_custom_factory_is_given_the_path(factory, tmp_path):
    (tmp_path / "scale.txt").write_text("3.0")
    opened = open_model(tmp_path / "scale.txt", "custom", OpenOptions(factory=f"{factory}:make"))
    state = torch.ones(1, 2)
    assert torch.equal(opened.model.velocity(state, torch.tensor(0.5), torch.zeros(1, dtype=torch.int64)), 3 * state)
    assert len(opened.sha256) == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "needs --factory package.module:function"),
        ("no_colon", "needs --factory package.module:function"),
        ("no_such_module_here:make", "cannot import 'no_such_module_here'"),
        ("slowflow_test_factory:gone", "has no function 'gone'"),
        ("slowflow_test_factory:wrong", "returned int, expected a slowflow.FlowModel"),
    ],
)
@pytest.mark.usefixtures("factory")
def test_custom_factory_mistakes_are_named(spec, message):
    with pytest.raises(InputError, match=message):
        open_model("-", "custom", OpenOptions(factory=spec))


def test_initial_weights_depend_on_the_generator_alone():
    first, again, other = (initialise(SiT(TINY), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert same(first.state_dict(), again)
    assert not same(first.state_dict(), other)
    out = first(torch.ones(1, 1, 4, 4), torch.tensor([0.5]), torch.tensor([0]))
    assert torch.equal(out, torch.zeros_like(out))


def test_learn_sigma_drops_the_second_half():
    golden_net = filled(SiT(GOLDEN_CONFIG))
    small = replace(GOLDEN_CONFIG, learn_sigma=False)
    model = flow_model(golden_net, path="linear", prediction="velocity", name="golden")
    t = torch.tensor([0.1, 0.2, 0.3], dtype=DOUBLE)
    whole = golden_net(det(1), t, torch.tensor([0, 7, 10]))
    assert whole.shape == (3, 8, 8, 8)
    assert torch.equal(model.raw(det(1), t, torch.tensor([0, 7, 10])), whole[:, : small.channels])
