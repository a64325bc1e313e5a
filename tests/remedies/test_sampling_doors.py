"""Sampling remedies from outside: fitted to a measurement, sampled, measured and evaluated, recorded, refused."""

import json

import numpy as np
import pytest
from slowflow_cli.main import app
from typer.testing import CliRunner

import slowflow
from slowflow import api
from slowflow.errors import InputError
from slowflow.fitting import findings
from slowflow.io.run import read_json
from slowflow.remedies.sampling import SAMPLING_REMEDIES, fitted
from slowflow.remedies.sampling.dcw import DCW
from slowflow.remedies.sampling.epsilon_scaling import EpsilonScaling
from slowflow.remedies.sampling.heun_equal_calls import HeunEqualCalls
from slowflow.remedies.sampling.label_correction import LabelCorrection
from slowflow.results import RunResult

PROBE = slowflow.Probe(
    samples=60, steps=8, references=("level", "clocks"), measures=("norms",), nulls=("genuine", "exact")
)


@pytest.fixture(scope="module")
def slow(tmp_path_factory, tiny_model, images):
    """A measurement of a model 10 % too slow."""
    return slowflow.measure(tiny_model(0.9), images, PROBE, out=tmp_path_factory.mktemp("doors") / "slow", heldout=0.5)


def test_a_measurement_tells_everything_that_remedies_are_fitted_to(slow, tiny_model, images):
    found = findings(slow, tiny_model(0.9), images)
    assert found.grid.tolist() == np.linspace(0, 1, 9).tolist()
    assert set(found.lags) == {"level", "signal clock", "noise clock"}
    assert all(set(rows) == {"genuine", "exact"} for rows in found.excess.values())
    assert len(found.pixel_variance) == 10
    held = images.data.flatten(1).double().numpy()[::10]
    # the bank is half of the class, so its mean variance is that of the class up to its scatter
    assert found.pixel_variance[0] == pytest.approx(held.var(axis=1, ddof=1).mean(), rel=0.2)
    curve = found.lags["level"]
    assert curve.values.shape == (501, 8)
    np.testing.assert_allclose(curve.values[0] - curve.t, slow_excess(slow), atol=0.02)
    table = slow.measure("norms")
    np.testing.assert_allclose(found.noise_norm.values[0], table["lambda"], rtol=1e-12)


def slow_excess(slow):
    return slow.summary("level")["excess_exact"].to_numpy()


@pytest.mark.parametrize("name", SAMPLING_REMEDIES.names())
def test_every_remedy_fits_a_real_measurement_or_says_why_not(slow, tiny_model, images, name):
    try:
        fit = slowflow.fit_remedy(name, slow, model=tiny_model(0.9), data=images)
    except InputError as error:
        assert any(said in str(error) for said in ("does not mend", "no noise scale"))  # noqa: PT017
        return
    assert fit.remedy.active is fit.called_for
    json.dumps(fit.remedy.record())


def test_a_slow_model_s_noise_is_late_and_its_norms_say_so(slow, tiny_model, images):
    fit = fitted("epsilon-scaling", findings(slow, tiny_model(0.9), images))
    assert fit.called_for
    # velocity x 0.9 leaves noise behind, so the network sees more of it than in genuine states
    assert fit.estimates["constant"].value < 1.0


def test_the_measurement_of_another_model_or_data_is_refused(slow, tiny_model, images, tmp_path):
    with pytest.raises(InputError, match="is a measurement of 'tiny', not of 'tiny' as it is here"):
        findings(slow, tiny_model(1.0, classes=9), images)
    with pytest.raises(InputError, match="not the data that"):
        findings(slow, tiny_model(0.9), images.take(np.arange(200), "fewer"))
    with pytest.raises(InputError, match=r"was measured at \[8\] steps, not at 5"):
        findings(slow, tiny_model(0.9), images, steps=5)


def test_a_remedied_measurement_is_recorded_compared_and_not_fitted_to(slow, tiny_model, images, tmp_path):
    remedy = DCW(0.01)
    after = slowflow.measure(tiny_model(0.9), images, PROBE, out=tmp_path / "dcw", heldout=0.5, remedy=remedy)
    assert after.protocol()["remedy"] == remedy.record()
    assert slow.protocol()["remedy"] is None
    assert after.facts["nfe"] == slow.facts["nfe"]
    with pytest.raises(InputError, match="the measurements differ in remedy"):
        slowflow.compare(slow, after)
    with pytest.raises(InputError, match="was sampled with the remedy 'dcw'"):
        findings(after, tiny_model(0.9), images)
    with pytest.raises(InputError, match="hides the model's own causes"):
        after.diagnose(tiny_model(0.9), images)
    # only the model's states are remedied; nulls that know nothing of the model stay what they were
    assert not np.array_equal(after.array("norm"), slow.array("norm"))
    for kind in ("genuine", "exact"):
        assert np.array_equal(after.array("norm", kind), slow.array("norm", kind))


def test_a_remedy_at_strength_zero_measures_the_same(slow, tiny_model, images, tmp_path):
    same = slowflow.measure(tiny_model(0.9), images, PROBE, out=tmp_path / "zero", heldout=0.5, remedy=EpsilonScaling())
    for kind in ("model", "genuine", "exact"):
        for what in ("m", "residual"):
            assert np.array_equal(same.array(what, kind, reference="level"), slow.array(what, kind, reference="level"))


def test_heun_at_equal_calls_is_measured_on_its_own_grid(tiny_model, images, tmp_path):
    found = slowflow.measure(
        tiny_model(0.9), images, PROBE, out=tmp_path / "heun", heldout=0.5, remedy="heun-equal-calls"
    )
    assert found.facts["nfe"] == {"8": 8}
    assert found.array("t").tolist() == [0.25, 0.5, 0.75, 1.0]


def test_noise_of_a_churned_run_rules_out_references_that_need_it(tiny_model, images, tmp_path):
    probe = slowflow.Probe(samples=20, steps=4, references="nearest")
    churn = slowflow.sampling_remedy("churn", amount=1.0)
    with pytest.raises(InputError, match="which the remedy replaces on the way"):
        slowflow.measure(tiny_model(), images, probe, out=tmp_path / "churn", heldout=0.5, remedy=churn)
    assert not (tmp_path / "churn").exists()


def test_evaluations_under_another_remedy_are_not_compared(tiny_model, images, tmp_path):
    arms = [
        slowflow.evaluate(
            tiny_model(0.9), images, features="pixels", samples=40, steps=(4,), out=tmp_path / name, remedy=remedy
        )
        for name, remedy in (("plain", None), ("labels", LabelCorrection((0.5,), (0.45,))))
    ]
    assert arms[1].protocol(4)["remedy"]["name"] == "label-correction"
    with pytest.raises(InputError, match="differ in remedy"):
        arms[0].difference(arms[1], "fd", 4)


def test_one_page_refuses_unlike_evaluations_and_names_how_states_were_sampled(slow, tiny_model, images, tmp_path):
    settings = {"features": "pixels", "samples": 40, "steps": (4,)}
    paths = [
        slowflow.evaluate(tiny_model(0.9), images, out=tmp_path / name, **settings, **more).path
        for name, more in (
            ("plain", {}),
            ("heun", {"sampler": "heun"}),
            ("labels", {"remedy": LabelCorrection((0.5,), (0.45,))}),
        )
    ]
    for other, field in ((paths[1], "sampler"), (paths[2], "remedy")):
        with pytest.raises(InputError, match=f"differ in {field}"):
            RunResult.load(paths[0], other)
        with pytest.raises(InputError, match=f"differ in {field}"):
            slowflow.report([paths[0], other], out=tmp_path / "page.html")
    after = slowflow.measure(tiny_model(0.9), images, PROBE, out=tmp_path / "dcw", heldout=0.5, remedy=DCW(0.01))
    titles = [arm.title for arm in RunResult.load(slow.path, after.path).arms]
    assert titles == [slow.path.name, "dcw, sampled with dcw"]


def test_the_lag_before_and_after_is_compared_by_sample(slow, tiny_model, images, tmp_path):
    after = slowflow.measure(tiny_model(1.0), images, PROBE, out=tmp_path / "after", heldout=0.5)
    found = slowflow.compare(slow, after)
    rows = found.differences.set_index("metric")
    # both stand over the same genuine states, so the change of the excess is the difference of the two; the excess by
    # `level` is calibrated on genuine states first, which the change is not: a few hundredths of it
    for name, estimate, off in (("noise clock", "noise_genuine", 1e-6), ("level", "excess_genuine", 0.05)):
        row = rows.loc[f"lag ({name})"]
        before, later = (one.suggest().estimates[estimate] for one in (slow, after))
        assert row["value"] == pytest.approx(later.value - before.value, rel=off, abs=1e-6)
        # pairing by sample takes away what both models' states share
        assert row["high"] - row["low"] < np.hypot(before.high - before.low, later.high - later.low)
    assert rows.loc["lag (level)", "high"] < 0.0  # velocity x 0.9 runs slow, the exact field does not
    assert {"excess_genuine", "noise_genuine"} <= set(found.table["metric"])


def test_samples_record_their_remedy_and_are_not_overwritten(tiny_model, tmp_path):
    model, file = tiny_model(), tmp_path / "samples.npz"
    slowflow.sample(model, 4, steps=3, out=file, remedy=DCW(0.02))
    assert read_json(tmp_path / "samples.npz.json")["remedy"] == DCW(0.02).record()
    with pytest.raises(InputError, match="made by another command"):
        slowflow.sample(model, 4, steps=3, out=file)
    plain = slowflow.sample(model, 4, steps=3, out=tmp_path / "plain.npz")
    assert not np.array_equal(np.load(file)["arr_0"], np.load(plain)["arr_0"])


def test_a_training_remedy_is_not_a_sampling_remedy():
    # past the check of the annotations, which is on in tests only
    told = getattr(api._correction, "__wrapped__", api._correction)
    with pytest.raises(InputError, match="MixFlow is a training remedy"):
        told(slowflow.MixFlow(0.4))


def test_equal_calls_that_cannot_be_kept_are_refused(tiny_model, tmp_path):
    from dataclasses import replace

    from slowflow.flow.count import network_calls
    from slowflow.flow.interpolants import interpolant

    vp = replace(tiny_model(), interpolant=interpolant("vp"))
    with pytest.raises(InputError, match="takes 7 here where sampling without it takes 8; choose other steps"):
        network_calls(vp, "euler", 8, remedy=HeunEqualCalls())
    assert network_calls(vp, "euler", 7, remedy=HeunEqualCalls()) == 7


# --- the command line


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.stderr}\n{result.stdout}"
    return result.stdout, result.stderr


def test_ls_lists_both_sorts_with_their_kind():
    rows = json.loads(run("ls", "remedies", "--json")[0])
    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds["mixflow"] == "training"
    assert kinds["epsilon-scaling"] == "sampling"
    assert "cifar10-100" in run("ls", "presets")[0]


def sampled(tmp_path, *more, code=0):
    base = ["sample", "digits-sit", "--n", "2", "--steps", "2", "--out", tmp_path / "s.npz", "--threads", "1"]
    return run(*base, *more, code=code)


def test_sample_takes_a_remedy_with_settings(tmp_path):
    out, _ = sampled(tmp_path, "--remedy", "dcw", "--set", "strength=0.01", "--set", "band=low", "--json")
    protocol = json.loads(out)["protocol"]
    expected = {"strength": 0.01, "band": "low", "weight": "falling", "scaled": False}
    assert protocol["remedy"] == {"name": "dcw", "settings": expected}


def test_sample_takes_a_preset_and_names_its_source(tmp_path):
    out, err = sampled(tmp_path, "--remedy", "epsilon-scaling", "--preset", "cifar10-20", "--json")
    assert json.loads(out)["protocol"]["remedy"]["settings"]["constant"] == 1.017
    assert "arXiv 2308.15321" in err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "strength=1"], "--set belongs to a remedy; name one with --remedy"),
        (["--fit-from", "x"], "--fit-from belongs to a remedy"),
        (["--remedy", "dcv"], "unknown sampling remedy 'dcv'; did you mean 'dcw'"),
        (["--remedy", "mixflow"], "'mixflow' is a training remedy: slowflow posttrain --remedy mixflow"),
        (["--remedy", "dcw", "--set", "strength"], "--set is 'strength', expected key=value"),
        (["--remedy", "dcw", "--set", "strenth=1"], "did you mean 'strength'"),
        (["--remedy", "dcw", "--preset", "none"], "no preset 'none' (known: cifar10-edm-euler-13)"),
        (["--remedy", "dcw", "--preset", "a", "--fit-from", "b"], "take one of them"),
        (["--remedy", "dcw", "--fit-from", "nowhere"], "no such run folder: nowhere"),
        (["--remedy", "heun-equal-calls", "--sampler", "heun"], "replaces a deterministic sampler"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, more, says):
    _, err = sampled(tmp_path, *more, code=3)
    assert says in err
    assert not (tmp_path / "s.npz").exists()


def test_a_run_of_another_model_is_refused_and_of_the_same_one_fitted(tmp_path):
    measure = ["measure", "digits-sit", "--data", "digits", "--samples", "20", "--steps", "4", "--threads", "1"]
    run(*measure, "--reference", "level", "--reference", "clocks", "--out", tmp_path / "m", "--quiet")
    asked = ["--remedy", "label-correction", "--fit-from", tmp_path / "m"]
    _, err = sampled(tmp_path, *asked, "--json")
    assert "note: the constants are fitted at 4 steps and used at 2 as well" in err
    assert "fitted 'label-correction'" in err
    _, err = run("sample", "mnist-sit", "--n", "1", "--steps", "1", "--out", tmp_path / "t.npz", *asked, code=3)
    assert "is a measurement of" in err


def test_samples_already_made_cannot_be_remedied(tmp_path):
    _, err = run(
        "evaluate", tmp_path / "s.npz", "--data", "digits", "--features", "pixels", "--out", tmp_path / "e",
        "--remedy", "dcw", code=3,
    )  # fmt: skip
    assert "samples that are already made" in err


def test_a_sampling_remedy_given_to_training_is_sent_to_sampling(tmp_path):
    done = CliRunner().invoke(
        app,
        [
            "posttrain",
            "digits-sit",
            "--data",
            "digits",
            "--remedy",
            "dcw",
            "--steps",
            "1",
            "--out",
            str(tmp_path / "x"),
        ],
    )
    assert done.exit_code == 3
    assert "corrects sampling, not training" in done.stderr
