"""SiT, REPA, RAE and DiT files: every container opens strictly, is exported and opens again bit for bit."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import DDT_CONFIG, KINDS, PLAIN_CONFIG, family, fresh, model_of

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, OpenOptions
from slowflow.families.export import export, without_sigma
from slowflow.families.open import open_model
from slowflow.families.rae.backbone import DDT, LightningDiT, RAEConfig, rae_preset
from slowflow.families.rae.shapes import config_of as rae_config
from slowflow.families.repa import config_of as repa_config
from slowflow.families.repa.backbone import REPA, REPAConfig, repa_preset
from slowflow.families.sit.backbone import SiT, SiTConfig, preset
from slowflow.families.sit.shapes import config_from_shapes
from slowflow.io import checkpoint

HEADS = OpenOptions(heads=2)


def namespace():
    return argparse.Namespace(model="XL/2", lr=1e-4, flags=["a"], nothing=None)


def adam(net):
    return torch.optim.AdamW([p for p in net.parameters() if p.requires_grad]).state_dict()


def containers(net, other):
    """Layouts that trainers and hubs use, by name: (content, part that must be taken)."""
    weights, wrong = net.state_dict(), other.state_dict()
    trainer = {"model": wrong, "ema": weights, "opt": adam(net), "args": namespace()}
    return {
        "flat": (weights, "flat"),
        "trainer": (trainer, "ema"),
        "trainer with steps": ({**trainer, "steps": 400_000}, "ema"),
        "rae trainer": (
            {"step": 7, "epoch": 1, "model": wrong, "ema": weights, "optimizer": adam(net), "scheduler": {"last": 3}},
            "ema",
        ),
        "model only": ({"model": weights}, "model"),
        "ema only": ({"ema": weights}, "ema"),
        "ddp": ({"ema": {f"module.{k}": v for k, v in weights.items()}}, "ema"),
        "compiled ddp": ({f"module._orig_mod.{k}": v for k, v in weights.items()}, "flat"),
    }


CONTAINERS = tuple(containers(fresh("sit"), fresh("sit")))


def same(net, other):
    mine, theirs = net.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_container_opens_and_comes_back_bit_for_bit(kind, container, tmp_path):
    net = fresh(kind)
    content, part = containers(net, fresh(kind, seed=9))[container]
    torch.save(content, tmp_path / "net.pt")
    opened = open_model(tmp_path / "net.pt", family(kind), HEADS)
    assert opened.part == part
    assert f"weights taken from '{part}'" in opened.notes
    assert same(opened.model.net, net)
    assert opened.model.family == family(kind)
    told = export(opened.model, family(kind), tmp_path / "official.pt")
    assert len(told["sha256"]) == 64
    again = open_model(tmp_path / "official.pt", family(kind), HEADS)
    assert same(again.model.net, net)
    assert again.settings == opened.settings
    expected = {"ema"} if family(kind) == "rae" else set(net.state_dict())
    assert set(torch.load(tmp_path / "official.pt", weights_only=True)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_own_files_know_their_family_and_need_no_options(kind, tmp_path):
    from slowflow.families.metadata import describe

    model = model_of(kind, name="mine")
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model.net.state_dict(), {"model": describe(model)})
    opened = open_model(path)
    assert (opened.model.family, opened.model.name) == (family(kind), "mine")
    assert same(opened.model.net, model.net)
    assert opened.model.net.config == model.net.config
    for other in {"sit", "dit", "repa", "rae"} - {family(kind), "sit"}:
        with pytest.raises(CheckpointError, match=f"is a model of the family '{family(kind)}', not '{other}'"):
            open_model(path, other)


def test_old_names_of_repa_are_understood(tmp_path):
    net = fresh("repa")
    old = {}
    for name, tensor in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks" and int(parts[1]) >= 2:
            name = ".".join(["decoder_blocks", str(int(parts[1]) - 2), *parts[2:]])
        old[name] = tensor
    assert any(name.startswith("decoder_blocks.0") for name in old)
    torch.save({"ema": old}, tmp_path / "old.pt")
    opened = open_model(tmp_path / "old.pt", "repa", HEADS)
    assert same(opened.model.net, net)
    assert opened.model.net.config.encoder_depth == 2
    assert any("old names" in note for note in opened.notes)


def test_foreign_repa_files_say_that_the_projection_depth_is_assumed(tmp_path):
    torch.save(fresh("repa").state_dict(), tmp_path / "net.pt")
    opened = open_model(tmp_path / "net.pt", "repa", HEADS)
    assert opened.model.net.config.encoder_depth == 3
    assert any("without effect on sampling" in note for note in opened.notes)


# --- sizes


@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
@pytest.mark.parametrize("resolution", [256, 512])
@pytest.mark.parametrize("kind", ["sit", "dit", "repa"])
def test_shapes_of_presets_are_read_back(kind, size, resolution):
    config = repa_preset(size, resolution) if kind == "repa" else preset(size, resolution)
    with torch.device("meta"):
        net = REPA(config) if kind == "repa" else SiT(config)
    read = (
        repa_config
        if kind == "repa"
        else (lambda tensors, heads, depth, path: config_from_shapes(tensors, heads, path))
    )
    assert read(net.state_dict(), None, 8, Path("file")) == config


COUNTS = {
    ("sit", "S", 256): 32_963_360,
    ("sit", "B", 256): 130_512_416,
    ("sit", "L", 256): 458_102_816,
    ("sit", "XL", 256): 675_129_632,
    ("sit", "XL", 512): 676_014_368,
    ("repa", "B", 256): 137_845_008,
    ("repa", "XL", 256): 683_242_512,
    ("rae", "S", 256): 196_455_764,
    ("rae", "XL", 256): 838_675_796,
    ("rae", "XL", 512): 839_560_532,
}


@pytest.mark.parametrize(("kind", "size", "resolution"), COUNTS)
def test_parameters_of_presets_are_as_many_as_published(kind, size, resolution):
    make = {"sit": (SiT, preset), "repa": (REPA, repa_preset), "rae": (DDT, rae_preset)}[kind]
    with torch.device("meta"):
        net = make[0](make[1](size, resolution))
    assert sum(p.numel() for p in net.parameters()) == COUNTS[kind, size, resolution]
    if kind == "rae":
        assert rae_config(net.state_dict(), Path("file")) == net.config
        assert sum(b.numel() for b in net.buffers()) == 102_400 or (size, resolution) != ("XL", 256)


@pytest.mark.parametrize("make", [preset, repa_preset, rae_preset])
@pytest.mark.parametrize(("size", "resolution"), [("M", 256), ("XL", 128)])
def test_unknown_presets_are_refused(make, size, resolution):
    with pytest.raises(InputError, match=f"no preset '{size}' at {resolution}"):
        make(size, resolution)


@pytest.mark.parametrize(
    "config",
    [
        DDT_CONFIG,
        PLAIN_CONFIG,
        replace(PLAIN_CONFIG, learn_sigma=True),
        RAEConfig(4, 2, 3, (16, 16), (3, 2), (4, 2), 7),
        RAEConfig(6, 1, 5, (32, 8), (1, 3), (2, 1), 2),
    ],
    ids=lambda c: f"{c.hidden}x{c.depth}",
)
def test_rae_shapes_are_read_off(config):
    net = DDT(config) if len(config.hidden) == 2 else LightningDiT(config)
    assert rae_config(net.state_dict(), Path("file")) == config


# --- export


def test_a_head_without_sigma_gives_the_same_velocity(tmp_path):
    model = model_of("sit-sigma")
    export(model, "sit", tmp_path / "small.pt", drop_sigma=True)
    small = open_model(tmp_path / "small.pt", "sit", HEADS).model
    assert small.net.config == replace(model.net.config, learn_sigma=False)
    state, t = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.7])
    cond = torch.tensor([0, 3])
    torch.testing.assert_close(small.velocity(state, t, cond), model.velocity(state, t, cond), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="no second half"):
        without_sigma(small.net.state_dict(), 2)


def test_a_model_is_exported_to_its_own_layout_only(tmp_path):
    with pytest.raises(InputError, match="is a model of the family 'sit' and cannot be written as 'repa'"):
        export(model_of("sit"), "repa", tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"unknown family 'sitt'; did you mean 'sit'"):
        export(model_of("sit"), "sitt", tmp_path / "x.pt")
    custom = replace(model_of("sit"), family="custom")
    with pytest.raises(InputError, match="no official layout"):
        export(custom, "custom", tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    (tmp_path / "x.pt").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export(model_of("sit"), "sit", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_text() == "mine"


# --- the wrong file, the wrong family

FITTING = {"sit": "dit or sit", "sit-sigma": "dit or sit", "dit": "dit or sit", "repa": "repa", "rae": "rae"}


@pytest.mark.parametrize("kind", [*FITTING, "rae-plain"])
@pytest.mark.parametrize("tried", ["sit", "repa", "rae", "dit"])
def test_the_family_that_would_fit_is_named(kind, tried, tmp_path):
    torch.save(fresh(kind).state_dict(), tmp_path / "net.pt")
    if {family(kind), tried} <= {"sit", "dit"} or family(kind) == tried:
        assert open_model(tmp_path / "net.pt", tried, HEADS).model.family == tried
        return
    with pytest.raises(CheckpointError) as caught:
        open_model(tmp_path / "net.pt", tried, HEADS)
    assert f"it would fit --family {FITTING[kind.removesuffix('-plain')]}" in str(caught.value)
    assert caught.value.exit_code == 3


def test_names_decide_which_families_fit():
    for kind in KINDS:
        names = set(fresh(kind).state_dict())
        fits = {name for name in ("sit", "repa", "rae", "dit") if FAMILIES.get(name).fits(names)}
        assert fits == ({"sit", "dit"} if family(kind) in ("sit", "dit") else {family(kind)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_is_named(kind, tmp_path):
    weights = dict(fresh(kind).state_dict())
    del weights["blocks.0.attn.qkv.weight"]
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"1 missing \(blocks.0.attn.qkv.weight\)$"):
        open_model(tmp_path / "net.pt", family(kind), HEADS)  # no other family is blamed: the file is damaged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight"])
def test_a_required_tensor_that_is_gone_or_flat_is_named(kind, name, tmp_path):
    weights = dict(fresh(kind).state_dict())
    for broken in (None, weights[name].flatten()):
        weights[name] = broken
        torch.save({k: v for k, v in weights.items() if v is not None}, tmp_path / "net.pt")
        with pytest.raises(CheckpointError, match=name):
            open_model(tmp_path / "net.pt", family(kind), HEADS)


@pytest.mark.parametrize(
    "kind", ["sit", "repa", "rae", "rae-plain"]
)  # twice the channels of a sigma head are a plain head
def test_other_channels_are_one_sentence(kind, tmp_path):
    weights = dict(fresh(kind).state_dict())
    weights["x_embedder.proj.weight"] = torch.cat([weights["x_embedder.proj.weight"]] * 2, dim=1)
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as caught:
        open_model(tmp_path / "net.pt", family(kind), HEADS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("repa", OpenOptions(heads=2, prediction="noise"), "REPA predicts velocity"),
        ("rae", OpenOptions(prediction="data"), "RAE predicts velocity"),
        ("dit", OpenOptions(heads=2, interpolant="linear"), "DiT predicts noise on DDPM's table"),
        ("dit", OpenOptions(heads=2, prediction="velocity"), "DiT predicts noise on DDPM's table"),
        ("repa", OpenOptions(heads=3), "heads"),
        ("repa", OpenOptions(heads=2, interpolant="table"), "no derivative"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind, options, message, tmp_path):
    torch.save(fresh(kind).state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=message):
        open_model(tmp_path / "net.pt", family(kind), options)


def test_repa_with_a_sigma_head_is_refused(tmp_path):
    weights = {**fresh("repa").state_dict(), **{k: v for k, v in fresh("dit").state_dict().items() if "linear" in k}}
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="4 output channels, a REPA has 2"):
        open_model(tmp_path / "net.pt", "repa", HEADS)


def test_wrong_configurations_are_refused():
    trunk = SiTConfig(4, 2, 2, 16, 3, 2, 3)
    for depth in (0, 4):
        with pytest.raises(InputError, match="encoder_depth"):
            REPAConfig(trunk, encoder_depth=depth)
    with pytest.raises(InputError, match="projector"):
        REPAConfig(trunk, projector=0, encoder_depth=1)
    for bad in (
        dict(heads=(3, 2)),
        dict(depth=(2,)),
        dict(patch=3),
        dict(classes=0),
        dict(hidden=(18, 24)),
        dict(learn_sigma=True),
    ):
        with pytest.raises(InputError):
            replace(DDT_CONFIG, **bad)


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_queries_are_refused_by_name(kind, tmp_path):
    torch.save({**fresh(kind).state_dict(), "blocks.0.attn.q_norm.weight": torch.ones(8)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"normalises queries and keys \('blocks.0.attn.q_norm.weight'\)"):
        open_model(tmp_path / "net.pt", family(kind), HEADS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_opens_files_and_nothing_else(kind):
    with pytest.raises(CheckpointError, match="opens a file"):
        FAMILIES.get(family(kind)).open(None, OpenOptions())


def test_safetensors_of_strangers_are_opened(tmp_path):
    net = fresh("rae")
    (tmp_path / "net.safetensors").write_bytes(safetensors.torch.save(dict(net.state_dict())))
    assert same(open_model(tmp_path / "net.safetensors", "rae").model.net, net)
