"""Remedies from measurements: the law of m and the clocks without their null, recorded by hash, refused when they differ."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from torch import nn
from typer.testing import CliRunner

import slowflow
from slowflow.data.images import ImageSet
from slowflow.errors import ConfigMismatchError, InputError
from slowflow.flow.model import FlowModel
from slowflow.io.run import read_manifest
from slowflow.measuring.engine import measure
from slowflow.measuring.gamma import subject_of
from slowflow.measuring.slack import everyone
from slowflow.measuring.straight import straightened
from slowflow.measuring.training_law import LEVELS, clocks, handed, law, line, quantiles, without_null
from slowflow.records import Probe
from slowflow.remedies import REMEDIES, make
from slowflow.train.loop import TrainConfig
from slowflow.train.post import ARRAYS, post_train

PROBE = Probe(samples=120, steps=(20,), references=("level", "clocks"), nulls=("genuine",), shard=120)
T = np.array([0.25, 0.5, 0.75, 1.0])
TRAIN = TrainConfig(steps=4, batch_size=8, lr=1e-2, lr_final=1e-2, warmup=0, valid_every=0)
ROWS = {"t": (0.5, 1.0), "u": (0.0, 1.0), "m": ((0.3, 0.8), (0.5, 1.0))}


@pytest.fixture(scope="module")
def slow(tmp_path_factory, tiny_model, images):
    return measure(tiny_model(0.9), images, PROBE, tmp_path_factory.mktemp("law") / "slow", heldout=0.5)


# --- from measurements to settings


def test_a_planted_law_is_found_without_its_null():
    draw = np.random.default_rng(0)
    n, gamma, error = 40_000, 0.5, 0.1
    slack = gamma * T * draw.uniform(size=(n, 1))
    null, m = (T * 0.9 + error * draw.normal(size=(n, 4)) - shift for shift in (0.0, slack))
    found = without_null(m, null, T)
    # five standard errors of the difference of two means and, roughly, of two variances
    np.testing.assert_allclose(found.mean(axis=0), T * (1 - gamma / 2), rtol=0, atol=5 * 0.2 / np.sqrt(n))
    np.testing.assert_allclose(found.var(axis=0), (gamma * T) ** 2 / 12, rtol=0, atol=5 * 0.03 * np.sqrt(4 / n))
    assert (m.var(axis=0) > 1.4 * found.var(axis=0)).all()


def test_no_lag_leaves_one_m_at_each_time():
    draw = np.random.default_rng(1)
    m, null = (T + 0.1 * draw.normal(size=(50_000, 4)) for _ in range(2))
    found = without_null(m, null, T)
    np.testing.assert_allclose(found.mean(axis=0), T, rtol=0, atol=5 * 0.1 * np.sqrt(2 / 50_000))
    # variances that agree to a percent leave a tenth of the scatter at most
    assert (found.std(axis=0) < 0.1 * 0.1 * 2).all()


def test_quantiles_rise_with_level_and_time_and_stay_within_the_path():
    draw = np.random.default_rng(2)
    rows = quantiles(draw.normal(0.6, 0.4, size=(30, 50)))
    assert (np.diff(rows, axis=0) >= 0).all()
    assert (np.diff(rows, axis=1) >= 0).all()
    assert rows.min() >= 0
    assert rows.max() <= 1
    assert len(rows) == len(LEVELS)


def test_the_law_of_a_slow_model_has_the_mean_of_its_excess(slow):
    found = law(slow)
    kinds = straightened(dict(slow.slack("level")))
    excess = {k: 1 - kinds[k].mean_slack(everyone(kinds[k]))[0] for k in ("model", "genuine")}
    mean = np.array(found["t"]) * (1 + excess["model"] - excess["genuine"])
    middle = np.array(found["m"])[1:-1].mean(axis=0)
    # quantiles that are cut at 1 % and made monotone; before the end, where m is clipped
    np.testing.assert_allclose(middle[4:-1], mean[4:-1], rtol=0, atol=0.01)
    assert (middle[9:-1] < np.array(found["t"])[9:-1] - 0.005).all()
    assert subject_of(kinds) == "model"


def test_a_planted_deviation_of_a_clock_is_the_mean_of_its_line():
    measured, error = np.array([0.2, 0.45, 0.7, 0.9]), np.array([0.03, -0.02, 0.01, 0.0])
    # an error of the reading that genuine states share leaves with them
    rows = line(T, measured**2 + error, T**2 + error)
    np.testing.assert_allclose(rows[0], T, rtol=0, atol=0)
    np.testing.assert_allclose(rows.mean(axis=0), measured, rtol=0, atol=1e-12)
    raw = line(T, measured**2 + error, None)
    np.testing.assert_allclose(raw.mean(axis=0), np.sqrt(measured**2 + error), rtol=0, atol=1e-12)
    blind = line(T, np.full(4, -0.1), None)
    np.testing.assert_allclose(blind[1], 0.0, rtol=0, atol=0)


def test_the_clocks_of_a_measurement_become_lines_from_the_path(slow):
    found = clocks(slow)
    t, a, b = (np.array(found[key]) for key in "tab")
    np.testing.assert_allclose(t, np.arange(1, 21) / 20, rtol=0, atol=1e-12)
    np.testing.assert_allclose(a[0], t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(b[0], 1 - t, rtol=0, atol=1e-12)
    for rows, clock in ((a, "signal clock"), (b, "noise clock")):
        square = {kind: reading.square.mean(axis=0) for kind, reading in slow.readings()[clock].items()}
        np.testing.assert_array_equal(rows, line(rows[0], square["model"], square["genuine"]))
    # a velocity of nine tenths leaves noise behind
    assert (b[1][10:] > b[0][10:]).all()


def test_raw_leaves_the_null_in(slow):
    kinds = slow.slack("level")
    expected = quantiles(kinds["model"].m)
    np.testing.assert_allclose(law(slow, raw=True)["m"], expected, rtol=0, atol=1e-12)
    read = slow.readings()["noise clock"]["model"].square.mean(axis=0)
    rows = np.array(clocks(slow, raw=True)["b"])
    np.testing.assert_array_equal(rows, line(rows[0], read, None))


def test_what_was_not_measured_is_named(tmp_path, tiny_model, images):
    bare = measure(
        tiny_model(),
        images,
        replace(PROBE, samples=20, references=("level",), nulls=()),
        tmp_path / "bare",
        heldout=0.5,
    )
    with pytest.raises(InputError, match="holds no clocks; measure again with --reference clocks"):
        clocks(bare)
    with pytest.raises(InputError, match="without genuine states, so there is no null to take off"):
        law(bare)
    assert len(law(bare, raw=True)["m"]) == len(LEVELS)


def test_python_makes_any_remedy_from_a_measurement(slow):
    assert slowflow.remedy("mixflow", measured=slow).gamma == slow.suggest().gamma
    assert slowflow.remedy("mixflow", measured=slow.path, gamma=0.25).gamma == 0.25
    found = slowflow.remedy("empirical", measured=slow, strength=0.5)
    assert found == make("empirical", {**handed(slow, "law"), "strength": 0.5})
    assert slowflow.remedy("two-clock", measured=slow) == make("two-clock", handed(slow, "clocks"))
    assert slowflow.remedy("plain", measured=slow) == slowflow.Plain()
    with pytest.raises(InputError, match="needs t, u, m"):
        slowflow.remedy("empirical")


# --- in a run folder


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, state, t, cond):
        return self.conv(state)


def model():
    torch.manual_seed(0)
    return FlowModel.from_callable(Net(), shape=(1, 4, 4), classes=3)


def blobs():
    draw = torch.Generator().manual_seed(1)
    return ImageSet("blobs", torch.randn(30, 1, 4, 4, generator=draw), torch.arange(30) % 3, 3)


def test_measured_arrays_are_recorded_by_hash_and_kept_in_a_small_file(tmp_path):
    post_train(model(), blobs(), make("empirical", ROWS), TRAIN, tmp_path / "run")
    manifest = read_manifest(tmp_path / "run", "posttrain")
    said = manifest["config"]["remedy"]
    assert (said["remedy"], said["strength"]) == ("empirical", 1.0)
    assert said["m"].keys() == {"sha256", "file"}
    stored = json.loads((tmp_path / "run" / ARRAYS).read_text())
    assert make("empirical", stored) == make("empirical", ROWS)
    assert ARRAYS in manifest["files"]


def test_other_arrays_on_the_same_folder_are_refused(tmp_path):
    post_train(model(), blobs(), make("empirical", ROWS), TRAIN, tmp_path / "run")
    post_train(model(), blobs(), make("empirical", ROWS), TRAIN, tmp_path / "run")
    other = make("empirical", {**ROWS, "m": ((0.3, 0.8), (0.5, 0.999))})
    with pytest.raises(ConfigMismatchError, match=r"remedy\.m\.sha256"):
        post_train(model(), blobs(), other, TRAIN, tmp_path / "run")


def test_a_run_without_measured_arrays_has_no_file_of_them(tmp_path):
    post_train(model(), blobs(), make("mixflow", {"gamma": 0.5}), TRAIN, tmp_path / "run")
    assert not (tmp_path / "run" / ARRAYS).exists()


@pytest.mark.parametrize(
    ("name", "settings", "extra"),
    [
        ("plain", {}, 0),
        ("mixflow", {}, 0),
        ("self-forcing", {"rollout": 3}, 4 * 8 * 3),
        ("self-forcing", {"rollout": 3, "share": 0.25}, 4 * 2 * 3),
        ("soar", {}, 4 * 4),
        ("soar", {"guidance": 2.0}, 4 * 4 * 2),
        ("reflexflow", {"share": 0.125}, 4 * 1),
    ],
    ids=str,
)
def test_network_calls_are_recorded_so_that_arms_can_be_compared(tmp_path, name, settings, extra):
    post_train(model(), blobs(), make(name, settings), TRAIN, tmp_path / "run")
    assert read_manifest(tmp_path / "run")["result"]["network_calls"] == {"trained": 4 * 8, "extra": extra}


@pytest.mark.parametrize("name", ["self-forcing", "two-clock"])
def test_a_cut_run_of_a_remedy_that_rolls_out_or_was_measured_resumes_bit_for_bit(tmp_path, name):
    settings = {"two-clock": {"t": (0.5, 1.0), "a": ((0.4, 0.9),), "b": ((0.5, 0.1),)}}.get(name, {})

    class Stop(Exception):
        pass

    def stop(done, steps, note):
        if done == 3:
            raise Stop

    config = replace(TRAIN, save_every=2)
    post_train(model(), blobs(), make(name, settings), config, tmp_path / "whole")
    with pytest.raises(Stop):
        post_train(model(), blobs(), make(name, settings), config, tmp_path / "cut", progress=stop)
    post_train(model(), blobs(), make(name, settings), config, tmp_path / "cut")
    for file in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_python_post_trains_with_any_remedy(tmp_path):
    settings = {"steps": 2, "batch_size": 8, "valid_every": 0}
    trained = slowflow.post_train(
        model(), blobs(), remedy=slowflow.remedy("soar", share=1.0), out=tmp_path / "run", **settings
    )
    assert trained.name == "custom+soar"
    assert read_manifest(tmp_path / "run")["result"]["network_calls"] == {"trained": 16, "extra": 16}


# --- on the command line

POSTTRAIN = ["posttrain", "digits-sit", "--data", "digits", "--steps", "2", "--batch-size", "4", "--threads", "1"]


def run(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "measured"
    few = ["--samples", "20", "--steps", "4", "--reference", "level", "--reference", "clocks", "--null", "genuine"]
    run("measure", "digits-sit", "--data", "digits", "--out", out, *few, "--threads", "1", "--quiet")
    return out


@pytest.mark.parametrize("name", REMEDIES.names())
def test_posttrain_takes_every_remedy(tmp_path, measured, name):
    found = json.loads(run(*POSTTRAIN, "--remedy", name, "--run", measured, "--out", tmp_path / "o", "--json").stdout)
    assert found["remedy"] == name
    said = read_manifest(tmp_path / "o", "posttrain")["config"]["remedy"]
    assert said["remedy"] == name
    assert found["network_calls"]["trained"] == 8
    # the band of a measurement, and input perturbation's own default
    gamma = json.loads(run("suggest", measured, "--json").stdout)["gamma"]
    assert found["gamma"] == {"mixflow": gamma, "jitter": gamma, "same-marginal": gamma, "input-perturbation": 0.1}.get(
        name
    )


def test_the_raw_law_is_another_configuration(tmp_path, measured):
    words = [*POSTTRAIN, "--remedy", "empirical", "--run", measured, "--out", tmp_path / "o"]
    run(*words)
    assert "remedy.m.sha256" in run(*words, "--raw", code=3).stderr


def test_posttrain_takes_settings_by_name_and_type(tmp_path):
    words = ["--remedy", "self-forcing", "--set", "rollout=1", "--set", "share=1", "--set", "target=path"]
    run(*POSTTRAIN, *words, "--time-law", "beta21", "--out", tmp_path / "o")
    said = read_manifest(tmp_path / "o")["config"]["remedy"]
    assert (said["rollout"], said["share"], said["target"], said["time_law"]) == (1, 1.0, "path", "beta21")
    (tmp_path / "c.toml").write_text('set = ["rollout=1", "share=1", "target=path"]\ntime_law = "beta21"\n')
    run(*POSTTRAIN, "--remedy", "self-forcing", "--config", tmp_path / "c.toml", "--out", tmp_path / "o")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--remedy", "soar", "--set", "share"], "--set is 'share', expected KEY=VALUE"),
        (["--remedy", "soar", "--set", "share=2"], "share is 2.0, expected a share of the rows between 0 and 1"),
        (["--remedy", "soar", "--set", "share=many"], "'share' in the remedy 'soar' is 'many', expected float"),
        (["--remedy", "soar", "--set", "shrae=1"], "no setting 'shrae'; did you mean 'share'?"),
        (["--remedy", "soar", "--set", "prediction=noise"], "the prediction is the model's own"),
        (["--remedy", "soar", "--set", "model=1"], "no setting 'model'"),
        (["--remedy", "soar", "--gamma", "0.5"], "the remedy 'soar' has no gamma"),
        (["--remedy", "soar", "--target-at", "t"], "the remedy 'soar' has no setting 'target_at'"),
        (["--remedy", "input-perturbation", "--gamma", "1.5"], "gamma is 1.5, expected a share of the noise"),
        (["--remedy", "jitter"], "--gamma auto needs --run"),
        (["--remedy", "empirical"], "needs t, u, m, measured as `law` (--run RUN on the command line)"),
        (["--remedy", "two-clock"], "needs t, a, b, measured as `clocks`"),
    ],
    ids=str,
)
def test_posttrain_refuses_what_a_remedy_does_not_know(tmp_path, words, says):
    result = run(*POSTTRAIN, *words, "--out", tmp_path / "o", code=3)
    assert says in result.stderr
    assert not (tmp_path / "o").exists()


def test_suggest_prints_the_snippet_and_carries_it(measured):
    plain = run("suggest", measured)
    assert "slowflow.MixFlow(" not in plain.output
    assert "in your own loop: your loop runs as SlowFlow does" in plain.output
    there = run("suggest", measured, "--snippet", "--time", "reversed")
    assert "net(state, 1 - t, label) + target" in there.output
    assert "# warning: time runs the other way" in there.output
    found = json.loads(run("suggest", measured, "--time", "reversed", "--json").stdout)
    assert found["bridge"]["snippet"].splitlines()[-1] == "optimizer.step()"
    assert f"gamma={found['gamma']:.3f}" in found["bridge"]["snippet"]
    assert "expected auto, forward, reversed, index" in run("suggest", measured, "--time", "sideways", code=3).stderr
