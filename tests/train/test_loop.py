"""Training: bit-equal resumption, equal arms, honest failures, recipes."""

import copy
import json
import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from slowflow.config import from_mapping
from slowflow.data.images import ImageSet
from slowflow.errors import ConfigMismatchError, DataError, InputError, NonFiniteError
from slowflow.families.open import open_model
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint
from slowflow.io.run import read_manifest
from slowflow.remedies.mixflow import MixFlow
from slowflow.remedies.plain import Plain
from slowflow.train.loop import TrainConfig, batch_rows, heldout_loss, step_loss, train
from slowflow.train.post import make_remedy, post_train
from slowflow.train.pretrain import fresh_model, pretrain, read_recipe
from slowflow.train.state import TrainState

SHAPE = SiTConfig(4, 2, 1, hidden=8, depth=1, heads=2, classes=3)
SETTINGS = TrainConfig(
    steps=20, batch_size=8, lr=1e-2, lr_final=1e-3, warmup=4, ema_decay=0.9, save_every=10, valid_every=5, seed=3
)


pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=30, shape=(1, 4, 4), classes=3):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    offset = (labels.float() / classes).view(n, 1, 1, 1)
    return ImageSet("blobs", offset + 0.1 * torch.randn((n, *shape), generator=draw), labels, classes)


def tiny(seed=0):
    net = initialise(SiT(SHAPE), torch.Generator().manual_seed(seed))
    return flow_model(net, path="linear", prediction="velocity", name="tiny")


class Stop(Exception):
    """What cuts a run."""


def stop_at(step):
    def progress(done, steps, note):
        if done == step:
            raise Stop

    return progress


def everything(state):
    """All numbers of a training state by name."""
    found = {f"net/{name}": p for name, p in state.net.named_parameters()}
    found |= {f"ema/{name}": p for name, p in state.ema_net.named_parameters()}
    for name, parameter in state.parameters.items():
        found |= {f"{key}/{name}": value for key, value in state.optimizer.state[parameter].items()}
    return found


@pytest.mark.parametrize("remedy", [Plain(), MixFlow(gamma=0.5)], ids=["plain", "mixflow"])
@pytest.mark.parametrize("cut", [10, 14])
def test_a_cut_run_resumes_bit_for_bit(tmp_path, remedy, cut):
    data, held = images().split(0.2)
    whole = train(tiny(), data, remedy, SETTINGS, tmp_path / "whole", heldout=held)
    with pytest.raises(Stop):
        train(tiny(), data, remedy, SETTINGS, tmp_path / "cut", heldout=held, progress=stop_at(cut))
    resumed = train(tiny(seed=9), data, remedy, SETTINGS, tmp_path / "cut", heldout=held)
    assert whole.step == resumed.step == 20
    assert whole.losses == resumed.losses
    assert whole.validation == resumed.validation
    ours, theirs = everything(whole), everything(resumed)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_training_changes_every_trainable_tensor_and_lowers_the_loss(tmp_path):
    before = {name: p.detach().clone() for name, p in tiny().net.named_parameters()}
    model = tiny()
    state = train(model, images(), Plain(), replace(SETTINGS, steps=60), tmp_path / "state")
    after = dict(model.net.named_parameters())
    assert {name for name in after if torch.equal(after[name], before[name])} == {"pos_embed"}
    # warm-up and noise of single batches apart, the mean of ten falls by far more than 20 %
    assert sum(state.losses[-10:]) < 0.8 * sum(state.losses[:10])
    assert not model.net.training


def test_the_average_follows_its_definition(tmp_path):
    config = replace(SETTINGS, steps=3, ema_decay=0.7, save_every=1, valid_every=0)
    model = tiny()
    average = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    seen = []

    def progress(done, steps, note):
        seen.append({name: p.detach().clone() for name, p in model.net.named_parameters()})

    state = train(model, images(), Plain(), config, tmp_path / "state", progress=progress)
    for weights in seen:
        average = {name: 0.7 * average[name] + 0.3 * weights[name] for name in average}
    for name, parameter in state.ema_net.named_parameters():
        # one float32 rounding a step
        torch.testing.assert_close(parameter.detach(), average[name], rtol=1e-5, atol=1e-7)


def test_equal_arms_see_equal_images_noise_and_classes(tmp_path):
    seen = {"plain": [], "mixflow": []}

    class SeenPlain(Plain):
        def pair(self, noise, data, generator=None, cond=None):
            seen["plain"].append((noise, data))
            return super().pair(noise, data, generator, cond)

    class SeenMixFlow(MixFlow):
        def pair(self, noise, data, generator=None, cond=None):
            seen["mixflow"].append((noise, data))
            return super().pair(noise, data, generator, cond)

    config = replace(SETTINGS, steps=6)
    train(tiny(), images(), SeenPlain(), config, tmp_path / "a")
    train(tiny(), images(), SeenMixFlow(gamma=0.9), config, tmp_path / "b")
    assert len(seen["plain"]) == len(seen["mixflow"]) == 6
    for one, other in zip(seen["plain"], seen["mixflow"], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(seen["plain"][0][0], seen["plain"][1][0])


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (9, 20), (12, 1)])
def test_batches_cover_every_epoch_without_repeats(n, size):
    steps = 3 * n
    rows = torch.cat([batch_rows(1, step, size, n) for step in range(steps)]).view(-1)
    epochs = rows[: len(rows) // n * n].view(-1, n)
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1


def test_batches_depend_on_seed_and_step_only():
    assert torch.equal(batch_rows(1, 5, 4, 10), batch_rows(1, 5, 4, 10))
    assert not torch.equal(batch_rows(1, 0, 10, 10), batch_rows(2, 0, 10, 10))


def test_learning_rate_warms_up_then_follows_a_cosine():
    config = TrainConfig(steps=110, lr=1.0, lr_final=0.2, warmup=10)
    assert [config.learning_rate(k) for k in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert config.learning_rate(10) == 1.0
    assert config.learning_rate(60) == pytest.approx(0.6)
    assert config.learning_rate(35) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 4)))
    rates = [config.learning_rate(k) for k in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    # the last step is one hundredth of the cosine before lr_final
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)


def test_learning_rate_is_constant_when_both_ends_are_equal():
    config = TrainConfig(steps=10, lr=0.3, lr_final=0.3, warmup=0)
    assert {config.learning_rate(k) for k in range(10)} == {0.3}


def test_the_scheduled_rate_reaches_the_optimiser(tmp_path):
    config, rates = replace(SETTINGS, steps=6), []
    original = torch.optim.AdamW.step

    def spy(self, *arguments, **settings):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(tiny(), images(), Plain(), config, tmp_path / "state")
    assert rates == [config.learning_rate(k) for k in range(6)]


# --- failures


class PoisonedTarget(Plain):
    """The target of call 8 is NaN."""

    calls: ClassVar[list] = []

    def pair(self, noise, data, generator=None, cond=None):
        got = super().pair(noise, data, generator)
        self.calls.append(1)
        return got._replace(target=got.target * math.nan) if len(self.calls) == 8 else got


def test_a_non_finite_loss_stops_and_keeps_the_last_state(tmp_path):
    PoisonedTarget.calls.clear()
    file = tmp_path / "state"
    with pytest.raises(NonFiniteError, match="the loss became nan at step 7; the last good state is kept in") as caught:
        train(tiny(), images(), PoisonedTarget(), replace(SETTINGS, save_every=5), file)
    assert str(file) in str(caught.value)
    state = restored(file)
    assert state.step == 5
    assert len(state.losses) == 5


def restored(file, net=None):
    state = TrainState(net or tiny().net, ema_decay=0.9, betas=(0.9, 0.999), weight_decay=0.0)
    state.load(file)
    return state


class BadGradient(nn.Module):
    """The fourth training call has a finite output and a NaN gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, state, label, cond):
        self.calls += 1
        zero = self.weight - self.weight.detach()
        return self.weight * state + (zero.abs().sqrt() if self.calls == 4 else 0.0)


def test_a_nan_gradient_does_not_overwrite_the_last_good_state(tmp_path):
    model = FlowModel.from_callable(BadGradient(), shape=(1, 4, 4), classes=3)
    file = tmp_path / "state"
    with pytest.raises(NonFiniteError):
        train(model, images(), Plain(), replace(SETTINGS, save_every=1, valid_every=0), file)
    state = restored(file, BadGradient())
    assert state.step == 3
    assert bool(torch.isfinite(state.net.weight))


def test_a_nan_gradient_at_the_last_step_is_not_a_success(tmp_path):
    model = FlowModel.from_callable(BadGradient(), shape=(1, 4, 4), classes=3)
    with pytest.raises(NonFiniteError):
        train(model, images(), Plain(), replace(SETTINGS, steps=4, valid_every=0), tmp_path / "state")


class Listening(nn.Module):
    """Records the classes it is told."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.conds = []

    def forward(self, state, label, cond):
        self.conds.append(cond.clone())
        return self.weight * state


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_label_dropout_has_its_share(share):
    net = Listening()
    model = FlowModel.from_callable(net, shape=(1, 4, 4), classes=3)
    data, config = images(), replace(SETTINGS, batch_size=500, label_dropout=share)
    for step in range(8):
        step_loss(model, Plain(), data, config, step)
    dropped = torch.cat(net.conds) == 3
    # 4000 draws: five standard errors of a share of 0.3 are 0.036
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.036 if share else 0.0)


def test_kept_labels_are_those_of_the_images():
    net = Listening()
    model = FlowModel.from_callable(net, shape=(1, 4, 4), classes=3)
    data, config = images(), replace(SETTINGS, label_dropout=0.5)
    step_loss(model, Plain(), data, config, 2)
    expected, got = data.labels[batch_rows(config.seed, 2, 8, 30)], net.conds[0]
    kept = got != 3
    assert 0 < int(kept.sum()) < 8
    assert torch.equal(got[kept], expected[kept])


def test_a_model_without_null_drops_nothing():
    net = Listening()
    model = replace(FlowModel.from_callable(net, shape=(1, 4, 4), classes=3), null=None)
    step_loss(model, Plain(), images(), replace(SETTINGS, batch_size=100, label_dropout=0.9), 0)
    assert int(net.conds[0].max()) <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (images(shape=(1, 8, 8)), r"items of shape \(1, 8, 8\), the model expects \(1, 4, 4\)"),
        (images(shape=(3, 4, 4)), r"items of shape \(3, 4, 4\)"),
        (images(classes=5), "has 5 classes, the model knows 3"),
    ],
)
def test_data_the_model_cannot_take_is_refused(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        train(tiny(), data, Plain(), SETTINGS, tmp_path / "state")
    with pytest.raises(InputError, match=message):
        post_train(tiny(), data, Plain(), SETTINGS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_network_is_refused(tmp_path):
    train(tiny(), images(), Plain(), replace(SETTINGS, steps=1), tmp_path / "state")
    with pytest.raises(InputError, match="the state of another network"):
        restored(tmp_path / "state", Listening())


def test_the_state_of_a_network_of_another_size_is_refused(tmp_path):
    train(tiny(), images(), Plain(), replace(SETTINGS, steps=1), tmp_path / "state")
    wider = SiT(replace(SHAPE, hidden=16))
    with pytest.raises(InputError):
        restored(tmp_path / "state", wider)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"label_dropout": -0.1}, "label_dropout is -0.1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": (0.9, 1.5)}, "betas"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{"steps": 5, **setting})


def test_heldout_loss_is_the_same_whenever_it_is_asked_for():
    model, held = tiny(), images()
    before = torch.get_rng_state()
    assert heldout_loss(model, held, 3) == heldout_loss(model, held, 3)
    assert heldout_loss(model, held, 3) != heldout_loss(model, held, 4)
    assert torch.equal(torch.get_rng_state(), before)


# --- post-training


def snapshot(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_post_training_leaves_the_input_untouched_and_changes_the_result(tmp_path):
    model = tiny()
    before = snapshot(model.net)
    trained = post_train(model, images(), MixFlow(gamma=0.5), replace(SETTINGS, steps=6), tmp_path / "run")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())
    changed = [name for name, tensor in trained.net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "blocks.0.attn.qkv.bias" in changed or "final_layer.linear.weight" in changed
    assert trained.name == "tiny+mixflow"
    assert trained.net is not model.net


def test_a_finished_post_training_returns_its_stored_weights(tmp_path):
    config = replace(SETTINGS, steps=4)
    first = post_train(tiny(), images(), Plain(), config, tmp_path / "run")
    stamp = (tmp_path / "run" / "manifest.json").read_bytes()
    again = post_train(tiny(), images(), Plain(), config, tmp_path / "run", progress=stop_at(1))
    assert (tmp_path / "run" / "manifest.json").read_bytes() == stamp
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), again.net.parameters(), strict=True))


def test_a_cut_post_training_ends_in_identical_files(tmp_path):
    config = replace(SETTINGS, steps=8, save_every=3)
    post_train(tiny(), images(), MixFlow(), config, tmp_path / "whole")
    with pytest.raises(Stop):
        post_train(tiny(), images(), MixFlow(), config, tmp_path / "cut", progress=stop_at(5))
    assert not (tmp_path / "cut" / "manifest.json").exists()
    post_train(tiny(), images(), MixFlow(), config, tmp_path / "cut")
    for name in ("model.safetensors", "history.json", "manifest.json", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_post_trained_weights_open_again_with_their_conventions(tmp_path):
    trained = post_train(tiny(), images(), MixFlow(gamma=0.25), replace(SETTINGS, steps=2), tmp_path / "run")
    opened = open_model(tmp_path / "run" / "model.safetensors")
    assert (opened.model.name, opened.model.interpolant.name) == ("tiny+mixflow", "linear")
    assert all(torch.equal(a, b) for a, b in zip(trained.net.parameters(), opened.model.net.parameters(), strict=True))
    stored = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert stored.metadata["provenance"]["remedy"]["gamma"] == 0.25


def test_another_remedy_on_the_same_folder_is_refused(tmp_path):
    config = replace(SETTINGS, steps=2)
    post_train(tiny(), images(), MixFlow(gamma=0.5), config, tmp_path / "run")
    with pytest.raises(ConfigMismatchError, match=r"remedy\.gamma: 0\.5 -> 0\.6"):
        post_train(tiny(), images(), MixFlow(gamma=0.6), config, tmp_path / "run")


def test_heldout_images_are_never_trained_on(tmp_path):
    seen, data = [], images()

    class Seen(Plain):
        def pair(self, noise, clean, generator=None, cond=None):
            seen.append(clean)
            return super().pair(noise, clean, generator, cond)

    kept, held = data.split(0.4)
    train(tiny(), kept, Seen(), SETTINGS, tmp_path / "state", heldout=held)
    rows = {tuple(row.tolist()) for row in torch.cat(seen).flatten(1)}
    assert rows == {tuple(row.tolist()) for row in kept.data.flatten(1)}
    assert rows.isdisjoint({tuple(row.tolist()) for row in held.data.flatten(1)})


def test_tied_weights_can_be_trained_and_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = self.first

        def forward(self, state, label, cond):
            return self.second(self.first(state.flatten(1))).view_as(state)

    model = FlowModel.from_callable(Tied(), shape=(1, 4, 4), classes=3)
    trained = post_train(model, images(), Plain(), replace(SETTINGS, steps=2), tmp_path / "run")
    assert torch.equal(trained.net.first.weight, trained.net.second.weight)


def test_buffers_resume_too(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, state, label, cond):
            return self.norm(state)

    data, ends = images(), []
    for cut in (False, True):
        file = tmp_path / f"state{cut}"
        if cut:
            with pytest.raises(Stop):
                train(wrapped(Normed()), data, Plain(), SETTINGS, file, progress=stop_at(10))
        ends.append(train(wrapped(Normed()), data, Plain(), SETTINGS, file).net.state_dict())
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def wrapped(net):
    return FlowModel.from_callable(net, shape=(1, 4, 4), classes=3)


def test_make_remedy_checks_what_it_is_given():
    assert make_remedy("mixflow", 0.3, "t") == MixFlow(gamma=0.3, target_at="t")
    assert make_remedy("plain", time_law="beta21") == Plain(time_law="beta21")
    with pytest.raises(InputError, match="needs a gamma"):
        make_remedy("mixflow")
    with pytest.raises(InputError, match="did you mean 'mixflow'"):
        make_remedy("mixflo", 0.3)


def test_a_gamma_for_a_remedy_that_has_none_is_refused():
    with pytest.raises(InputError, match="gamma"):
        make_remedy("plain", 0.3)


# --- recipes


def write_recipe(folder, text=None, **replacements):
    data = images()
    np.savez(folder / "blobs.npz", data=data.data.numpy(), labels=data.labels.numpy())
    text = text or RECIPE
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text.replace("DATA", str(folder / "blobs.npz")))
    return folder / "recipe.toml"


RECIPE = """
name = "tiny"
interpolant = "gvp"

[model]
input_size = 4
patch = 2
channels = 1
hidden = 8
depth = 1
heads = 2
classes = 3

[data]
name = "DATA"

[train]
steps = 4
batch_size = 8
lr = 1
"""


def test_a_recipe_is_trained_into_a_checkpoint_that_opens(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    assert (recipe.name, recipe.interpolant, recipe.prediction) == ("tiny", "gvp", "velocity")
    assert recipe.model == SHAPE
    assert (recipe.train.lr, recipe.data.heldout) == (1.0, 0.2)
    weights = pretrain(recipe, tmp_path / "run")
    opened = open_model(weights)
    assert (opened.model.name, opened.model.interpolant.name) == ("tiny", "gvp")
    manifest = read_manifest(tmp_path / "run", "pretrain")
    assert manifest["result"]["steps"] == 4
    assert manifest["result"]["data"]["n"] == 24
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [step for step, _ in history["loss"]] == [1, 2, 3, 4]


def test_pretraining_twice_gives_the_same_bytes_and_a_cut_one_too(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    recipe = replace(recipe, train=replace(recipe.train, save_every=2))
    first = pretrain(recipe, tmp_path / "a").read_bytes()
    with pytest.raises(Stop):
        pretrain(recipe, tmp_path / "b", progress=stop_at(3))
    assert pretrain(recipe, tmp_path / "b").read_bytes() == first
    assert pretrain(recipe, tmp_path / "b", progress=stop_at(1)).read_bytes() == first


def test_initial_weights_are_a_function_of_the_seed(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    torch.manual_seed(5)
    first = snapshot(fresh_model(recipe).net)
    torch.manual_seed(6)
    again = snapshot(fresh_model(recipe).net)
    other = snapshot(fresh_model(replace(recipe, train=replace(recipe.train, seed=1))).net)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


MISTAKES = [
    ({"batch_size = 8": "bach_size = 8"}, "unknown setting 'bach_size' in .*did you mean 'batch_size'"),
    ({"hidden = 8": "hiden = 8"}, r"unknown setting 'hiden' in \[model\] of .*did you mean 'hidden'"),
    ({"[train]": "[trian]"}, r"lacks the section \[train\]"),
    ({'[data]\nname = "DATA"': 'data = "DATA"'}, r"lacks the section \[(data|train)\]"),
    ({"steps = 4": 'steps = "4"'}, "'steps' in .* is '4', expected int"),
    ({"steps = 4": "steps = 4.0"}, "'steps' in .* is 4.0, expected int"),
    ({"steps = 4": "steps = true"}, "'steps' in .* is True, expected int"),
    ({"lr = 1": "lr = nan"}, "'lr' in .* is nan, expected a finite number"),
    ({"heads = 2\n": ""}, r"\[model\] of .* lacks the setting 'heads'"),
    ({"steps = 4": "steps = 0"}, "steps is 0"),
    ({'name = "tiny"': 'nmae = "tiny"'}, "unknown setting 'nmae'"),
    ({"[model]": "[model"}, "is not a TOML file"),
    ({'interpolant = "gvp"': 'interpolant = "gpv"'}, "did you mean 'gvp'"),
    ({"heads = 2": "heads = 3"}, "heads"),
    ({"hidden = 8": "hidden = 6"}, "hidden"),
    ({"patch = 2": "patch = 3"}, "patch"),
    ({"patch = 2": "patch = 0"}, "patch"),
    ({"depth = 1": "depth = -1"}, "depth"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=lambda value: str(value)[:50])
def test_mistakes_in_a_recipe_are_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        fresh_model(read_recipe(write_recipe(tmp_path, **change)))


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match="no such config file"):
        read_recipe(tmp_path / "gone.toml")


def test_data_with_too_many_classes_is_refused(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path, **{"classes = 3": "classes = 2"}))
    with pytest.raises(DataError, match="the model has 2 classes"):
        pretrain(recipe, tmp_path / "run")


def test_a_recipe_that_fails_at_once_can_be_corrected_and_repeated(tmp_path):
    wrong = read_recipe(write_recipe(tmp_path, **{"classes = 3": "classes = 2"}))
    with pytest.raises(DataError):
        pretrain(wrong, tmp_path / "run")
    right = read_recipe(write_recipe(tmp_path))
    assert pretrain(right, tmp_path / "run").exists()


def test_betas_are_read_from_a_list():
    assert from_mapping(TrainConfig, {"steps": 1, "betas": [0.5, 0.6]}, "here").betas == (0.5, 0.6)


def test_model_copies_do_not_share_weights():
    model = tiny()
    other = model.with_net(copy.deepcopy(model.net))
    with torch.no_grad():
        other.net.final_layer.linear.bias.fill_(5.0)
    assert float(model.net.final_layer.linear.bias.detach().abs().max()) == 0.0


# --- less memory


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_micro_batches_have_the_gradient_of_the_whole_batch(size, tmp_path):
    states = []
    for name, micro in (("whole", 0), ("parts", size)):
        config = replace(SETTINGS, batch_size=10, steps=3, micro_batch=micro)
        states.append(train(tiny(), images(), MixFlow(0.5), config, tmp_path / f"{name}{size}.safetensors"))
    for a, b in zip(states[0].parameters.values(), states[1].parameters.values(), strict=True):
        # Adam divides by the gradient's size, so the rounding of a sum taken in parts shows at this level
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert states[1].losses == pytest.approx(states[0].losses, rel=1e-5)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    model, seen = tiny(), []
    model.net.blocks[0].attn.qkv.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    config = replace(SETTINGS, batch_size=8, steps=3, mixed=True)
    state = train(model, images(), MixFlow(0.5), config, tmp_path / "state.safetensors")
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in state.parameters.values()} == {torch.float32}
    plain = train(tiny(), images(), MixFlow(0.5), replace(config, mixed=False), tmp_path / "plain.safetensors")
    assert state.losses == pytest.approx(plain.losses, rel=0.02)


def test_frozen_weights_are_not_in_the_state(tmp_path):
    model = tiny()
    for name, parameter in model.net.named_parameters():
        parameter.requires_grad_("final_layer" in name)
    config = replace(SETTINGS, steps=2, batch_size=4)
    state = train(model, images(), MixFlow(0.5), config, tmp_path / "state.safetensors")
    names = {n for n in checkpoint.load(tmp_path / "state.safetensors").tensors if n.startswith(("net/", "ema/"))}
    assert names
    assert all("final_layer" in name for name in names)
    again = train(tiny_like(model), images(), MixFlow(0.5), replace(config, steps=4), tmp_path / "state.safetensors")
    assert again.step == 4
    assert again.losses[:2] == state.losses


def tiny_like(model):
    """A fresh tiny model of which the same parameters are trained."""
    fresh = tiny()
    wanted = {name: p.requires_grad for name, p in model.net.named_parameters()}
    for name, parameter in fresh.net.named_parameters():
        parameter.requires_grad_(wanted[name])
    return fresh


def test_frozen_weights_are_held_once():
    net = tiny().net
    net.blocks[0].attn.qkv.weight.requires_grad_(False)
    state = TrainState(net, ema_decay=0.9, betas=(0.9, 0.999), weight_decay=0.0)
    held = dict(state.ema_net.named_parameters())
    for name, parameter in net.named_parameters():
        assert (held[name] is parameter) == (not parameter.requires_grad)
