"""Features by name, path and function: what each must be, and what is never run or guessed."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowflow import api, pipeline
from slowflow.errors import CheckpointError, InputError
from slowflow.evaluating.features import FEATURES, open_features
from slowflow.evaluating.features.inception import levels
from slowflow.evaluating.inception import Inception, Norm, resized
from slowflow.families.base import Opened
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint

GREY, RGB = (1, 28, 28), (3, 16, 16)


def test_every_kind_names_its_source() -> None:
    assert FEATURES.names() == ["classifier", "dinov2", "function", "inception", "pixels", "torchscript"]
    for entry in FEATURES:
        assert entry.summary
        assert entry.source


def test_a_bundled_classifier_has_features_spatial_ones_and_sure_answers() -> None:
    found = open_features("fd-mnist", GREY)
    made = found.outputs(torch.zeros(5, *GREY))
    assert {name: values.shape for name, values in made.items()} == {
        "features": (5, 64),
        "spatial": (5, 7 * 4 * 4),
        "probabilities": (5, 10),
        "predicted": (5,),
    }
    np.testing.assert_allclose(made["probabilities"].sum(axis=1), 1.0, rtol=1e-5)
    assert (found.name, found.judges) == ("FD-mnist", True)
    with pytest.raises(InputError, match=r"do not take images of shape \(3, 16, 16\)"):
        open_features("fd-mnist", RGB)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Weights of the FID network's layout that keep signals alive through 94 layers."""
    torch.manual_seed(0)
    net = Inception()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, Norm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return net.state_dict()


def by_hand(w: dict[str, Tensor], grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The network written out call by call, as the published ports have it: features, spatial features, logits."""

    def unit(x: Tensor, name: str, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        x = F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
        bn = [w[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *bn, eps=0.001))

    def average(x: Tensor) -> Tensor:
        ones = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)  # the share of the window inside the picture
        return F.avg_pool2d(x, 3, 1, 1) / ones

    def a(x: Tensor, n: str) -> Tensor:
        five = unit(unit(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", padding=2)
        three = unit(unit(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        three = unit(three, f"{n}.branch3x3dbl_3", padding=1)
        return torch.cat([unit(x, f"{n}.branch1x1"), five, three, unit(average(x), f"{n}.branch_pool")], 1)

    def c(x: Tensor, n: str) -> Tensor:
        seven = unit(unit(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", padding=(0, 3))
        seven = unit(seven, f"{n}.branch7x7_3", padding=(3, 0))
        double = unit(x, f"{n}.branch7x7dbl_1")
        for i, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = unit(double, f"{n}.branch7x7dbl_{i}", padding=padding)
        return torch.cat([unit(x, f"{n}.branch1x1"), seven, double, unit(average(x), f"{n}.branch_pool")], 1)

    def e(x: Tensor, n: str, pooled: Tensor) -> Tensor:
        three = unit(x, f"{n}.branch3x3_1")
        three = [unit(three, f"{n}.branch3x3_2a", padding=(0, 1)), unit(three, f"{n}.branch3x3_2b", padding=(1, 0))]
        double = unit(unit(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        double = [
            unit(double, f"{n}.branch3x3dbl_3a", padding=(0, 1)),
            unit(double, f"{n}.branch3x3dbl_3b", padding=(1, 0)),
        ]
        return torch.cat([unit(x, f"{n}.branch1x1"), *three, *double, unit(pooled, f"{n}.branch_pool")], 1)

    x = (resized(grey, 299) - 128) / 128
    x = unit(unit(unit(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
    x = unit(unit(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
    x = a(a(a(F.max_pool2d(x, 3, 2), "Mixed_5b"), "Mixed_5c"), "Mixed_5d")
    assert x.shape[1:] == (288, 35, 35)
    double = unit(unit(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2", padding=1)
    double = unit(double, "Mixed_6a.branch3x3dbl_3", 2)
    x = torch.cat([unit(x, "Mixed_6a.branch3x3", 2), double, F.max_pool2d(x, 3, 2)], 1)
    x = c(c(x, "Mixed_6b"), "Mixed_6c")
    assert x.shape[1:] == (768, 17, 17)
    spatial = unit(x, "Mixed_6d.branch1x1")[:, :7].permute(0, 2, 3, 1).reshape(len(x), -1)
    x = c(c(x, "Mixed_6d"), "Mixed_6e")
    seven = unit(unit(x, "Mixed_7a.branch7x7x3_1"), "Mixed_7a.branch7x7x3_2", padding=(0, 3))
    seven = unit(unit(seven, "Mixed_7a.branch7x7x3_3", padding=(3, 0)), "Mixed_7a.branch7x7x3_4", 2)
    three = unit(unit(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    assert x.shape[1:] == (1280, 8, 8)
    x = e(x, "Mixed_7b", average(x))
    x = e(x, "Mixed_7c", F.max_pool2d(x, 3, 1, 1))
    features = x.mean(dim=(2, 3))
    return features, spatial, features @ w["fc.weight"].T


@torch.no_grad()
def test_the_inception_network_is_the_published_one_written_out(weights: dict[str, Tensor]) -> None:
    net = Inception().eval()
    net.load_state_dict(weights)
    grey = torch.rand(1, 3, 40, 24) * 255
    found, wanted = net(grey), by_hand(weights, grey)
    assert (found.features.shape, found.spatial.shape, found.logits.shape) == ((1, 2048), (1, 2023), (1, 1008))
    for mine, theirs in zip((found.features, found.spatial, found.logits), wanted, strict=True):
        assert float(theirs.abs().max()) > 1e-3  # something arrives
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_the_inception_network_has_the_published_parameters_and_shapes() -> None:
    with torch.device("meta"):
        net = Inception()
    assert (
        sum(p.numel() for p in net.parameters()) == 23_850_960
    )  # 23,834,568 of Inception-v3 without its side head, + 8 classes
    names = net.state_dict()
    assert len(names) == 94 * 5 + 2
    assert names["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert names["Mixed_6b.branch7x7dbl_4.conv.weight"].shape == (128, 128, 7, 1)
    assert names["Conv2d_4a_3x3.bn.running_var"].shape == (192,)


def test_the_resize_is_tensorflows() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    # output pixel i is read at i * 4 / 8; the last one has no neighbour and keeps its value
    np.testing.assert_allclose(resized(ramp, 8)[0, 0, 0].numpy(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0])
    np.testing.assert_allclose(resized(ramp.mT, 8)[0, 0, :, 0].numpy(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0])
    picture = torch.rand(2, 3, 7, 5)
    assert torch.equal(resized(resized(picture, 7), 7), resized(picture, 7))


def test_grey_levels_survive_the_way_through_the_unit_range() -> None:
    whole = torch.arange(256.0).view(1, 1, 16, 16)
    found = levels(whole / 127.5 - 1.0)
    assert found.shape == (1, 3, 16, 16)
    assert torch.equal(found[:, 0], whole[:, 0])


def test_an_inception_file_is_told_by_its_content_and_named_by_its_hash(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.pth"
    extra = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}  # some ports carry them
    checkpoint.save_torch(file, {**weights, **extra})
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    found = open_features(str(file), RGB, sha256=sha)
    assert (found.name, found.sha256) == ("FD-inception", sha)
    assert "not the published weights" in found.note
    monkeypatch.setattr("slowflow.evaluating.features.inception.PUBLISHED", sha[:8])
    named = open_features(f"inception:{file}", GREY)
    assert (named.name, named.note) == ("FID", "")
    with pytest.raises(InputError, match="not the file you mean"):
        open_features(str(file), RGB, sha256="0" * 64)
    weights = {name: value for name, value in weights.items() if name != "fc.bias"}
    checkpoint.save_torch(file, weights)
    with pytest.raises(CheckpointError, match=r"1 missing \(fc\.bias\)"):
        open_features(f"inception:{file}", RGB)


class Doubled(nn.Module):
    """Mean grey levels, doubled where features are asked for, as NVIDIA's file takes the flag."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        means = x.to(torch.float32).mean(dim=[2, 3])
        return 2.0 * means if return_features else means


@pytest.fixture
def script(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Doubled()), str(tmp_path / "net.pt"))
    return tmp_path / "net.pt"


def test_a_program_is_run_only_by_name_and_hash(script: Path) -> None:
    sha = hashlib.sha256(script.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="a program must be named: torchscript:"):
        open_features(str(script), RGB)
    with pytest.raises(InputError, match=f"a program that would be run.*{sha}"):
        open_features(f"torchscript:{script}", RGB)
    with pytest.raises(InputError, match="not the file you mean"):
        open_features(f"torchscript:{script}", RGB, sha256="1" * 64)
    found = open_features(f"torchscript:{script}", RGB, sha256=sha.upper())
    assert (found.name, found.sha256) == ("FD-net", sha)
    made = found.outputs(torch.full((2, *RGB), 0.0))  # grey level 128
    np.testing.assert_array_equal(made["features"], np.full((2, 3), 256.0))


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"no archive")
    sha = hashlib.sha256(b"no archive").hexdigest()
    with pytest.raises(CheckpointError, match="not a TorchScript file"):
        open_features(f"torchscript:{tmp_path / 'net.pt'}", RGB, sha256=sha)


SOURCE = """
def means(images):
    return images.mean(dim=(2, 3))

def rich(images):
    flat = images.flatten(1)
    return {"features": flat[:, :4], "spatial": flat[:, :2], "probabilities": flat[:, :3].softmax(1)}

def wrong(images):
    return images
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_features.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_features", None)
    return "own_features"


def test_a_function_of_the_users_own_gives_features(module: str) -> None:
    found = open_features(f"{module}:means", RGB)
    assert found.name == "FD-means"
    assert found.sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert "code of the user's own" in found.note
    np.testing.assert_allclose(found.outputs(torch.full((2, *RGB), 0.5))["features"], np.full((2, 3), 0.5))
    made = open_features(f"{module}:rich", RGB).outputs(torch.rand(2, *RGB))
    assert {name: values.shape[1] for name, values in made.items()} == {"features": 4, "spatial": 2, "probabilities": 3}
    assert not open_features(f"{module}:rich", RGB).judges  # its classes are its own


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("own_features:wrong", r"is \(2, 3, 16, 16\), expected a tensor \(2, width\)"),
        ("own_features:missing", "has no function 'missing'"),
        ("no_such_module_here:f", "cannot import 'no_such_module_here'"),
        ("inception:/no/such/file", "no such file or folder"),
        ("inception", "no features 'inception'"),
    ],
)
def test_specs_that_lead_nowhere_are_refused(module: str, spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_features(spec, RGB)


def test_dinov2_is_opened_from_a_local_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    net = transformers.Dinov2Model(config).eval()
    net.save_pretrained(tmp_path / "dino")
    found = open_features(str(tmp_path / "dino"), RGB)
    assert found.name == "FD-DINOv2"
    images = torch.rand(2, *RGB) * 2 - 1
    from slowflow.evaluating.features.dinov2 import prepared

    with torch.no_grad():
        wanted = net(pixel_values=prepared(images)).last_hidden_state[:, 0]
    np.testing.assert_allclose(found.outputs(images)["features"], wanted.numpy(), rtol=1e-5, atol=1e-6)
    seen = prepared(torch.ones(1, *RGB))  # white stays white under a resize
    np.testing.assert_allclose(
        seen[0, :, 0, 0].numpy(), (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5
    )
    (tmp_path / "dino" / "model.safetensors").rename(tmp_path / "dino" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="other formats are not opened"):
        open_features(f"dinov2:{tmp_path / 'dino'}", RGB)
    with pytest.raises(CheckpointError, match="no folder of DINOv2"):
        open_features(f"dinov2:{tmp_path}", RGB)


@pytest.mark.parametrize("door", ["evaluate", "run"])
def test_features_run_where_the_model_is(door, tiny_model, images, tmp_path, monkeypatch) -> None:
    class Asked(Exception):
        pass

    def asked(spec, shape, *, device=None):
        raise Asked(str(device))

    monkeypatch.setattr(FlowModel, "device", property(lambda self: torch.device("cuda:3")))
    monkeypatch.setattr(api, "open_features", asked)
    monkeypatch.setattr(pipeline, "open_features", asked)
    model, config, out = tiny_model(), pipeline.RunConfig(features="pixels"), tmp_path / "run"
    doors = {
        "evaluate": lambda: api.evaluate(model, images, features="pixels", out=out),
        "run": lambda: pipeline.run(Opened(model, None, None, "flat", {}), "tiny", images, config, out),
    }
    with pytest.raises(Asked, match="cuda:3"):
        doors[door]()
