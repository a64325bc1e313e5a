"""Folders in diffusers' layout: one clear sentence for everything that can be missing or wrong in them."""

import json
import subprocess
import sys

import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.errors import CheckpointError, MissingExtraError
from slowflow.io import checkpoint, pretrained


def part(root, **config):
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    return root


def test_parts_are_found_by_name_or_are_the_folder(tmp_path):
    unet = part(tmp_path / "unet")
    assert pretrained.find_part(tmp_path, ("transformer", "unet")) == unet
    assert pretrained.find_part(unet, ("transformer", "unet")) == unet
    (tmp_path / "file").write_text("x")
    for path, says in [
        (tmp_path / "none", "no such folder"),
        (tmp_path / "file", "is a file, expected a folder in the layout of diffusers"),
    ]:
        with pytest.raises(CheckpointError, match=says):
            pretrained.find_part(path, ("unet",))
    with pytest.raises(CheckpointError, match=r"has no vae/ \(it holds file, unet\)"):
        pretrained.find_part(tmp_path, ("vae",))


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not valid JSON"), ("[]", "does not say which class"), ("{}", "does not say which class")],
)
def test_configs_that_are_none_are_refused(tmp_path, text, says):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        pretrained.read_config(tmp_path)


def test_weights_are_one_file_or_an_index(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights \(expected diffusion_pytorch_model.safetensors\)"):
        pretrained.weight_files(tmp_path)
    for name in ("a.fp16.safetensors", "b.safetensors"):
        checkpoint.save(tmp_path / name, {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="holds 2 weight files and no index"):
        pretrained.weight_files(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    for content, says in [
        ("{}", "is not an index of shards"),
        ('{"weight_map": {"x": "b.safetensors", "y": "c.safetensors"}}', r"lacks 1 of the 2 shards .* \(first: c.safe"),
        ('{"weight_map": {"x": "../b.safetensors"}}', "lacks 1 of the 1 shards"),
    ]:
        index.write_text(content)
        with pytest.raises(CheckpointError, match=says):
            pretrained.weight_files(tmp_path)
    index.write_text('{"weight_map": {"x": "b.safetensors"}}')
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")
    assert pretrained.weight_files(tmp_path) == [tmp_path / "b.safetensors"]
    # a whole file says more than an index that was left behind
    whole = tmp_path / "diffusion_pytorch_model.safetensors"
    checkpoint.save(whole, {"x": torch.zeros(1)}, {})
    assert pretrained.weight_files(tmp_path) == [whole]


def test_fingerprints_tell_weights_apart(tmp_path):
    for name, value in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        part(tmp_path / name)
        checkpoint.save(tmp_path / name / "diffusion_pytorch_model.safetensors", {"x": torch.full((2,), value)}, {})
    a, b, c = (pretrained.fingerprint(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        MissingExtraError, match=r"reading needs the package 'diffusers', .*: pip install 'slowflow\[diff"
    ):
        pretrained.require("diffusers", "reading")


def test_listing_families_and_codecs_loads_no_optional_package():
    code = (
        "import sys\nfrom slowflow.families import FAMILIES\nfrom slowflow.codecs import CODECS\n"
        "assert {'sd3', 'flowmatch', 'ddpm'} <= set(FAMILIES.names()) and 'kl' in CODECS.names()\n"
        "print([n for n in ('diffusers', 'transformers', 'peft', 'accelerate') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_classes_and_configs_that_diffusers_does_not_know(tmp_path):
    pytest.importorskip("diffusers")
    checkpoint.save(tmp_path / "diffusion_pytorch_model.safetensors", {"x": torch.zeros(1)}, {})
    for config, says in [
        ({"_class_name": "RAEDiT2DModel"}, "asks for the class 'RAEDiT2DModel', which diffusers .* does not have"),
        ({"_class_name": "DDPMScheduler"}, "holds a 'DDPMScheduler', expected a network"),
        ({"block_out_channels": [7]}, "does not describe a 'UNet2DModel'"),
    ]:
        part(tmp_path, **config)
        with pytest.raises(CheckpointError, match=says):
            pretrained.load_module(tmp_path, "a test")


# --- the same, as a user meets it


def refused(*arguments, code):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("slowflow: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("family", ["sd3", "flowmatch", "ddpm"])
def test_every_family_of_diffusers_says_what_is_missing(tmp_path, family, monkeypatch):
    name = "unet" if family == "ddpm" else "transformer"
    where = part(tmp_path / "net" / name, _class_name="UNet2DModel")
    checkpoint.save(where / "diffusion_pytorch_model.safetensors", {"x": torch.zeros(1)}, {})
    (tmp_path / "empty").mkdir()
    check = ("check", "--family", family)
    assert "neither a bundled name" in refused(*check, tmp_path / "none", code=3)
    assert f"{name}/" in refused(*check, tmp_path / "empty", code=3)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    line = refused(*check, tmp_path / "net", code=4)
    assert line == (
        f"slowflow: the family '{family}' needs the package 'diffusers', which is not installed: pip install 'slowflow[diffusers]'"
    )


def test_a_toml_of_settings_is_read_strictly(tmp_path):
    pytest.importorskip("diffusers")
    (tmp_path / "a.toml").write_text('folder = "net"\nlorra = 4\n')
    assert "unknown setting 'lorra' in" in refused("check", tmp_path / "a.toml", "--family", "sd3", code=3)
    (tmp_path / "a.toml").write_text("lora = 4\n")
    assert "lacks the setting 'folder'" in refused("check", tmp_path / "a.toml", "--family", "sd3", code=3)
    (tmp_path / "a.toml").write_text('folder = "gone"\n')
    assert "no such folder" in refused("check", tmp_path / "a.toml", "--family", "sd3", code=3)
