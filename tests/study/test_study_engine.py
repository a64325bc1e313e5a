"""Studies end to end on a tiny model: equal after any stop, honest about failures, one protocol for all."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from slowflow.comparison import compare
from slowflow.data.sets import SETS
from slowflow.errors import ConfigMismatchError, InputError
from slowflow.families.open import identity, open_model
from slowflow.io import atomic, checkpoint
from slowflow.measuring.measurement import Measurement
from slowflow.remedies import REMEDIES
from slowflow.remedies.mixflow import MixFlow
from slowflow.remedies.plain import Plain
from slowflow.reporting.study_regret import regrets, told
from slowflow.study import cell as cells
from slowflow.study import engine, making
from slowflow.study.config import read_study
from slowflow.study.engine import planned, run_study, summary
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.pooled import common_length, differences, lags_over_seeds
from slowflow.train.loop import TrainConfig
from slowflow.train.post import post_train, snapshot_file

STUDY = """
name = "tiny"
data = "waves8"
features = "pixels"
lengths = [3, 6]
seeds = [0, 1]
[base.model]
input_size = 8
patch = 4
channels = 1
hidden = 8
depth = 1
heads = 2
classes = 10
[base.train]
steps = 60
batch_size = 32
lr = 2e-2
lr_final = 1e-3
warmup = 5
ema_decay = 0.8
[train]
batch_size = 8
lr = 1e-3
warmup = 2
ema_ramp = 9
save_every = 2
[sampling]
samples = 20
steps = [2, 4]
[measure]
samples = 12
steps = 4
references = ["level", "clocks"]
[[arms]]
name = "mixflow"
train = { remedy = "mixflow" }
sweep = { gamma = [0.0, 0.5] }
[[arms]]
name = "heun"
sample = { sampler = "heun" }
"""


class Stop(BaseException):
    """What kills a study; nothing may catch it."""


@pytest.fixture(autouse=True, scope="module")
def _tiny_data(images):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    SETS.register("waves8", summary="tests", source="tests")(lambda: images)
    yield
    SETS._entries.pop("waves8")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quick():
    """Eight resamples say as much about the engine as five hundred."""
    from slowflow.evaluating import evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 8)
        yield


def written(tmp_path, text=STUDY):
    file = tmp_path / "study.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return read_study(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quick):
    folder = tmp_path_factory.mktemp("whole")
    return run_study(written(folder), folder / "out")


def kept(folder):
    """Every file of a finished study, as bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_study_says_what_every_arm_came_to(whole):
    rows = whole.rows
    assert list(dict.fromkeys(rows["arm"])) == ["base", "mixflow-0", "mixflow-0.5", "heun"]
    assert set(rows["seed"]) == {0, 1}
    assert set(rows[rows["arm"] == "base"]["length"]) == {0}
    assert set(rows[rows["arm"] == "mixflow-0.5"]["length"]) == {3, 6}
    assert set(rows["metric"]) == {"fd", "density", "coverage"}
    assert (rows["low"] <= rows["high"]).all()
    changed = whole.lags[(whole.lags["kind"] == "change") & (whole.lags["arm"] == "mixflow-0.5")]
    assert set(changed["reading"]) == {"level", "signal clock", "noise clock"}
    assert set(changed["length"]) == {6}


def test_every_arm_costs_the_same_network_calls(whole):
    calls = whole.rows.groupby(["arm", "budget"])["nfe"].agg(["min", "max"])
    assert (calls["min"] == calls["max"]).all()
    assert (calls["max"] <= calls.index.get_level_values("budget")).all()
    heun = whole.rows[whole.rows["arm"] == "heun"]
    assert set(zip(heun["budget"], heun["steps"], heun["nfe"], strict=True)) == {(2, 1, 2), (4, 2, 4)}
    trained = [cell["train"] for cell in whole.cells if cell["train"]]
    assert {(one["steps"], one["network_calls"]["trained"]) for one in trained} == {(6, 48)}


def test_only_small_files_are_left(whole):
    for folder in (whole.path / "arms").iterdir():
        assert {p.name for p in folder.iterdir()} == {"config.json", "manifest.json", "draws.npz"}


def test_a_finished_study_returns_at_once_and_another_protocol_is_refused_by_field(whole, tmp_path):
    before = kept(whole.path)
    run_study(written(tmp_path), whole.path, progress=lambda *_: pytest.fail("nothing is left to do"))
    assert kept(whole.path) == before
    with pytest.raises(ConfigMismatchError, match=r"train\.lr"):
        run_study(written(tmp_path, STUDY.replace("lr = 1e-3\nwarmup = 2", "lr = 2e-3\nwarmup = 2")), whole.path)


def test_arms_may_be_added_and_only_they_are_run(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole.path, out)
    more = STUDY + '[[arms]]\nname = "plain"\ntrain = { remedy = "plain" }\n'
    notes = []
    found = run_study(written(tmp_path, more), out, progress=lambda *a: notes.append(a[3]))
    assert "plain" in found.arms
    assert all("plain" in note for note in notes)
    old = {name: data for name, data in kept(whole.path).items() if name.startswith("arms/")}
    assert old.items() <= kept(out).items()


@pytest.mark.parametrize("at", [9, 17, 30])
def test_a_study_that_was_killed_ends_in_the_same_bytes(whole, tmp_path, at, monkeypatch):
    """The process dies after the n-th durable write: in the base, in training, in looks, in clearing away."""
    text = STUDY.replace("seeds = [0, 1]", "seeds = [1]").replace("[0.0, 0.5]", "[0.5]")
    count = [0]

    def dies(path):
        count[0] += 1
        if count[0] == at:
            raise Stop

    monkeypatch.setattr(atomic, "after_durable", dies)
    with pytest.raises(Stop):
        run_study(written(tmp_path, text), tmp_path / "out")
    monkeypatch.setattr(atomic, "after_durable", None)
    found = run_study(written(tmp_path, text), tmp_path / "out")
    ours, theirs = kept(found.path), kept(whole.path)
    cell = "arms/mixflow-0.5-seed1"
    assert ours[f"{cell}/draws.npz"] == theirs[f"{cell}/draws.npz"]
    one, other = (next(c for c in r.cells if c["arm"] == "mixflow-0.5" and c["seed"] == 1) for r in (found, whole))
    assert one == other


def test_a_length_is_the_same_run_stopped_there(whole, tmp_path):
    model, images = open_model(whole.path / "base").model, SETS.get("waves8")()
    settings = {
        "batch_size": 8,
        "lr": 1e-3,
        "lr_final": 1e-3,
        "warmup": 2,
        "ema_ramp": 9.0,
        "valid_every": 0,
        "seed": 1,
    }
    long = TrainConfig(steps=6, **settings)
    post_train(model, images, MixFlow(gamma=0.5), long, tmp_path / "long", snapshots=(3, 6))
    post_train(model, images, MixFlow(gamma=0.5), TrainConfig(steps=3, **settings), tmp_path / "short")
    kept_at_3 = checkpoint.load(snapshot_file(tmp_path / "long", 3)).tensors
    stopped_at_3 = checkpoint.load(tmp_path / "short" / "model.safetensors").tensors
    assert all(torch.equal(kept_at_3[name], stopped_at_3[name]) for name in stopped_at_3)


def test_an_arm_that_stops_sooner_is_the_others_first_part(whole, tmp_path):
    """`until` changes neither the protocol nor the numbers at the lengths that are left, and finished cells stay so."""
    out = tmp_path / "out"
    shutil.copytree(whole.path, out)
    more = STUDY + '[[arms]]\nname = "short"\ntrain = { remedy = "mixflow", gamma = 0.5 }\nuntil = 3\n'
    notes = []
    found = run_study(written(tmp_path, more), out, progress=lambda *a: notes.append(a[3]))
    assert all("short" in note for note in notes)
    ours, theirs = (found.rows[found.rows["arm"] == arm] for arm in ("short", "mixflow-0.5"))
    assert set(ours["length"]) == {3}
    same = theirs[theirs["length"] == 3].reset_index(drop=True)
    columns = ["seed", "length", "budget", "nfe", "metric", "value", "low", "high"]
    assert ours.reset_index(drop=True)[columns].equals(same[columns])
    lags = lags_over_seeds(found).set_index("arm")["length"].to_dict()
    assert lags == {"base": 0, "mixflow-0": 6, "mixflow-0.5": 6, "short": 3}
    assert common_length(found) == 3
    assert common_length(whole) == 6
    changed = differences(found, "mixflow-0.5").query("arm == 'short'")
    assert set(changed["length"]) == {3}
    assert (changed["value"] == 0.0).all()
    # another `until` on the same cell is another arm, and is refused by field
    with pytest.raises(ConfigMismatchError, match=r"arm\.until: 3 -> None"):
        run_study(written(tmp_path, more.replace("until = 3\n", "")), out)


@dataclass(frozen=True)
class Bomb(Plain):
    """Ordinary training until its fourth step, whose target is NaN."""

    def pair(self, noise, data, generator=None, cond=None):
        got = super().pair(noise, data, generator, cond)
        # the generator of step k is a function of k, so the fourth step can be told without a counter
        return got._replace(target=got.target * float("nan")) if self.fourth(generator) else got

    @staticmethod
    def fourth(generator):
        from slowflow import rng

        return any(generator.initial_seed() == rng.torch_generator(s, "times", 4).initial_seed() for s in (0, 1))


def test_an_arm_that_diverges_is_recorded_and_the_study_goes_on(tmp_path, quick):
    REMEDIES.register("bomb", summary="tests", source="tests")(Bomb)
    try:
        arms = '[[arms]]\nname = "bomb"\ntrain = { remedy = "bomb" }\n[[arms]]\nname = "after"\ntrain = { remedy = "plain" }\n'
        text = STUDY[: STUDY.index("[[arms]]")].replace("seeds = [0, 1]", "seeds = [0]") + arms
        found = run_study(written(tmp_path, text), tmp_path / "out")
        assert found.failures[["arm", "seed", "step"]].to_numpy().tolist() == [["bomb", 0, 4]]
        assert "not" not in found.failures["message"].iloc[0].split(";")[0]
        # what was reached before the step is judged like every other arm
        assert set(found.rows[found.rows["arm"] == "bomb"]["length"]) == {3}
        assert set(found.rows[found.rows["arm"] == "after"]["length"]) == {3, 6}
        assert (tmp_path / "out" / "manifest.json").exists()
        assert summary(found)["failed"][0]["step"] == 4
    finally:
        REMEDIES._entries.pop("bomb")


def test_an_arm_that_cannot_be_made_from_the_measurement_is_recorded(tmp_path, quick, monkeypatch):
    def training(part, measured):
        if part is None or not making.wants_measurement(part):
            return None if part is None else Plain()
        assert set(measured.measures) >= {"norms"}
        raise InputError("the law is flat")

    monkeypatch.setattr(making, "training", training)
    monkeypatch.setattr(making, "check", lambda train, sample: None)
    arms = '[[arms]]\nname = "law"\ntrain = { remedy = "plain", measured = true }\n'
    text = STUDY[: STUDY.index("[[arms]]")].replace("seeds = [0, 1]", "seeds = [0]")
    found = run_study(written(tmp_path, text + arms), tmp_path / "out")
    assert found.failures[["arm", "step", "message"]].to_numpy().tolist() == [["law", 0, "the law is flat"]]
    assert found.arms == ["base"]
    without = text[: text.index("[measure]")] + arms
    with pytest.raises(InputError, match=r"needs a \[measure\]"):
        run_study(written(tmp_path, without), tmp_path / "no")


def test_only_runs_what_fits_and_the_base(tmp_path, quick):
    found = run_study(written(tmp_path), tmp_path / "out", only="heun")
    assert found.arms == ["base", "heun"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError, match="no arm fits 'x\\*'"):
        run_study(written(tmp_path), tmp_path / "out", only="x*")


def test_a_factory_of_the_users_own_is_studied_and_known_again(whole, tmp_path, quick, monkeypatch):
    (tmp_path / "studied_factory.py").write_text(
        "from slowflow.families.open import open_model\n\ndef make(path):\n    return open_model(path).model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base = whole.path / "base" / "model.safetensors"
    head = f'model = "{base}"\nfamily = "custom"\nfactory = "studied_factory:make"\n'
    text = STUDY[: STUDY.index("[base.model]")] + head + STUDY[STUDY.index("[train]") :]
    moved = []
    monkeypatch.setattr(engine, "place", lambda net, device: moved.append(device))
    opened = engine.open_features
    monkeypatch.setattr(
        engine, "open_features", lambda *asked, device: moved.append(device) or opened(*asked, device=device)
    )
    found = run_study(written(tmp_path, text), tmp_path / "out", only="heun", device="cpu")
    assert moved == [torch.device("cpu")] * 2  # the network and the features
    same = ["arm", "seed", "budget", "metric"]
    merged = found.rows.merge(whole.rows, on=same, suffixes=("", "_whole"))
    assert len(merged) == len(found.rows) == len(whole.rows[whole.rows["arm"].isin(["base", "heun"])])
    assert (merged["value"] == merged["value_whole"]).all()
    assert found.protocol["opening"] == {"factory": "studied_factory:make"}
    assert Measurement.load(found.path / "measure-base").asked()["factory"] == "studied_factory:make"
    with pytest.raises(InputError, match="belong to a 'model'"):
        written(tmp_path, STUDY.replace("[base.model]", 'interpolant = "gvp"\n[base.model]', 1))


def test_what_cannot_fit_is_refused_before_anything_is_run(tmp_path):
    with pytest.raises(InputError, match="holds out 60 images"):
        run_study(written(tmp_path, STUDY.replace("samples = 20", "samples = 100")), tmp_path / "a")
    untrained = STUDY.replace("steps = 60", "steps = 1")
    with pytest.raises(InputError, match="loss on genuine states"):
        run_study(written(tmp_path, untrained), tmp_path / "b")


def test_comparing_a_study_is_paired_and_refuses_another_protocol(whole, tmp_path):
    found = compare(whole.path, against="base")
    assert set(found.differences["against"]) == {"base"}
    row = found.differences.query("arm == 'mixflow-0.5' and length == 6 and budget == 4 and metric == 'fd'").iloc[0]
    values = whole.rows.query("budget == 4 and metric == 'fd'").set_index(["arm", "length", "seed"])["value"]
    by_hand = np.mean([values["mixflow-0.5", 6, s] - values["base", 0, s] for s in (0, 1)])
    assert row["value"] == pytest.approx(by_hand)
    assert row["seeds"] == 2
    other = run_study(
        written(tmp_path, STUDY.replace("samples = 20", "samples = 22").replace("seeds = [0, 1]", "seeds = [0]")),
        tmp_path / "out",
        only="heun",
    )
    with pytest.raises(InputError, match=r"differ in protocol\.sampling\.samples: 20 -> 22"):
        compare(whole.path, other.path)
    with pytest.raises(InputError, match="no finished arm 'mixflw'"):
        compare(whole.path, against="mixflw")
    with pytest.raises(InputError, match="studies can be compared with studies only"):
        compare(whole.path, whole.path / "measure-base")


def test_a_plan_is_made_without_opening_anything(tmp_path):
    rows = planned(written(tmp_path))
    assert [row["arm"] for row in rows[:2]] == ["base", "base"]
    trained = next(row["calls"] for row in rows if row["arm"] == "mixflow-0.5")
    assert trained == 6 * 8 * (1 + cells.BACKWARD) + 2 * 20 * 6 + 12 * 4
    assert {row["arm"] for row in planned(written(tmp_path), "mixflow-*")} == {"base", "mixflow-0", "mixflow-0.5"}
    with pytest.raises(InputError, match="no arm fits 'x\\*'"):
        planned(written(tmp_path), "x*")


def test_a_correction_that_draws_noise_is_measured_by_what_does_not_need_the_first_noise(tmp_path, quick):
    """`nearest` compares with the starting noise, which churn replaces: the arm is measured by the other references."""
    text = STUDY.replace('references = ["level", "clocks"]', 'references = ["nearest", "level"]')
    text = text.replace("seeds = [0, 1]", "seeds = [0]").replace("lengths = [3, 6]", "lengths = [3]")
    text = text[: text.index("[[arms]]")] + '[[arms]]\nname = "churn"\nsample = { remedy = "churn", amount = 0.2 }\n'
    found = run_study(written(tmp_path, text), tmp_path / "out")
    lag = next(cell["lag"] for cell in found.cells if cell["arm"] == "churn")
    assert set(lag["change"]) == {"level"}
    base = next(cell["lag"] for cell in found.cells if cell["arm"] == "base")
    assert "band" in base["estimates"]
    assert found.failures.empty


def test_a_sampler_that_an_arm_cannot_use_is_refused_before_anything_is_run(tmp_path, quick):
    text = STUDY + '[[arms]]\nname = "odd"\nsample = { remedy = "churn", amount = 0.2, sampler = "em" }\n'
    with pytest.raises(InputError, match="the arm 'odd' does not fit"):
        run_study(written(tmp_path, text), tmp_path / "out")
    assert not list((tmp_path / "out").glob("arms/*"))


def test_the_measured_base_is_opened_again(whole):
    found = Measurement.load(whole.path / "measure-base")
    asked = found.asked()
    base = open_model(asked["model"], asked["family"]).model
    assert identity(base) == found.config["model"]
    assert asked["data"] == whole.protocol["data"]


def test_the_page_says_what_suggest_tells_of_the_base_and_whether_that_is_good_enough(whole):
    fit = Measurement.load(whole.path / "measure-base").suggest()
    said = told(whole)[0]
    assert f"says '{fit.verdict}' and recommends gamma {fit.gamma:.3f} ({fit.method})" in said
    assert fit.chosen in said
    held = 0.0 <= fit.gamma <= 0.5  # the gammas of this sweep
    assert ("the sweep's noise" in said.split("Whoever asks")[0]) is held
    assert said in regrets([whole]).sentences


def test_a_folder_without_a_finished_arm_says_so(tmp_path, whole):
    (tmp_path / "s").mkdir()
    shutil.copy(whole.path / "config.json", tmp_path / "s")
    with pytest.raises(InputError, match="no arm of the study"):
        StudyResult.load(tmp_path / "s")
    with pytest.raises(InputError, match="holds no study"):
        StudyResult.load(tmp_path)
