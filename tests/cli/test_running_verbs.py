"""--compile and --batch-size auto at the command line."""

import json

import pytest
import torch
from slowflow_cli import shared
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.errors import InputError
from slowflow.flow import compiling
from slowflow.io.run import read_manifest

runner = CliRunner()
SAMPLE = ["sample", "digits-sit", "--n", "3", "--steps", "1", "--device", "cpu", "--quiet"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("choice", "words"), [("graphs", "needs a CUDA device"), ("fast", "off, on, graphs")])
def test_a_choice_that_cannot_be_served_makes_nothing(tmp_path, choice, words):
    done = runner.invoke(app, [*SAMPLE, "--out", str(tmp_path / "a.npz"), "--compile", choice])
    assert done.exit_code == 3
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_compiled_sample_says_so_in_its_protocol(tmp_path, monkeypatch):
    """Tracing a transformer takes longer than this test may; flow/test_running.py does it on a small network."""

    def marked(net, device, choice, backend):
        compiling._how[net] = choice

    monkeypatch.setattr(compiling, "compile_in_place", marked)
    done = runner.invoke(app, [*SAMPLE, "--out", str(tmp_path / "a.npz"), "--compile", "on", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["protocol"]["dtype"] == "float32 network, compiled, float64 states"


def test_an_unfinished_run_keeps_its_batch(tmp_path, tiny_model):
    """Shards of a run are as large as its batch: a machine with other memory must go on with the same."""
    model = tiny_model()
    assert shared.network_batch("auto", model, 1.0, tmp_path, "probe", "shard") == 64
    (tmp_path / "config.json").write_text(json.dumps({"config": {"probe": {"shard": 48}}}))
    assert shared.network_batch("auto", model, 1.0, tmp_path, "probe", "shard") == 48
    assert shared.network_batch("7", model, 1.0, tmp_path, "probe", "shard") == 7
    with pytest.raises(InputError, match="expected auto or a number"):
        shared.network_batch("many", model)


def test_a_training_says_how_it_was_computed(tmp_path):
    train = ["posttrain", "digits-sit", "--data", "digits", "--remedy", "plain", "--steps", "1", "--batch-size", "2"]
    train += ["--device", "cpu", "--quiet", "--out", str(tmp_path / "run")]
    refused = runner.invoke(app, [*train, "--compile", "graphs"])
    assert refused.exit_code == 3
    assert "graphs are for sampling" in refused.stderr
    done = runner.invoke(app, [*train, "--gradient-checkpointing"])
    assert done.exit_code == 0, done.stderr
    assert read_manifest(tmp_path / "run", "posttrain")["result"]["execution"] == {"recompute": True}
