"""Files, run folders, checkpoints, keyed randomness, registries and configurations."""

import errno
import hashlib
import json
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowflow import rng
from slowflow.config import canonical, differences, digest, from_mapping, read_toml
from slowflow.errors import CheckpointError, ConfigMismatchError, EnvironmentProblem, InputError
from slowflow.flow.samplers import SAMPLERS
from slowflow.io import atomic, checkpoint
from slowflow.io.run import RunFolder, file_sha256, read_json, read_manifest, verify
from slowflow.registry import Registry

# --- atomic writes


def failing(original, at, error=errno.ENOSPC):
    """`original`, raising OSError at call number `at` (1 = the first)."""
    calls = []

    def function(*arguments, **settings):
        calls.append(1)
        if len(calls) == at:
            raise OSError(error, os.strerror(error))
        return original(*arguments, **settings)

    return function


@pytest.mark.parametrize("operation", ["replace", "fsync", "fdopen", "chmod"])
@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_failed_write_leaves_the_old_file_and_no_stump(tmp_path, monkeypatch, operation, old):
    target = tmp_path / "file.bin"
    if old is not None:
        target.write_bytes(old)
    monkeypatch.setattr(os, operation, failing(getattr(os, operation), 1))
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*file.bin \(11 bytes\): No space left on device"):
        atomic.write_bytes(target, b"new content")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file.bin"])
    assert old is None or target.read_bytes() == old


def test_a_failed_sync_of_the_folder_is_reported_and_the_file_is_whole(tmp_path, monkeypatch):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 2, errno.EIO))
    with pytest.raises(EnvironmentProblem, match="Input/output error"):
        atomic.write_bytes(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert target.read_bytes() in (b"old", b"new")


def test_a_missing_permission_is_an_environment_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(os.replace, 1, errno.EACCES))
    with pytest.raises(EnvironmentProblem, match="Permission denied") as caught:
        atomic.write_text(tmp_path / "a.txt", "x")
    assert caught.value.exit_code == 4


def test_an_interrupt_during_a_write_leaves_no_file_under_the_final_name(tmp_path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_bytes(tmp_path / "file.bin", b"new")
    assert not (tmp_path / "file.bin").exists()


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=original: (order.append(n), f(*a))[1])
    atomic.write_bytes(tmp_path / "file.bin", b"x")
    assert order == ["fsync", "replace", "fsync"]


def test_a_write_replaces_makes_folders_and_calls_the_hook(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(atomic, "after_durable", seen.append)
    target = tmp_path / "a" / "b" / "file.txt"
    atomic.write_text(target, "eins")
    atomic.write_text(target, "zwei \N{GREEK SMALL LETTER GAMMA}")
    assert target.read_text(encoding="utf-8") == "zwei \N{GREEK SMALL LETTER GAMMA}"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]
    assert seen == [target, target]


def test_json_is_stable_and_refuses_nan(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    atomic.write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "c.json", math.nan)
    assert not (tmp_path / "c.json").exists()


# --- run folders


@dataclass(frozen=True)
class Settings:
    steps: int = 5
    name: str = "x"


def finished(folder, config=None):
    run = RunFolder(folder, "measure", config or Settings())
    atomic.write_bytes(run.path / "shard.bin", bytes(range(200)))
    atomic.write_text(run.path / "table.csv", "a,b\n1,2\n")
    run.finish(["table.csv", "shard.bin"], {"value": 1.5})
    return run


def test_an_unfinished_run_is_resumed_by_the_same_configuration(tmp_path):
    first = RunFolder(tmp_path / "run", "measure", Settings())
    atomic.write_text(first.path / "shard.txt", "x")
    again = RunFolder(tmp_path / "run", "measure", Settings())
    assert not first.finished
    assert not again.finished
    assert (again.path / "shard.txt").exists()


def test_a_finished_run_is_recognised_with_its_manifest(tmp_path):
    run = finished(tmp_path / "run")
    again = RunFolder(tmp_path / "run", "measure", Settings())
    assert run.finished
    assert again.finished
    assert again.manifest["result"] == {"value": 1.5}
    assert again.manifest["config"] == {"steps": 5, "name": "x"}
    assert set(again.manifest["files"]) == {"shard.bin", "table.csv"}
    assert again.manifest["environment"]["torch"] == torch.__version__


def test_another_configuration_is_refused_naming_the_field(tmp_path):
    RunFolder(tmp_path / "run", "measure", {"train": Settings(), "seed": 0})
    with pytest.raises(ConfigMismatchError, match=r"config\.train\.steps: 5 -> 6") as caught:
        RunFolder(tmp_path / "run", "measure", {"train": Settings(steps=6), "seed": 0})
    assert "seed" not in str(caught.value)
    assert "name" not in str(caught.value)


def test_another_kind_is_refused(tmp_path):
    RunFolder(tmp_path / "run", "measure", Settings())
    with pytest.raises(ConfigMismatchError, match="holds a 'measure' run, not a 'train' run"):
        RunFolder(tmp_path / "run", "train", Settings())


def test_a_refused_command_changes_nothing(tmp_path):
    RunFolder(tmp_path / "run", "measure", Settings())
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigMismatchError):
        RunFolder(tmp_path / "run", "measure", Settings(steps=6))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_foreign_folder_is_refused_and_an_empty_one_taken(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(ConfigMismatchError, match="is not empty and holds no SlowFlow run"):
        RunFolder(tmp_path / "photos", "measure", Settings())
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    (tmp_path / "empty").mkdir()
    assert not RunFolder(tmp_path / "empty", "measure", Settings()).finished


def test_the_rest_of_a_killed_first_write_does_not_block_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.abc.part").write_bytes(b"{")
    assert not RunFolder(tmp_path / "run", "measure", Settings()).finished


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(InputError, match="is a file; --out needs a folder"):
        RunFolder(tmp_path / "run", "measure", Settings())


def test_a_damaged_config_is_refused(tmp_path):
    RunFolder(tmp_path / "run", "measure", Settings())
    (tmp_path / "run" / "config.json").write_text('{"schema": 1, ')
    with pytest.raises(InputError, match="is not valid JSON"):
        RunFolder(tmp_path / "run", "measure", Settings())


@pytest.mark.parametrize("place", [0, 57, 199])
def test_verification_detects_any_flipped_byte(tmp_path, place):
    run = finished(tmp_path / "run")
    assert verify(run.path) == []
    content = bytearray((run.path / "shard.bin").read_bytes())
    content[place] ^= 1
    (run.path / "shard.bin").write_bytes(bytes(content))
    assert verify(run.path) == ["shard.bin"]
    assert not run.finished


def test_verification_detects_missing_and_truncated_files(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / "shard.bin").unlink()
    (run.path / "table.csv").write_text("a,b\n")
    assert verify(run.path) == ["shard.bin", "table.csv"]


def test_the_manifest_records_true_hashes(tmp_path):
    run = finished(tmp_path / "run")
    expected = hashlib.sha256(bytes(range(200))).hexdigest()
    assert run.manifest["files"]["shard.bin"] == expected == file_sha256(run.path / "shard.bin")
    assert run.manifest["config_sha256"] == digest(Settings())


def test_a_failed_manifest_leaves_the_run_unfinished(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", "measure", Settings())
    monkeypatch.setattr(os, "replace", failing(os.replace, 1))
    with pytest.raises(EnvironmentProblem):
        run.finish([], {})
    assert not run.finished


def test_manifest_messages_say_what_is_there(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        read_manifest(tmp_path / "gone")
    with pytest.raises(InputError, match="is not a run"):
        read_manifest(tmp_path)
    RunFolder(tmp_path / "half", "measure", Settings())
    with pytest.raises(InputError, match="is unfinished; repeat the command"):
        read_manifest(tmp_path / "half")
    finished(tmp_path / "run")
    assert read_manifest(tmp_path / "run", "measure")["kind"] == "measure"
    with pytest.raises(InputError, match="holds a 'measure' run, expected 'train'"):
        read_manifest(tmp_path / "run", "train")


def test_a_manifest_of_another_schema_is_refused(tmp_path):
    run = finished(tmp_path / "run")
    manifest = {**run.manifest, "schema": 99}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="has schema 99"):
        read_manifest(run.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"text"', "\x00\x01"])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    run = finished(tmp_path / "run")
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(InputError):
        read_manifest(run.path)


def test_missing_and_broken_json_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_json(tmp_path / "bad.json")


# --- checkpoints


def tensors():
    draw = torch.Generator().manual_seed(0)
    names = ("b", "a", "z.weight", "m/n")
    return {name: torch.randn(3, 4, generator=draw) for name in names}


def test_saving_is_byte_stable(tmp_path):
    metadata = {"model": {"name": "x", "heads": 2}, "extra": [1, 2]}
    checkpoint.save(tmp_path / "one", tensors(), metadata)
    checkpoint.save(tmp_path / "two", dict(reversed(tensors().items())), dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_saved_tensors_and_metadata_come_back(tmp_path, dtype):
    content = {name: (10 * tensor).to(dtype).t() for name, tensor in tensors().items()}
    checkpoint.save(tmp_path / "file", content, {"step": 3, "text": "\N{GREEK SMALL LETTER GAMMA}"})
    loaded = checkpoint.load(tmp_path / "file")
    assert loaded.metadata == {"step": 3, "text": "\N{GREEK SMALL LETTER GAMMA}"}
    assert loaded.tensors.keys() == content.keys()
    assert all(torch.equal(loaded.tensors[name], content[name]) for name in content)
    assert {tensor.dtype for tensor in loaded.tensors.values()} == {dtype}


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "file", tensors(), {"step": 1})
    monkeypatch.setattr(os, "replace", failing(os.replace, 1))
    with pytest.raises(EnvironmentProblem):
        checkpoint.save(tmp_path / "file", {}, {"step": 2})
    assert checkpoint.load(tmp_path / "file").metadata == {"step": 1}


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    shared = torch.arange(6.0)
    checkpoint.save(tmp_path / "file", {"a": shared, "b": shared}, {})
    loaded = checkpoint.load(tmp_path / "file").tensors
    assert torch.equal(loaded["a"], shared)
    assert torch.equal(loaded["b"], shared)


def test_a_saved_nan_is_not_loaded(tmp_path):
    checkpoint.save(tmp_path / "file", {"good": torch.zeros(2), "bad": torch.tensor([1.0, math.nan])}, {})
    with pytest.raises(CheckpointError, match="'bad' holds 1 NaN or infinite values"):
        checkpoint.load(tmp_path / "file")


# --- keyed randomness


@given(n=st.integers(1, 12), k=st.integers(1, 12), seed=st.integers(-5, 2**40))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_noise_of_a_sample_does_not_depend_on_the_others(n, k, seed):
    long, short = (rng.normal(seed, "noise", range(count), (2, 3)) for count in (max(n, k), min(n, k)))
    assert np.array_equal(long[: min(n, k)], short)
    assert np.array_equal(
        rng.normal(seed, "noise", [n - 1], (2, 3))[0], rng.normal(seed, "noise", range(n), (2, 3))[-1]
    )


def test_a_longer_sample_starts_like_a_shorter_one():
    assert np.array_equal(rng.normal(0, "noise", [4], (10,))[0, :5], rng.normal(0, "noise", [4], (5,))[0])


def test_noise_equals_its_written_definition():
    key = hashlib.blake2b(b"slowflow|7|noise|3", digest_size=16).digest()
    philox = np.random.Philox(key=np.frombuffer(key, dtype=np.uint64))
    expected = np.random.Generator(philox).standard_normal((2, 2))
    assert np.array_equal(rng.normal(7, "noise", [3], (2, 2))[0], expected)


KEYS = [
    (0, "a", 1, 2),
    (0, "a", 2, 1),
    (0, "a", 12),
    (0, "a", 1),
    (0, "a"),
    (1, "a", 1, 2),
    (0, "b", 1, 2),
    (-1, "a", 1),
]


def test_every_part_of_the_key_counts():
    first = [tuple(rng.generator(*key).integers(0, 2**62, 2)) for key in KEYS]
    assert len(set(first)) == len(KEYS)
    torch_first = [int(torch.randint(2**62, (1,), generator=rng.torch_generator(*key))) for key in KEYS]
    assert len(set(torch_first)) == len(KEYS)


def test_different_keys_are_uncorrelated_and_standard_normal():
    draws = rng.normal(0, "noise", range(40), (2000,))
    correlations = np.corrcoef(draws)[np.triu_indices(40, 1)]
    # standard error 1 / sqrt(2000) = 0.022; the largest of 780 stays below five of them
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)
    # 80,000 draws: five standard errors of mean and variance
    assert abs(draws.mean()) < 5 / math.sqrt(80_000)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / 80_000)


def test_permutations_are_complete_and_keyed():
    orders = [rng.permutation(0, "epoch", 20, e) for e in range(5)]
    assert all(sorted(order.tolist()) == list(range(20)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 5
    assert np.array_equal(orders[3], rng.permutation(0, "epoch", 20, 3))


def test_no_global_stream_is_touched():
    # Python's own `random` is left out: beartype, on in tests only, draws from it to sample containers
    before = (np.random.get_state()[1].copy(), np.random.get_state()[2], torch.get_rng_state())
    rng.normal(0, "noise", range(3), (4,))
    rng.permutation(0, "epoch", 10)
    rng.generator(0, "x").random(5)
    torch.rand(5, generator=rng.torch_generator(0, "x"))
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert np.random.get_state()[2] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_global_seeds_change_nothing():
    first = rng.normal(0, "noise", [1], (3,))
    random.seed(1)
    state = np.random.get_state()
    np.random.seed(1)
    try:
        assert np.array_equal(rng.normal(0, "noise", [1], (3,)), first)
    finally:
        np.random.set_state(state)


# --- registries


def test_an_unknown_name_suggests_the_closest_and_lists_all():
    with pytest.raises(
        InputError,
        match=r"unknown sampler 'heum'; did you mean 'heun'\? \(known: .*em-sit, euler, heun, .*, recombine, .*\)",
    ):
        SAMPLERS.get("heum")
    with pytest.raises(InputError, match=r"unknown sampler 'zzz' \(known: ancestral"):
        SAMPLERS.get("zzz")


def test_a_registry_keeps_entries_sorted_and_refuses_a_second_value():
    registry = Registry("thing")
    for name in ("b", "a"):
        registry.register(name, summary=f"the {name}", source="here")(name.upper())
    assert registry.names() == ["a", "b"]
    assert [(entry.name, entry.value, entry.summary) for entry in registry] == [
        ("a", "A", "the a"),
        ("b", "B", "the b"),
    ]
    registry.register("a", summary="again", source="here")(registry.get("a"))
    with pytest.raises(InputError, match="the thing 'a' is registered twice"):
        registry.register("a", summary="other", source="here")("other")


def test_a_package_is_scanned_once_and_finds_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "slowflow_scanned"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from slowflow.registry import Registry\nTHINGS = Registry('thing', 'slowflow_scanned')\n"
    )
    (package / "one.py").write_text(
        "from slowflow_scanned import THINGS\nTHINGS.register('one', summary='s', source='t')(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import slowflow_scanned

    assert slowflow_scanned.THINGS.names() == ["one"]


# --- configurations


@dataclass(frozen=True)
class Typed:
    count: int
    share: float = 0.5
    name: str = "x"
    flag: bool = False
    pair: tuple[float, ...] = (1.0,)
    maybe: int | None = None


def test_plain_values_become_a_typed_configuration():
    got = from_mapping(Typed, {"count": 3, "share": 1, "pair": [1, 2.5], "maybe": None, "flag": True}, "here")
    assert got == Typed(count=3, share=1.0, pair=(1.0, 2.5), flag=True)
    assert type(got.share) is float


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"count": 1, "shrae": 1.0}, "unknown setting 'shrae' in here; did you mean 'share'"),
        ({"count": 1, "zzzzz": 1.0}, r"unknown setting 'zzzzz' in here \(known: count, share"),
        ({}, "here lacks the setting 'count'"),
        ({"count": 1.0}, "'count' in here is 1.0, expected int"),
        ({"count": True}, "'count' in here is True, expected int"),
        ({"count": "1"}, "'count' in here is '1', expected int"),
        ({"count": None}, "'count' in here is None, expected int"),
        ({"count": 1, "share": "half"}, "'share' in here is 'half', expected float"),
        ({"count": 1, "share": True}, "'share' in here is True, expected float"),
        ({"count": 1, "share": math.nan}, "'share' in here is nan, expected a finite number"),
        ({"count": 1, "share": -math.inf}, "'share' in here is -inf, expected a finite number"),
        ({"count": 1, "name": 5}, "'name' in here is 5, expected str"),
        ({"count": 1, "flag": 1}, "'flag' in here is 1, expected bool"),
        ({"count": 1, "pair": [1.0, "x"]}, "'pair' in here is 'x', expected float"),
        ({"count": 1, "pair": 1.0}, "'pair' in here is 1.0"),
        ({"count": 1, "maybe": "x"}, "'maybe' in here is 'x', expected int or NoneType"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(mapping, message):
    with pytest.raises(InputError, match=message):
        from_mapping(Typed, mapping, "here")


def test_an_integer_too_large_for_a_float_is_refused():
    with pytest.raises(InputError, match="'share' in here"):
        from_mapping(Typed, {"count": 1, "share": 10**400}, "here")


def test_canonical_form_is_plain_json():
    value = {"a": Typed(count=1), 2: (1, 2), "path": Path("x/y"), "none": None}
    plain = canonical(value)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["2"] == [1, 2]
    assert plain["path"] == str(Path("x/y"))
    assert plain["a"]["pair"] == [1.0]


def test_digest_ignores_order_and_sees_every_value():
    base = {"a": 1, "b": {"c": 2.5, "d": "x"}}
    assert digest(base) == digest({"b": {"d": "x", "c": 2.5}, "a": 1})
    others = [{**base, "a": 2}, {**base, "b": {"c": 2.5, "d": "y"}}, {**base, "e": None}]
    assert len({digest(value) for value in [base, *others]}) == 4


def test_differences_name_each_field_that_differs():
    old = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "gone": 5}
    new = {"a": 1, "b": {"c": 3, "d": [1, 2]}, "added": "x"}
    assert differences(old, new) == ["added: None -> 'x'", "b.c: 2 -> 3", "gone: 5 -> None"]
    assert differences(old, json.loads(json.dumps(old))) == []


def test_toml_mistakes_are_input_errors(tmp_path):
    (tmp_path / "bad.toml").write_text("a = \n")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(InputError, match=r"is not a TOML file: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="is not a TOML file"):
        read_toml(tmp_path / "latin.toml")
    with pytest.raises(InputError, match="no such config file"):
        read_toml(tmp_path / "gone.toml")
    with pytest.raises(InputError, match="is not a TOML file"):
        read_toml(tmp_path)


@pytest.mark.parametrize("length", [640, 19_280])
def test_a_header_whose_length_looks_like_another_format_is_still_safetensors(tmp_path, length):
    """Its first bytes are 80 02 (a pickle's) or 50 4b (a zip's)."""
    for padding in range(length - 200, length):
        checkpoint.save(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {"note": "n" * padding})
        size = int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little")
        if size == length:
            break
    else:
        pytest.fail("no padding gives this length")
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["note"].startswith("n")


def test_a_manifest_holds_the_fingerprint_of_its_noise(tmp_path, monkeypatch):
    RunFolder(tmp_path / "a", "kind", {}).finish([], {})
    noise = read_manifest(tmp_path / "a")["environment"]["noise"]
    # the golden value: a NumPy or a key that draws otherwise makes samples that are not those of earlier runs
    assert noise == rng.fingerprint() == "a930ce7fe6fc3198"
    honest = rng.generator
    monkeypatch.setattr(rng, "generator", lambda seed, purpose, *index: honest(seed + 1, purpose, *index))
    assert rng.fingerprint() != noise
