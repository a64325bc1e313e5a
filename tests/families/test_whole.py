"""The whole loop on a tiny briefly trained model of each family, from a file in its authors' layout to the report."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peers import easy_data, whole_loop
from tiny import KINDS, family, fresh, model_of, trained

from slowflow.data.open import open_data
from slowflow.errors import DataError, InputError
from slowflow.evaluating.engine import Sampling
from slowflow.families.base import OpenOptions
from slowflow.families.export import export
from slowflow.families.open import direction_test, open_model
from slowflow.families.rae.latents import LatentStatistics
from slowflow.families.repa.projection import projection_loss
from slowflow.io.run import verify
from slowflow.pipeline import RunConfig, run
from slowflow.records import Probe
from slowflow.remedies.plain import Plain
from slowflow.testing import check_model
from slowflow.train.loop import TrainConfig, batch_loss, step_batch
from slowflow.train.teams import Alone

SAMPLERS = {"sit": "heun", "dit": "recombine", "repa": "heun-last-euler", "rae": "euler", "rae-plain": "euler"}
SHAPE = (2, 4, 4)


@pytest.fixture(scope="module")
def data():
    return easy_data(3, SHAPE, n=90)


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for kind in SAMPLERS:
        export(model_of(kind, trained(kind, data, folder)), family(kind), folder / f"{kind}.pt")
    return folder


def opened(files, kind):
    return open_model(files / f"{kind}.pt", family(kind), OpenOptions(heads=2))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_whole_loop_on_a_tiny_model(kind, files, data, tmp_path):
    again = whole_loop(opened(files, kind).model, data, SAMPLERS[kind], tmp_path, family(kind))
    # what was trained goes back to its authors' layout, with every tensor of the file it came from
    export(again, family(kind), tmp_path / "back.pt")
    first, back = (
        open_model(path, family(kind), OpenOptions(heads=2)).model.net.state_dict()
        for path in (files / f"{kind}.pt", tmp_path / "back.pt")
    )
    assert first.keys() == back.keys()
    frozen = [name for name in first if name in ("pos_embed", "t_embedder.W") or "rope" in name]
    assert all(torch.equal(first[name], back[name]) for name in frozen)
    assert any(not torch.equal(first[name], back[name]) for name in first)


@pytest.mark.parametrize("kind", ["rae"])
def test_one_run_ends_in_a_report(kind, files, data, tmp_path):
    settings = RunConfig(
        probe=Probe(samples=9, steps=4, sampler=SAMPLERS[kind], shard=9),
        sampling=Sampling(samples=9, steps=(4,), sampler=SAMPLERS[kind]),
        features="pixels",
        train=TrainConfig(steps=2, batch_size=8, warmup=0),
    )
    run(opened(files, kind), str(files / f"{kind}.pt"), data, settings, tmp_path / "run")
    assert not verify(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    model = json.loads((tmp_path / "run" / "measure-base" / "manifest.json").read_text())["config"]["model"]
    if kind == "rae":
        assert model["conventions"]["shift"] == pytest.approx((32 / 4096) ** 0.5)
        assert model["conventions"]["t_max"] < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_a_model(kind):
    check_model(model_of(kind))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_flipped_convention_is_caught(kind, files, data):
    model = opened(files, kind).model
    assert direction_test(model, data).problem is None
    told = model.label
    flipped = replace(model, label=lambda t: told(1.0 - t), sign=-model.sign)
    assert "declared wrongly" in direction_test(flipped, data).problem


def test_a_dit_opened_as_sit_is_caught(files, data):
    # the files hold the same names; only data tell them apart
    model = open_model(files / "dit.pt", "sit", OpenOptions(heads=2)).model
    assert direction_test(model, data).problem is not None


@pytest.mark.parametrize("kind", ["sit-sigma", "dit"])
def test_training_leaves_the_unused_half_of_the_head_alone(kind, data, tmp_path):
    before, after = fresh(kind), trained(kind, data, tmp_path, steps=3)
    rows = torch.arange(before.final_layer.linear.out_features).view(-1, 4)[:, 2:].flatten()
    assert torch.equal(before.final_layer.linear.bias[rows], after.final_layer.linear.bias[rows])
    kept = torch.arange(before.final_layer.linear.out_features).view(-1, 4)[:, :2].flatten()
    assert not torch.equal(before.final_layer.linear.bias[kept], after.final_layer.linear.bias[kept])


# --- latents of RAE


def test_latent_statistics_go_there_and_back(tmp_path):
    draw = torch.Generator().manual_seed(0)
    mean, var = torch.randn(3, 4, 4, generator=draw), torch.rand(3, 4, 4, generator=draw)
    torch.save({"mean": mean, "var": var}, tmp_path / "stat.pt")
    statistics = LatentStatistics.load(tmp_path / "stat.pt")
    h = torch.randn(5, 3, 4, 4, generator=draw, dtype=torch.float64)
    z = statistics.normalise(h)
    expected = (h[2, 1, 3, 0] - mean[1, 3, 0]) / (float(var[1, 3, 0]) + 1e-5) ** 0.5
    assert float(z[2, 1, 3, 0]) == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(statistics.denormalise(z), h, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": torch.zeros(3, 4, 4)}, "expected 'mean' and 'var'"),
        ({"mean": torch.zeros(3, 4, 4), "var": torch.zeros(3, 4)}, "one shape"),
        ({"mean": torch.zeros(3), "var": torch.zeros(3)}, "one shape"),
        ({"mean": torch.zeros(3, 4, 4), "var": -torch.ones(3, 4, 4)}, "negative"),
    ],
)
def test_wrong_statistics_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "stat.pt")
    with pytest.raises(Exception, match=message) as caught:
        LatentStatistics.load(tmp_path / "stat.pt")
    assert caught.value.exit_code == 3


# --- REPA's second loss


def featured(data, width=12):
    draw = torch.Generator().manual_seed(5)
    return replace(data, features=torch.randn(len(data), 4, width, generator=draw))


def test_features_of_the_data_train_the_projector(data):
    model, config = model_of("repa"), TrainConfig(steps=1, batch_size=8, label_dropout=0.0)
    remedy = Plain().bound(model)
    without, batch = (step_batch(model, remedy, d, config, 0) for d in (data, featured(data)))
    assert without.features is None
    assert torch.equal(without.state, batch.state)
    _, (_, projected) = model.answer(batch.state, batch.t, batch.cond)
    extra = 0.5 * projection_loss(projected, [batch.features])
    torch.testing.assert_close(batch_loss(model, batch), batch_loss(model, without) + extra)
    pieces = [batch_loss(model, batch.at(rows)) for rows, _ in Alone().cuts(len(batch.state), 4)]
    torch.testing.assert_close(sum(pieces) / 2, batch_loss(model, batch))
    batch_loss(model, batch).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.net.projectors.parameters())
    other = model_of("sit")
    assert step_batch(other, Plain().bound(other), featured(data), config, 0).features is None


def test_features_come_from_a_file_and_stay_with_their_rows(data, tmp_path):
    whole = featured(data)
    np.savez(tmp_path / "d.npz", data=whole.data, labels=whole.labels, features=whole.features)
    found = open_data(tmp_path / "d.npz")
    assert torch.equal(found.features, whole.features)
    assert found.fingerprint != replace(found, features=None).fingerprint
    train, held = found.split()
    rows = [int((found.data == item).flatten(1).all(dim=1).nonzero()[0]) for item in held.data]
    assert torch.equal(held.features, found.features[rows])
    assert len(train.features) == len(train)
    np.savez(tmp_path / "bad.npz", data=whole.data, labels=whole.labels, features=whole.features[:3])
    with pytest.raises(DataError, match=r"'features' in .* expected floats \(90, tokens, width\)"):
        open_data(tmp_path / "bad.npz")


def test_features_of_another_width_are_refused(data):
    model, config = model_of("repa"), TrainConfig(steps=1, batch_size=8)
    batch = step_batch(model, Plain().bound(model), featured(data, width=5), config, 0)
    with pytest.raises(InputError, match="must be equal"):
        batch_loss(model, batch)


@pytest.mark.parametrize("kind", ["rae", "rae-plain"])
def test_tables_of_rae_stay_in_float32_in_a_half_network(kind):
    whole, half = fresh(kind), fresh(kind).to(torch.bfloat16)
    for name, tensor in half.state_dict().items():
        table = name == "t_embedder.W" or "rope" in name
        assert tensor.dtype == (torch.float32 if table else torch.bfloat16)
        if table:
            assert torch.equal(tensor, whole.state_dict()[name])
    model = model_of(kind, half)
    assert model.dtype == torch.bfloat16
    state, t = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(0.377)
    out = model.velocity(state, t, torch.tensor([0, 1]))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, model_of(kind, whole).velocity(state, t, torch.tensor([0, 1])), rtol=0.1, atol=0.1)
    doubled = fresh(kind).double()
    assert {tensor.dtype for tensor in doubled.state_dict().values()} == {torch.float64}
