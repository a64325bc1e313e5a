"""Damaged files: cut, flipped, NaN, edited, old. Each is named or made again; none is used (R4, R6, R11, R19, R21, R22)."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.cards import card
from slowflow.data.open import open_data
from slowflow.errors import CheckpointError, EnvironmentProblem, InputError, NonFiniteError
from slowflow.evaluating.evaluation import Evaluation
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint
from slowflow.io.run import RunFolder, read_json, read_manifest, verify
from slowflow.measuring.measurement import Measurement
from slowflow.records import Probe

SCHEMA1 = Path(__file__).parent / "schema1"


def some_tensors() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(7, 5, generator=draw) for i in range(6)}


@pytest.fixture
def ours(tmp_path):
    checkpoint.save(tmp_path / "ours.safetensors", some_tensors(), {"step": 3, "note": "x" * 50})
    return tmp_path / "ours.safetensors"


@pytest.fixture
def theirs(tmp_path):
    torch.save({"model": some_tensors(), "steps": 3}, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_any_truncation_is_refused_naming_file_and_size(request, which):
    path = request.getfixturevalue(which)
    content, pick = path.read_bytes(), random.Random(0)
    for length in sorted({0, 1, 8, 9, len(content) - 1, *(pick.randrange(len(content)) for _ in range(200))}):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path)
        assert path.name in str(caught.value)
        assert f"{length:,} bytes" in str(caught.value)


def test_any_flipped_bit_in_a_file_of_ours_is_noticed(ours):
    """The file's own hash: safetensors would have opened nearly all of these."""
    content, pick, loaded = ours.read_bytes(), random.Random(1), checkpoint.load(ours)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[pick.randrange(len(content))] ^= 1 << pick.randrange(8)
        ours.write_bytes(bytes(damaged))
        try:
            found = checkpoint.load(ours)
        except CheckpointError:
            continue
        # what is left: the name of our metadata or of the hash in it was hit; one flip cannot also touch a number
        assert set(found.metadata) != set(loaded.metadata)
        assert all(torch.equal(found.tensors[k], loaded.tensors[k]) for k in loaded.tensors)


def test_any_flipped_bit_of_a_bundled_model_is_noticed(tmp_path):
    bundled, pick = card("digits-sit", "model"), random.Random(2)
    content = bundled.weights().read_bytes()
    copied = type(bundled)(bundled.name, bundled.kind, "", "", tmp_path, bundled.content)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[pick.randrange(len(content))] ^= 1 << pick.randrange(8)
        (tmp_path / "model.safetensors").write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError, match="not the ones its card describes"):
            copied.weights()


def test_a_damaged_shard_of_an_unfinished_run_is_made_again(tmp_path):
    run = RunFolder(tmp_path / "run", "measure", {"a": 1})
    for name in ("shards/a.safetensors", "shards/b.safetensors", "features/c.safetensors"):
        checkpoint.save(run.path / name, some_tensors(), {})
    (run.path / "shards" / "a.safetensors").write_bytes(b"")
    flipped = bytearray((run.path / "features" / "c.safetensors").read_bytes())
    flipped[-3] ^= 4
    (run.path / "features" / "c.safetensors").write_bytes(bytes(flipped))
    RunFolder(tmp_path / "run", "measure", {"a": 1})
    left = {str(p.relative_to(run.path)) for p in run.path.rglob("*.safetensors")}
    assert left == {"shards/b.safetensors"}


def test_a_damaged_training_state_is_named_and_not_thrown_away(tmp_path):
    run = RunFolder(tmp_path / "run", "posttrain", {"a": 1})
    checkpoint.save(run.path / "state.safetensors", some_tensors(), {"step": 3})
    flipped = bytearray((run.path / "state.safetensors").read_bytes())
    flipped[-3] ^= 4
    (run.path / "state.safetensors").write_bytes(bytes(flipped))
    RunFolder(tmp_path / "run", "posttrain", {"a": 1})
    with pytest.raises(CheckpointError, match=r"state.safetensors .* is damaged: its content differs from the hash"):
        checkpoint.load(run.path / "state.safetensors")


# --- NaN


def test_nan_in_any_tensor_is_refused_by_name(tmp_path):
    for name in some_tensors():
        for value in (float("nan"), float("inf"), -float("inf")):
            tensors = some_tensors()
            tensors[name][3, 2] = value
            checkpoint.save(tmp_path / "a.safetensors", tensors, {})
            with pytest.raises(CheckpointError, match=f"'{name}' holds 1 NaN or infinite"):
                checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_state_that_explodes_is_named_by_sample_step_and_time(batch_size):
    def net(state, t, cond):
        out = state.clone()
        out[(cond == 3) & (t > 0.45)] = float("inf")
        return out

    model = FlowModel.from_callable(net, shape=(1, 2, 2), classes=10)
    with pytest.raises(NonFiniteError, match=r"sample 3 became NaN or infinite in step 6 of 10, between t = 0.5000"):
        final_states(model, np.arange(10), steps=10, batch_size=batch_size)


# --- manifests


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path / "run", "measure", {"steps": 5, "name": "x"})
    atomic.write_bytes(run.path / "shards" / "a.bin", bytes(range(100)))
    run.finish(["shards/a.bin"], {"value": 1.5, "curve": [0.1, 0.2], "text": "x"})
    return run.path


def changed(value):
    """Every way to change one leaf of a JSON value."""
    if isinstance(value, dict):
        for key in value:
            yield from ({**value, key: other} for other in changed(value[key]))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from ([*value[:i], other, *value[i + 1 :]] for other in changed(value[i]))
    elif isinstance(value, str):
        yield value + "x"
    else:
        yield (value or 0) + 1


def test_every_edited_field_of_a_manifest_is_noticed(finished):
    whole = read_json(finished / "manifest.json")
    count = 0
    for edited in changed(whole):
        (finished / "manifest.json").write_text(json.dumps(edited))
        with pytest.raises(InputError):
            read_manifest(finished, "measure")
        count += 1
    assert count > 10


def test_every_flipped_byte_of_a_recorded_file_is_noticed(finished):
    content = (finished / "shards" / "a.bin").read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (finished / "shards" / "a.bin").write_bytes(bytes(damaged))
        assert verify(finished) == ["shards/a.bin"]


@pytest.mark.parametrize("files", [["a"], {"a": 5}, "shards", None, {"../../etc/passwd": "0"}, {"/etc/passwd": "0"}])
def test_a_manifest_that_lists_strange_files_is_refused(finished, files):
    (finished / "manifest.json").write_text(json.dumps({**read_json(finished / "manifest.json"), "files": files}))
    with pytest.raises(InputError, match=r"does not list its files|lies outside"):
        verify(finished)


def test_a_link_that_leads_out_of_a_stranger_s_folder_deletes_nothing(tmp_path, finished):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    (finished / "away").symlink_to(precious)
    manifest = {**read_json(finished / "manifest.json"), "files": {"away/thesis.txt": "0" * 64}}
    (finished / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="lies outside the run folder"):
        RunFolder(finished, "measure", {"steps": 5, "name": "x"})
    assert (precious / "thesis.txt").read_text() == "mine"


def test_success_is_claimed_only_after_the_manifest_was_read_back(tmp_path, monkeypatch):
    """A disk that stores something else than it was given."""
    run = RunFolder(tmp_path / "run", "measure", {"a": 1})
    honest = atomic.write_bytes

    def lying(path, content):
        honest(path, content.replace(b"1.5", b"1.6") if Path(path).name == "manifest.json" else content)

    monkeypatch.setattr(atomic, "write_bytes", lying)
    with pytest.raises(EnvironmentProblem, match="reads back otherwise than it was written"):
        run.finish([], {"value": 1.5})
    assert not run.finished
    assert not (run.path / "manifest.json").exists()


# --- old runs


@pytest.fixture
def old(tmp_path):
    """Copies of runs of schema 1 as the first version wrote them: no seals, no hashes inside shards."""
    return Path(shutil.copytree(SCHEMA1, tmp_path / "schema1"))


def test_the_old_runs_are_small():
    for folder in SCHEMA1.iterdir():
        assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 100_000


def test_an_old_measurement_reads_as_it_was_written(old):
    found = Measurement.load(old / "measure")
    told = read_json(old / "measure" / "manifest.json")["result"]["summary"]
    fit = found.suggest()
    assert fit.verdict == told["verdict"]
    for name, estimate in told["gamma"]["estimates"].items() if "estimates" in told["gamma"] else []:
        assert fit.estimates[name].value == pytest.approx(estimate["value"], abs=1e-9)
    assert found.array("m", reference="own").shape == (12, 2)


def test_an_old_evaluation_and_old_latents_open(old):
    told = read_json(old / "evaluate" / "manifest.json")["result"]["summary"]["metrics"]["fd"]["value"]
    # the square root of a covariance without full rank, which it was computed from then, is good to about 1e-7
    assert Evaluation.load(old / "evaluate").estimate("fd", 2).value == pytest.approx(told, rel=1e-6)
    assert open_data(old / "encode").shape == (3, 8, 8)


def test_an_old_training_run_is_a_model_and_is_finished_by_the_same_command(old):
    said = CliRunner().invoke(app, ["check", str(old / "posttrain"), "--data", "digits", "--json"])
    assert json.loads(said.stdout)["family"] == "sit"
    before = read_json(old / "posttrain" / "manifest.json")
    (old / "posttrain" / "manifest.json").unlink()
    again = RunFolder(old / "posttrain", "posttrain", before["config"])
    assert not again.finished
    assert checkpoint.load(old / "posttrain" / "state.safetensors").metadata["step"] == 3


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_a_schema_we_do_not_know_is_refused_by_its_number(old, schema):
    path = old / "measure" / "manifest.json"
    path.write_text(json.dumps({**read_json(path), "schema": schema}))
    with pytest.raises(InputError, match=f"has schema {schema!r}; this SlowFlow reads 1"):
        Measurement.load(old / "measure")


def test_a_damaged_old_run_is_refused(old):
    shard = next((old / "measure" / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(InputError, match="is missing or damaged"):
        Measurement.load(old / "measure")


# --- permission


def test_a_folder_that_cannot_be_written_is_an_environment_problem(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(EnvironmentProblem, match=r"cannot make the folder .*run: Permission denied"):
        RunFolder(tmp_path / "run", "measure", {"a": 1})
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*running.json: Permission denied"):
        RunFolder(tmp_path / "run", "measure", {"a": 1})


def test_an_unreadable_file_is_one_sentence(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.safetensors", some_tensors(), {})
    original = open

    def forbidden(path, *rest, **more):
        if str(path).endswith("a.safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *rest, **more)

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(CheckpointError, match=r"a.safetensors cannot be read: Permission denied"):
        checkpoint.load(tmp_path / "a.safetensors")


def test_an_unforeseen_error_of_the_system_is_exit_4(tmp_path, monkeypatch):
    from slowflow.families import open as opening

    def fails(*_, **__):
        raise OSError(5, "Input/output error", "/dev/somewhere")

    monkeypatch.setattr(opening, "open_model", fails)
    result = CliRunner().invoke(app, ["check", "digits-sit"])
    assert result.exit_code == 4
    assert result.stderr.strip() == "slowflow: cannot read or write /dev/somewhere: Input/output error"


def test_a_probe_is_not_read_from_another_schema_s_config(old):
    """An old unfinished run whose settings have other names is refused by the field, not misread."""
    config = read_json(old / "measure" / "config.json")
    (old / "measure" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"config\.probe\.seed: 0 -> 1"):
        RunFolder(old / "measure", "measure", {**config["config"], "probe": {**config["config"]["probe"], "seed": 1}})
    assert Probe(samples=12, steps=(2,)).grids == (2,)
