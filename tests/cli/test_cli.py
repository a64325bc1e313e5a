"""The command line: answers, exit codes, one clear sentence for every bad input, nothing half-written."""

import json
import re

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.cards import card
from slowflow.io import checkpoint

SMALL = ["--samples", "20", "--steps", "2", "--threads", "1"]


def slowflow(*arguments, code=0):
    """Run a verb in this process; returns (stdout, stderr)."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.stderr}\n{result.stdout}"
    return result.stdout, result.stderr


def refused(*arguments, says, code=3, leaves=None):
    """The command ends with `code` and one sentence on stderr that holds `says`; `leaves` must not exist."""
    _, err = slowflow(*arguments, code=code)
    lines = [line for line in err.strip().splitlines() if line.startswith("slowflow: ")]
    assert len(lines) == 1, err
    assert says in lines[0], lines[0]
    assert "Traceback" not in err
    if leaves is not None:
        assert not leaves.exists()


@pytest.fixture(scope="module")
def weights():
    return card("digits-sit", "model").weights()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "measured"
    slowflow("measure", "digits-sit", "--data", "digits", "--out", out, *SMALL, "--quiet")
    return out


def test_version_and_help_answer():
    assert re.match(r"slowflow \d+\.\d+", slowflow("--version")[0])
    text, _ = slowflow("--help")
    for verb in [
        "demo",
        "run",
        "doctor",
        "ls",
        "check",
        "measure",
        "suggest",
        "posttrain",
        "sample",
        "evaluate",
        "plot",
        "report",
        "pretrain",
        "study",
        "compare",
    ]:
        assert verb in text
        assert "--json" in slowflow(verb, "--help")[0]


def test_usage_errors_exit_2():
    slowflow("measure", code=2)
    slowflow("measure", "digits-sit", "--data", "digits", "--out", "x", "--steps", "many", code=2)
    slowflow("nonsense", code=2)


def test_doctor_reports_the_search_engine():
    found = json.loads(slowflow("doctor", "--json")[0])
    assert found["search"] in ("faiss", "torch")
    assert {"python", "torch", "faiss", "devices", "problems"} <= found.keys()


@pytest.mark.parametrize(
    "what", ["models", "families", "references", "remedies", "features", "figures", "data", "samplers"]
)
def test_ls_lists_names_with_summary_and_source(what):
    rows = json.loads(slowflow("ls", what, "--json")[0])
    assert rows
    assert all({"name", "summary", "source"} <= row.keys() for row in rows)


def test_ls_of_something_else_is_refused():
    refused("ls", "wishes", says="nothing is listed under 'wishes'")


def test_check_accepts_a_bundled_model():
    found = json.loads(slowflow("check", "digits-sit", "--json")[0])
    assert found["ok"]
    assert found["time_direction"]["declared"] < found["time_direction"]["flipped"]
    assert found["parameters"] == card("digits-sit", "model").content["parameters"]


def test_check_catches_a_flipped_convention(tmp_path, monkeypatch):
    module = tmp_path / "flipped.py"
    module.write_text(
        "import slowflow\n"
        "def make():\n"
        "    model = slowflow.load('digits-sit')\n"
        "    return slowflow.FlowModel.from_callable(lambda x, t, c: model.net(x, t, c), shape=(1, 8, 8), classes=10,\n"
        "                                            label=lambda t: 1 - t)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    out, _ = slowflow("check", "-", "--family", "custom", "--factory", "flipped:make", "--data", "digits", code=1)
    assert "PROBLEM" in out


def test_measure_json_has_the_promised_keys_and_only_that_on_stdout(tmp_path):
    out, err = slowflow("measure", "digits-sit", "--data", "digits", "--out", tmp_path / "m", *SMALL, "--json")
    found = json.loads(out)
    assert {"references", "gamma", "verdict", "nfe", "protocol"} <= found.keys()
    curve = found["references"]["nearest"]
    assert {"t", "m", "null", "excess", "residual", "boundary"} <= curve.keys()
    assert curve["m"][0].keys() == {"value", "low", "high", "n"}
    assert len(curve["t"]) == 2
    assert str(tmp_path / "m") in err


def test_the_same_command_returns_the_same_answer(measured):
    command = ["measure", "digits-sit", "--data", "digits", "--out", measured, *SMALL, "--json"]
    assert slowflow(*command)[0] == slowflow(*command)[0]


def test_another_configuration_on_the_same_folder_is_refused(measured):
    command = ["measure", "digits-sit", "--data", "digits", "--out", measured, "--samples", "21", "--steps", "2"]
    refused(*command, says="config.probe.samples: 20 -> 21")


def test_a_config_file_sets_defaults_and_flags_override_it(tmp_path, measured):
    file = tmp_path / "c.toml"
    file.write_text("samples = 20\nsteps = [2]\nthreads = 1\n")
    slowflow("measure", "digits-sit", "--data", "digits", "--out", measured, "--config", file)
    command = ["measure", "digits-sit", "--data", "digits", "--out", measured, "--config", file, "--samples", "21"]
    refused(*command, says="20 -> 21")
    file.write_text("sampels = 20\n")
    refused(*command, says="unknown setting 'sampels'")


def test_suggest_reads_a_measurement(measured):
    found = json.loads(slowflow("suggest", measured, "--json")[0])
    assert {"gamma", "method", "estimates", "verdict"} <= found.keys()
    assert found["estimates"]["band"].keys() == {"value", "low", "high", "n"}
    said = slowflow("suggest", measured)[0]
    assert "band: line below 95 % of states" in said
    assert "over a perfect model" in said
    assert not [key for key in found["estimates"] if "_" in key and key in said]  # people read words
    refused("suggest", measured.parent / "nothing", says="no such run folder")


def test_posttrain_writes_a_checkpoint_that_opens(tmp_path, measured):
    command = ["posttrain", "digits-sit", "--data", "digits", "--steps", "3", "--batch-size", "8", "--threads", "1"]
    out = json.loads(slowflow(*command, "--run", measured, "--out", tmp_path / "p", "--json")[0])
    assert {"checkpoint", "steps", "loss", "gamma", "remedy"} <= out.keys()
    assert out["gamma"] == json.loads(slowflow("suggest", measured, "--json")[0])["gamma"]
    assert json.loads(slowflow("check", out["checkpoint"], "--data", "digits", "--json")[0])["ok"]


def test_sample_writes_what_evaluators_read_and_evaluate_reads_it_back(tmp_path):
    file = tmp_path / "s.npz"
    command = [
        "sample",
        "digits-sit",
        "--n",
        "30",
        "--steps",
        "2",
        "--out",
        file,
        "--images",
        tmp_path / "s.png",
        "--json",
    ]
    found = json.loads(slowflow(*command)[0])
    assert {"file", "nfe", "protocol"} <= found.keys()
    with np.load(file) as stored:
        assert stored["arr_0"].shape == (30, 8, 8, 1)
        assert stored["arr_0"].dtype == np.uint8
        assert stored["labels"].tolist() == [i % 10 for i in range(30)]
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    arguments = ["--data", "digits", "--features", "fd-digits", "--json"]
    from_file = json.loads(slowflow("evaluate", file, *arguments, "--out", tmp_path / "e1")[0])
    sampled = ["--samples", "30", "--steps", "2", "--out", tmp_path / "e2"]
    from_model = json.loads(slowflow("evaluate", "digits-sit", *arguments, *sampled)[0])
    assert from_file["metrics"] == from_model["metrics"]


def test_plot_and_report_write_files(tmp_path, measured):
    for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        file = tmp_path / f"fan.{suffix}"
        slowflow("plot", measured, "--figure", "fan", "--out", file)
        assert file.read_bytes()[: len(magic)] == magic
        assert "mean" in file.with_name(file.name + ".csv").read_text()
    slowflow("report", measured, "--out", tmp_path / "r.html")
    assert "SlowFlow report" in (tmp_path / "r.html").read_text()
    refused("plot", measured, "--figure", "fann", "--out", tmp_path / "x.png", says="did you mean 'fan'?")
    refused("plot", measured, "--figure", "fan", "--out", tmp_path / "x.gif", says="not a figure format")
    refused("plot", measured, "--figure", "quality", "--out", tmp_path / "x.png", says="holds no evaluation")


def test_pretrain_runs_a_recipe(tmp_path):
    text = (
        card("digits-sit", "model")
        .recipe.read_text()
        .replace("steps = 3000", "steps = 2")
        .replace("hidden = 64", "hidden = 16")
    )
    (tmp_path / "r.toml").write_text(text)
    found = json.loads(
        slowflow("pretrain", tmp_path / "r.toml", "--out", tmp_path / "p", "--threads", "1", "--json")[0]
    )
    assert found["steps"] == 2
    (tmp_path / "r.toml").write_text(text.replace("hidden =", "hiden ="))
    refused(
        "pretrain", tmp_path / "r.toml", "--out", tmp_path / "q", says="did you mean 'hidden'?", leaves=tmp_path / "q"
    )


def measure_of(model, out, *more):
    return ["measure", model, "--data", "digits", "--out", out, *SMALL, *more]


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    refused(*measure_of("nothing.pt", tmp_path / "o"), says="no model 'nothing.pt'", leaves=tmp_path / "o")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 5000, -1])
def test_a_truncated_checkpoint_is_one_sentence(tmp_path, weights, keep):
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:keep])
    refused(*measure_of(tmp_path / "cut.safetensors", tmp_path / "o"), says="cut.safetensors", leaves=tmp_path / "o")


def test_something_that_is_no_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "a.pt").write_text("hello, this is not a checkpoint at all\n" * 10)
    refused(*measure_of(tmp_path / "a.pt", tmp_path / "o"), says="not a checkpoint", leaves=tmp_path / "o")
    torch.save({"weights": [1, 2, 3]}, tmp_path / "b.pt")
    refused(*measure_of(tmp_path / "b.pt", tmp_path / "o"), says="holds no tensors", leaves=tmp_path / "o")
    refused(*measure_of(tmp_path, tmp_path / "o"), says="is a folder", leaves=tmp_path / "o")


def test_nan_weights_are_named(tmp_path, weights):
    stored = checkpoint.load(weights)
    stored.tensors["blocks.1.attn.qkv.weight"][3, 5] = float("nan")
    checkpoint.save(tmp_path / "nan.safetensors", stored.tensors, stored.metadata)
    says = "'blocks.1.attn.qkv.weight' holds 1 NaN"
    refused(*measure_of(tmp_path / "nan.safetensors", tmp_path / "o"), says=says, leaves=tmp_path / "o")


def test_data_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", data=np.zeros((40, 1, 6, 6), np.float32), labels=np.arange(40) % 10)
    command = ["measure", "digits-sit", "--data", tmp_path / "d.npz", "--out", tmp_path / "o", *SMALL]
    refused(*command, says="(1, 6, 6)", leaves=tmp_path / "o")


def test_labels_out_of_range_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", data=np.zeros((44, 1, 8, 8), np.float32), labels=np.arange(44) % 11)
    command = ["measure", "digits-sit", "--data", tmp_path / "d.npz", "--out", tmp_path / "o", *SMALL]
    refused(*command, says="10 classes", leaves=tmp_path / "o")
    np.savez(tmp_path / "d.npz", data=np.zeros((44, 1, 8, 8), np.float32), labels=np.arange(44) % 11 - 1)
    refused(*command, says="from -1", leaves=tmp_path / "o")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    command = ["measure", "digits-sit", "--data", tmp_path / "empty", "--out", tmp_path / "o", *SMALL]
    refused(*command, says="holds no images", leaves=tmp_path / "o")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps", "0"], "steps is [2, 0]"),
        (["--samples", "0"], "samples is 0"),
        (["--samples", "-5"], "samples is -5"),
        (["--guidance", "nan"], "guidance is nan"),
        (["--guidance", "-1"], "guidance is -1"),
        (["--shift", "0"], "shift is 0"),
        (["--reference", "wishful"], "unknown reference 'wishful'"),
        (["--sampler", "eulr"], "did you mean 'euler'?"),
        (["--backend", "magic"], "unknown search backend"),
        (["--heldout", "1.5"], "heldout is 1.5"),
        (["--device", "tpu9"], "device 'tpu9'"),
        (["--dtype", "float8"], "dtype is 'float8'"),
        (["--batch-size", "0"], "--batch-size is '0'"),
        (["--family", "sitt"], "did you mean 'sit'?"),
        (["--threads", "-1"], "threads is -1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, more, says, weights):
    command = [
        "measure",
        weights,
        "--data",
        "digits",
        "--out",
        tmp_path / "o",
        "--samples",
        "20",
        "--steps",
        "2",
        *more,
    ]
    refused(*command, says=says, leaves=tmp_path / "o")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--gamma", "1.5"], "gamma is 1.5"),
        (["--gamma", "-0.1"], "gamma is -0.1"),
        (["--gamma", "nan"], "gamma is nan"),
        (["--gamma", "lots"], "--gamma is 'lots'"),
        (["--gamma", "auto"], "needs --run"),
        (["--gamma", "0.5", "--remedy", "mixflw"], "did you mean 'mixflow'?"),
        (["--gamma", "0.5", "--target-at", "x"], "target_at is 'x'"),
        (["--gamma", "0.5", "--lr", "0"], "lr is 0"),
        (["--gamma", "0.5", "--steps", "0"], "steps is 0"),
    ],
)
def test_posttrain_settings_out_of_range_are_refused(tmp_path, more, says):
    command = ["posttrain", "digits-sit", "--data", "digits", "--out", tmp_path / "o", "--steps", "2", *more]
    refused(*command, says=says, leaves=tmp_path / "o")


def test_an_output_path_that_is_a_file_or_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "f").write_text("mine")
    refused(*measure_of("digits-sit", tmp_path / "f"), says="is a file")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("mine")
    refused(*measure_of("digits-sit", tmp_path / "d"), says="holds no SlowFlow run")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["thesis.txt"]


def test_a_stopped_run_says_how_to_go_on(tmp_path, monkeypatch):
    from slowflow.measuring import engine

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_write_shard", stop)
    _, err = slowflow(*measure_of("digits-sit", tmp_path / "o"), code=130)
    assert "To go on: slowflow" in err


def test_an_unknown_failure_is_a_sentence_and_debug_shows_more(tmp_path, monkeypatch):
    from slowflow.measuring import engine

    def fail(*args, **kwargs):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(engine, "_write_shard", fail)
    _, err = slowflow(*measure_of("digits-sit", tmp_path / "o"), code=1)
    assert "internal error (ZeroDivisionError: planted)" in err
    assert "Traceback" not in err
    _, err = slowflow(*measure_of("digits-sit", tmp_path / "o", "--debug"), code=1)
    assert "Traceback" in err


def test_the_demo_of_the_small_model_ends_with_a_report(tmp_path):
    out, _ = slowflow(
        "demo", "--model", "digits-sit", "--out", tmp_path / "demo", "--threads", "1", "--quiet", "--json"
    )
    found = json.loads(out)
    assert {"measure", "suggest", "posttrain", "remeasure", "evaluate", "report"} <= found.keys()
    page = (tmp_path / "demo" / "report.html").read_text()
    assert str(tmp_path) not in page
    assert found["report"] == str((tmp_path / "demo" / "report.html").resolve())


def test_posttrain_with_the_measurement_of_another_model_is_refused(tmp_path, measured):
    command = [
        "posttrain",
        "mnist-sit",
        "--data",
        "mnist5k",
        "--run",
        measured,
        "--steps",
        "1",
        "--out",
        tmp_path / "o",
    ]
    refused(*command, says="not of this model", leaves=tmp_path / "o")


def test_a_gamma_for_the_plain_arm_is_refused(tmp_path):
    command = ["posttrain", "digits-sit", "--data", "digits", "--remedy", "plain", "--gamma", "0.3", "--steps", "1"]
    refused(*command, "--out", tmp_path / "o", says="has no gamma", leaves=tmp_path / "o")


def test_a_factory_that_raises_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken_factory.py").write_text("def make():\n    raise RuntimeError('no weights here')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["check", "-", "--family", "custom", "--factory", "broken_factory:make", "--data", "digits"]
    refused(*command, says="raised RuntimeError: no weights here")


def test_the_folder_of_a_training_run_is_a_model(tmp_path):
    text = (
        card("digits-sit", "model")
        .recipe.read_text()
        .replace("steps = 3000", "steps = 1")
        .replace("hidden = 64", "hidden = 16")
    )
    (tmp_path / "r.toml").write_text(text)
    slowflow("pretrain", tmp_path / "r.toml", "--out", tmp_path / "run", "--threads", "1", "--quiet")
    assert json.loads(slowflow("check", tmp_path / "run", "--json")[0])["ok"]
