"""Any command line, any file: an answer or one sentence, never a traceback (R20).

Hypothesis makes the input; a fixed seed makes the run the same every time. Exit code 1 is allowed for what verbs say with
it, not for an internal error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.cards import card
from slowflow.config import from_mapping, read_toml
from slowflow.data.open import open_data
from slowflow.errors import SlowFlowError
from slowflow.io import checkpoint
from slowflow.io.run import RunFolder, read_json, read_manifest, verify
from slowflow.io.status import status
from slowflow.records import Probe
from slowflow.train.loop import TrainConfig
from slowflow.train.pretrain import read_recipe

MANY = int(os.environ.get("SLOWFLOW_FUZZ", "25"))
calm = settings(
    max_examples=MANY, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
"""SLOWFLOW_FUZZ=500 looks longer."""

VERBS = ("measure", "suggest", "diagnose", "posttrain", "sample", "evaluate", "plot", "report", "check", "ls", "encode")
VERBS += ("export", "status", "pretrain", "run", "demo", "calibrate", "doctor", "nonsense", "")
odd = st.sampled_from(
    ["", " ", "-", "--", "nan", "inf", "-inf", "-1", "0", "1e999", "9" * 400, "../../x", "/dev/null", "/", "~", "a\nb", "💥",
     "\u202e", "%s%n", "{}", "$HOME", "digits-sit/..", "con", "a" * 300, "null", "[1]", "0x10", "1_0", "٣"]
)  # fmt: skip
words = st.one_of(odd, st.text(alphabet=string.printable + "äγ\u0000é", max_size=12), st.floats().map(str))
options = st.sampled_from(
    ["--out", "--steps", "--samples", "--n", "--data", "--guidance", "--shift", "--seed", "--batch-size", "--threads", "--device",
     "--dtype", "--config", "--reference", "--null", "--sampler", "--gamma", "--remedy", "--run", "--features", "--figure",
     "--codec", "--size", "--layout", "--family", "--factory", "--interpolant", "--heads", "--heldout", "--protocol", "--json",
     "--quiet", "--nonsense", "--keep-every", "--lr", "--images"]
)  # fmt: skip


def civil(result, seen) -> None:
    """An exit code of the contract, one sentence, no traceback."""
    assert result.exit_code in (0, 1, 2, 3, 4), (seen, result.exit_code, result.stderr)
    assert "Traceback" not in result.stderr, seen
    assert "internal error" not in result.stderr, (seen, result.stderr)
    assert result.exception is None or isinstance(result.exception, SystemExit), (seen, result.exception)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Runs verbs where nothing can be harmed."""
    place = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(place)
    yield CliRunner()
    os.chdir(before)


@given(verb=st.sampled_from(VERBS), parts=st.lists(st.one_of(words, st.tuples(options, words)), max_size=6))
@calm
def test_any_command_line_is_answered(runner, verb, parts):
    arguments = [verb]
    for part in parts:
        arguments += [part] if isinstance(part, str) else list(part)
    # what would really train or sample for minutes is not what is looked at here
    if verb in ("demo", "run") or "\0" in "".join(arguments):
        arguments.append("--nonsense")
    civil(runner.invoke(app, arguments), arguments)


values = st.one_of(
    st.integers(-5, 40),
    st.floats(allow_nan=False),
    st.sampled_from(["auto", "euler", "own", "cpu", "x", ""]),
    st.booleans(),
    st.lists(st.integers(-2, 4), max_size=3),
)
keys = st.sampled_from(
    ["samples", "steps", "seed", "guidance", "threads", "reference", "batch-size", "sampler", "out", "json", "bogus"]
)


@given(content=st.dictionaries(keys, values, max_size=5))
@settings(calm, max_examples=MANY // 2)
def test_any_config_file_is_answered(runner, content):
    Path("c.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in content.items()))
    # a data set that is not there: whatever is asked for is parsed and checked, and nothing is measured
    civil(runner.invoke(app, ["measure", "digits-sit", "--data", "gone", "--out", "o", "--config", "c.toml"]), content)


@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass"))))
@calm
def test_any_bytes_as_toml_or_json_are_input_errors(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(text)
    for read in (read_toml, read_json, read_recipe):
        with contextlib.suppress(SlowFlowError):
            read(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "a = " + "[" * 10**5, '{"a":' * 10**5, "a = " + "9" * 10**5, '{"a": ' + "9" * 10**5 + "}"],
    ids=range(5),
)
def test_texts_without_bottom_are_input_errors(tmp_path, text):
    (tmp_path / "a").write_text(text)
    for read in (read_toml, read_json, read_recipe):
        with pytest.raises(SlowFlowError):
            read(tmp_path / "a")


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
probe_keys = st.sampled_from(
    ["samples", "steps", "sampler", "references", "guidance", "seed", "shift", "nulls", "shard", "bank", "x"]
)
train_keys = st.sampled_from(
    ["steps", "batch_size", "lr", "betas", "clip", "seed", "mixed", "ema_decay", "warmup", "x"]
)


@given(probe=st.dictionaries(probe_keys, anything, max_size=4), train=st.dictionaries(train_keys, anything, max_size=4))
@calm
def test_any_settings_are_taken_or_refused(probe, train):
    for kind, mapping in ((Probe, probe), (TrainConfig, train)):
        with contextlib.suppress(SlowFlowError):
            from_mapping(kind, mapping, "here")


@given(content=anything, manifest=anything)
@calm
def test_any_run_folder_is_opened_or_refused(tmp_path_factory, content, manifest):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text(json.dumps(content))
    with contextlib.suppress(SlowFlowError):
        RunFolder(folder, "measure", {"a": 1})
    with contextlib.suppress(SlowFlowError):
        status(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for read in (read_manifest, verify, status):
        with contextlib.suppress(SlowFlowError):
            read(folder)


dtypes = st.sampled_from(["f4", "f8", "f2", "u1", "i8", "i4", "u2", "b1", "c8", "M8[s]", "S3", "U2", ">f4"])
shapes = st.lists(st.integers(0, 3), min_size=0, max_size=5).map(tuple)
names = st.sampled_from(["data", "arr_0", "labels", "features", "x", ""])


@given(arrays=st.dictionaries(names, st.tuples(dtypes, shapes), max_size=3), compressed=st.booleans())
@calm
def test_any_npz_is_opened_or_refused(tmp_path_factory, arrays, compressed):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    found = {name: np.zeros(shape, np.dtype(dtype)) for name, (dtype, shape) in arrays.items()}
    (np.savez_compressed if compressed else np.savez)(path, **found)
    with contextlib.suppress(SlowFlowError):
        open_data(path)


@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), cut=st.integers(0, 10**6))
@calm
def test_any_damage_to_an_npz_or_safetensors_is_opened_or_refused(tmp_path_factory, places, cut):
    base = tmp_path_factory.getbasetemp()
    data, buffer = np.zeros((4, 1, 2, 2), np.float32), io.BytesIO()
    np.savez(buffer, data=data, labels=np.arange(4))
    checkpoint.save(base / "whole.safetensors", {"data": torch.from_numpy(data), "labels": torch.arange(4)}, {})
    torch.save({"data": torch.from_numpy(data)}, base / "whole.pt")
    files = {"npz": buffer.getvalue()}
    files |= {suffix: (base / f"whole.{suffix}").read_bytes() for suffix in ("safetensors", "pt")}
    for suffix, whole in files.items():
        content = bytearray(whole)
        for place, value in places:
            content[place % len(content)] = value
        path = base / f"any.{suffix}"
        path.write_bytes(bytes(content[: cut % len(content)] if cut % 3 == 0 else content))
        with contextlib.suppress(SlowFlowError):
            open_data(path)
        with contextlib.suppress(SlowFlowError):
            checkpoint.load(path)


ints = st.one_of(st.integers(-3, 300), st.just(2**62), st.none(), st.text(max_size=3), st.floats(), st.booleans())


@given(
    changes=st.dictionaries(
        st.sampled_from(["hidden", "depth", "heads", "patch", "classes", "channels", "input_size"]), ints, max_size=3
    )
)
@settings(calm, max_examples=MANY // 2)
def test_any_description_inside_our_own_file_is_opened_or_refused(runner, changes):
    stored = checkpoint.load(card("digits-sit", "model").weights())
    told = json.loads(json.dumps(stored.metadata))
    for key, value in changes.items():
        place = next(
            (d for d in (told["model"], *[v for v in told["model"].values() if isinstance(v, dict)]) if key in d), None
        )
        if place is not None:
            place[key] = value if value == value and value not in (float("inf"), -float("inf")) else None
    checkpoint.save("any.safetensors", stored.tensors, told)
    civil(runner.invoke(app, ["check", "any.safetensors"]), changes)
