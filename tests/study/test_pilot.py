"""The pilot: budget kept, disjoint data, resumable, and over a measurement's fit."""

from dataclasses import replace

import pytest
import torch

from slowflow.config import canonical
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling
from slowflow.evaluating.features import Features
from slowflow.families.sit import flow_model
from slowflow.families.sit.backbone import SiT, SiTConfig, initialise
from slowflow.records import Estimate, GammaFit
from slowflow.study import pilot as piloting
from slowflow.study.pilot import PilotConfig, pilot
from slowflow.train.loop import TrainConfig

SETTINGS = PilotConfig(
    budget=2_500,
    gammas=(0.0, 0.3, 0.6, 1.0),
    seeds=(0,),
    sampling=Sampling(samples=16, steps=(2,), seed=7),
    train=TrainConfig(steps=1, batch_size=8, lr=1e-3, warmup=2, ema_ramp=9.0, valid_every=0),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    from slowflow.evaluating import evaluation

    monkeypatch.setattr(evaluation, "RESAMPLES", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny():
    net = initialise(SiT(SiTConfig(8, 4, 1, hidden=8, depth=1, heads=2, classes=10)), torch.Generator().manual_seed(0))
    return flow_model(net, path="linear", prediction="velocity", name="tiny")


class Stop(Exception):
    """What cuts a pilot."""


def test_a_pilot_keeps_its_budget_and_its_data_apart_and_resumes(tmp_path, images, monkeypatch):
    seen = {"trained": set(), "judged": set()}
    train, evaluate = piloting.train, piloting.evaluate

    def spied_train(model, data, *rest, **more):
        seen["trained"] |= {bytes(row.numpy().tobytes()) for row in data.data}
        return train(model, data, *rest, **more)

    def spied_evaluate(model, data, features, sampling, out, *, heldout, **more):
        seen["judged"] |= {bytes(row.numpy().tobytes()) for row in data.split(heldout)[1].data}
        return evaluate(model, data, features, sampling, out, heldout=heldout, **more)

    monkeypatch.setattr(piloting, "train", spied_train)
    monkeypatch.setattr(piloting, "evaluate", spied_evaluate)
    model, before = tiny(), [p.detach().clone() for p in tiny().net.parameters()]
    found = pilot(model, images, Features("FD-pixels"), SETTINGS, tmp_path / "a")
    aside = {bytes(row.numpy().tobytes()) for row in images.split(0.2)[1].data}
    assert not seen["trained"] & seen["judged"]
    assert not (seen["trained"] | seen["judged"]) & aside
    assert "60 held-out images left" in found.split
    assert all(torch.equal(p, q) for p, q in zip(model.net.parameters(), before, strict=True))
    assert found.gamma in SETTINGS.gammas
    assert found.calls <= found.budget
    assert [len(rung["gammas"]) for rung in found.rungs] == [4, 2]
    assert all(rung["plain"] > 0.0 for rung in found.rungs)
    last = found.rungs[-1]
    value = last["means"][last["gammas"].index(found.gamma)] - last["plain"]
    assert found.over_plain.value == pytest.approx(value)
    assert found.over_plain.low < value < found.over_plain.high
    assert 0.0 <= found.wrong <= 1.0

    def cut(done, total, note):
        if "rung 2" in note:
            raise Stop

    with pytest.raises(Stop):
        pilot(tiny(), images, Features("FD-pixels"), SETTINGS, tmp_path / "b", progress=cut)
    again = pilot(tiny(), images, Features("FD-pixels"), SETTINGS, tmp_path / "b")
    assert canonical(again) == canonical(found)
    assert not (tmp_path / "b" / "looks").exists()


def test_a_look_after_a_rung_is_that_of_one_longer_run(tmp_path, images):
    """Extending a run is training it longer in one go."""
    features = Features("FD-pixels")
    work = piloting._Work(tiny(), images, images.split(0.25)[0], features, SETTINGS, tmp_path / "a")
    work.look(0.3, 0, 5)
    extended = work.look(0.3, 0, 12)
    straight = piloting._Work(tiny(), images, images.split(0.25)[0], features, SETTINGS, tmp_path / "b").look(
        0.3, 0, 12
    )
    assert extended == straight


def test_the_pick_replaces_the_gamma_of_a_fit_and_says_why():
    fit = GammaFit(0.5, "band", {"band": Estimate(0.5, 0.4, 0.6, 9)}, "detected", "because")
    found = piloting.Pick(
        0.3, Estimate(0.3, 0.0, 0.6, 2), 0.004, 0.01, 900, 1000, "fd", "split", [{"gammas": [0.0, 0.3], "length": 20}]
    )
    over = found.over(fit)
    assert (over.gamma, over.method, over.verdict) == (0.3, "pilot", "detected")
    assert "below 1%" in over.chosen
    assert over.estimates["pilot"].low == 0.0
    assert over.estimates["band"].value == 0.5


@pytest.mark.parametrize(
    ("metric", "over", "says"),
    [
        ("fd", Estimate(2.0, 1.0, 3.0, 2), "worse: on this evidence no correction is the better choice"),
        ("fd", Estimate(-2.0, -3.0, -1.0, 2), "-2 [-3, -1] in fd, better"),
        ("coverage", Estimate(0.2, 0.1, 0.3, 2), "+0.2 [+0.1, +0.3] in coverage, better"),
        ("coverage", Estimate(0.2, -0.1, 0.5, 2), "no significant change"),
    ],
)
def test_the_pick_is_held_against_no_correction(metric, over, says):
    fit = GammaFit(0.5, "band", {}, "detected", "because")
    rungs = [{"gammas": [0.0, 0.3], "length": 20}]
    pick = piloting.Pick(0.3, Estimate(0.3, 0.0, 0.6, 2), 0.1, 0.01, 900, 1000, metric, "split", rungs, over)
    assert says in pick.over(fit).chosen
    assert "plain training of the same 20 steps" in pick.over(fit).chosen


def test_a_pilot_without_its_control_costs_less_and_says_nothing_of_it(tmp_path, images):
    alone = replace(SETTINGS, control=False, budget=2_000)
    found = pilot(tiny(), images, Features("FD-pixels"), alone, tmp_path / "a")
    assert found.over_plain is None
    assert "plain" not in found.rungs[0]
    with pytest.raises(InputError, match="too small for 4 gammas"):
        pilot(tiny(), images, Features("FD-pixels"), replace(alone, control=True), tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gammas": (0.4, 0.1)}, "ascending"),
        ({"gammas": (0.4, 1.4)}, "gamma is 1.4"),
        ({"seeds": ()}, "at least one seed"),
        ({"metric": "fid"}, "expected one of"),
        ({"sampling": Sampling(steps=(5, 10))}, "one step count"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        PilotConfig(**{"budget": 10, **changes})


def test_a_small_budget_and_a_missing_classifier_are_refused(tmp_path, images):
    with pytest.raises(InputError, match="too small for 4 gammas"):
        pilot(tiny(), images, Features("FD-pixels"), replace(SETTINGS, budget=100), tmp_path / "a")
    with pytest.raises(InputError, match="needs a classifier"):
        pilot(tiny(), images, Features("FD-pixels"), replace(SETTINGS, metric="agreement"), tmp_path / "b")
