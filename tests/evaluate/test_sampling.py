"""sample: equal bytes whatever the batch, the shards, the kills and the number of processes; labels as asked."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slowflow.data.open import open_data
from slowflow.errors import EnvironmentProblem, InputError
from slowflow.evaluating import archive
from slowflow.evaluating.sampling import SampleConfig, labels_by, sample
from slowflow.flow.generate import final_states, quantise
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, ranks

Factory = Callable[..., FlowModel]
CONFIG = SampleConfig(n=25, steps=3, shard=8)


class Killed(BaseException):
    """Stands in for a kill: nothing in the library may catch it."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Factory) -> dict[str, bytes]:
    """What an undisturbed run leaves behind."""
    folder = tmp_path_factory.mktemp("wanted")
    sample(tiny_model(), CONFIG, folder / "a.npz")
    return contents(folder)


def test_equal_commands_write_equal_bytes(tmp_path: Path, tiny_model: Factory) -> None:
    for name in ("a.npz", "b.npz"):
        sample(tiny_model(), SampleConfig(n=25, steps=3, shard=8), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not (tmp_path / "a.npz.parts").exists()
    found = open_data(tmp_path / "a.npz")
    assert (found.shape, found.labels.tolist()) == ((1, 8, 8), [i % 10 for i in range(25)])


def test_sampling_goes_on_from_its_parts(tmp_path: Path, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SampleConfig(n=25, steps=3, shard=8)
    sample(tiny_model(), config, tmp_path / "whole.npz")

    def stop(done: int, total: int, note: str) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(tiny_model(), config, tmp_path / "cut.npz", progress=stop)
    assert not (tmp_path / "cut.npz").exists()
    made: list[int] = []

    def counted(model: FlowModel, ids: np.ndarray, **settings: object) -> torch.Tensor:
        made.extend(ids.tolist())
        return final_states(model, ids, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("slowflow.evaluating.sampling.final_states", counted)
    sample(tiny_model(), config, tmp_path / "cut.npz")
    assert made == list(range(16, 25))
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_another_command_on_the_same_file_is_refused(tmp_path: Path, tiny_model: Factory) -> None:
    config = SampleConfig(n=10, steps=2)
    first = sample(tiny_model(), config, tmp_path / "a.npz")
    assert sample(tiny_model(), config, tmp_path / "a.npz") == first
    with pytest.raises(InputError, match="made by another command"):
        sample(tiny_model(), replace(config, seed=1), tmp_path / "a.npz")
    (tmp_path / "foreign.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="made by another command"):
        sample(tiny_model(), config, tmp_path / "foreign.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        sample(tiny_model(), config, tmp_path / "a.png")


def test_states_that_are_not_pixels_are_written_as_they_are(tmp_path: Path, tiny_model: Factory) -> None:
    sample(tiny_model(), SampleConfig(n=5, steps=2), tmp_path / "states.npz", pixels=False)
    with np.load(tmp_path / "states.npz") as file:
        np.testing.assert_array_equal(file["data"], final_states(tiny_model(), np.arange(5), steps=2).numpy())


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0},
        {"n": 5, "steps": 0},
        {"n": 5, "shard": 0},
        {"n": 5, "batch_size": 0},
        {"n": 5, "labels": "some"},
        {"n": 5, "labels": "-1"},
    ],
)
def test_a_sample_config_refuses_values_that_cannot_be(settings: dict) -> None:
    with pytest.raises(InputError):
        SampleConfig(**settings)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 7}, {"shard": 25}, {"shard": 3, "batch_size": 2}]
)
def test_batches_and_shards_change_nothing(
    tmp_path: Path, tiny_model: Factory, wanted: dict[str, bytes], changes: dict
) -> None:
    sample(tiny_model(), replace(CONFIG, **changes), tmp_path / "a.npz")
    assert contents(tmp_path) == wanted


@pytest.mark.parametrize("sampler", ["euler", "em"])
def test_the_samples_are_those_of_their_ids_and_no_more(tmp_path: Path, tiny_model: Factory, sampler: str) -> None:
    sample(tiny_model(), replace(CONFIG, sampler=sampler, batch_size=5), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(
            file["arr_0"], quantise(final_states(tiny_model(), np.arange(25), steps=3, method=sampler))
        )
        assert len(np.unique(file["arr_0"].reshape(25, -1), axis=0)) == 25  # nothing was drawn twice to fill a batch


def durable_operations(run: Callable[[], object]) -> int:
    count = 0

    def tick(path: Path) -> None:
        nonlocal count
        count += 1

    atomic.after_durable = tick
    try:
        run()
    finally:
        atomic.after_durable = None
    return count


def test_killed_at_every_durable_operation_it_ends_in_the_same_bytes(
    tmp_path: Path, tiny_model: Factory, wanted: dict[str, bytes]
) -> None:
    total = durable_operations(lambda: sample(tiny_model(), CONFIG, tmp_path / "count" / "a.npz"))
    assert total == 7  # the configuration, four shards, the record, the file
    for at in range(1, total + 1):
        folder, seen = tmp_path / str(at), 0
        folder.mkdir()

        def tick(path: Path, at: int = at) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Killed

        atomic.after_durable = tick
        try:
            with pytest.raises(Killed):
                sample(tiny_model(), CONFIG, folder / "a.npz")
        finally:
            atomic.after_durable = None
        (folder / ".a.npz.xyz.part").write_bytes(b"half a file")  # what a kill in the middle of a write leaves
        sample(tiny_model(), CONFIG, folder / "a.npz")
        left = contents(folder)
        if at == total:
            left.pop(".a.npz.xyz.part")  # the file was there already, nothing was swept
        assert left == wanted, at


def task(model: FlowModel, file: Path, number: int, of: int) -> None:
    """One task of a job array; only the last one writes the file."""
    with contextlib.suppress(ranks.ShareDone), ranks.acting_as(ranks.Ranks(number, of)):
        sample(model, CONFIG, file)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("last_first", [False, True])
def test_processes_that_share_the_work_make_the_same_file(
    tmp_path: Path, tiny_model: Factory, wanted: dict[str, bytes], world: int, last_first: bool
) -> None:
    order = range(world - 1, -1, -1) if last_first else range(world)
    for number in order:
        task(tiny_model(), tmp_path / "a.npz", number, world)
    assert contents(tmp_path) == wanted


def test_every_process_makes_its_own_share_only(
    tmp_path: Path, tiny_model: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(model: FlowModel, ids: np.ndarray, **settings: object) -> torch.Tensor:
        made.extend(ids.tolist())
        return final_states(model, ids, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("slowflow.evaluating.sampling.final_states", counted)
    for number in (2, 1):
        task(tiny_model(), tmp_path / "a.npz", number, 3)
    assert made == [*range(16, 24), *range(8, 16)]
    assert not (tmp_path / "a.npz").exists()
    sample(tiny_model(), CONFIG, tmp_path / "a.npz")
    assert sorted(made) == list(range(25))  # shards of the others are taken as they are


def test_a_process_sweeps_nothing_that_another_is_writing(tmp_path: Path, tiny_model: Factory) -> None:
    task(tiny_model(), tmp_path / "a.npz", 1, 2)
    unfinished = tmp_path / "a.npz.parts" / ".00000000.safetensors.xyz.part"
    unfinished.write_bytes(b"half a shard")
    task(tiny_model(), tmp_path / "a.npz", 1, 2)
    assert unfinished.exists()
    sample(tiny_model(), CONFIG, tmp_path / "a.npz")
    assert not (tmp_path / "a.npz.parts").exists()


@pytest.mark.full
def test_processes_at_the_same_time_end_in_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import contextlib, sys; from slowflow.evaluating.sampling import SampleConfig, sample; "
        "from slowflow.io.ranks import Ranks, ShareDone, acting_as; "
        "from slowflow.families.open import open_model; import torch; torch.set_num_threads(1)\n"
        "with contextlib.suppress(ShareDone), acting_as(Ranks(int(sys.argv[2]), int(sys.argv[3]))):\n"
        "    sample(open_model('digits-sit').model, SampleConfig(n=1500, steps=2), sys.argv[1])"
    )

    def start(out: Path, number: int, of: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script, str(out), str(number), str(of)])

    together = [start(tmp_path / "three" / "a.npz", number, 3) for number in range(3)]
    assert [one.wait() for one in together] == [0, 0, 0]
    assert start(tmp_path / "one" / "a.npz", 0, 1).wait() == 0
    for name in ("a.npz", "a.npz.json"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == ["a.npz", "a.npz.json"]


def test_a_damaged_shard_is_made_again(tmp_path: Path, tiny_model: Factory, wanted: dict[str, bytes]) -> None:
    task(tiny_model(), tmp_path / "a.npz", 1, 2)
    shard = next((tmp_path / "a.npz.parts").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:50])
    sample(tiny_model(), CONFIG, tmp_path / "a.npz")
    assert contents(tmp_path) == wanted


def test_another_shard_size_does_not_go_on_from_these(tmp_path: Path, tiny_model: Factory) -> None:
    task(tiny_model(), tmp_path / "a.npz", 1, 2)
    with pytest.raises(InputError, match="shard: 8 -> 5"):
        sample(tiny_model(), replace(CONFIG, shard=5), tmp_path / "a.npz")


def test_no_room_for_the_file_keeps_the_samples(
    tmp_path: Path, tiny_model: Factory, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        room = [10**9, 0]  # when the run begins, and when the file is written
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, room.pop(0)))  # type: ignore[attr-defined]
        with pytest.raises(EnvironmentProblem, match=r"needs 1,600 bytes and 0 are free"):
            sample(tiny_model(), CONFIG, tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()
    sample(tiny_model(), CONFIG, tmp_path / "a.npz")
    assert contents(tmp_path) == wanted


def test_labels_are_as_asked(tmp_path: Path, tiny_model: Factory) -> None:
    laws = {"balanced": 1.0, "random": 0.0, "3": 0.0}
    for law in laws:
        sample(tiny_model(), replace(CONFIG, n=200, shard=64, labels=law), tmp_path / f"{law}.npz")
    found = {law: archive.array(tmp_path / f"{law}.npz", "labels") for law in laws}
    np.testing.assert_array_equal(np.bincount(found["balanced"], minlength=10), np.full(10, 20))
    counts = np.bincount(found["random"], minlength=10)
    assert counts.std() > 0
    assert ((counts - 20) ** 2 / 20).sum() < 30  # chi-square of 9 degrees of freedom: 30 is beyond 0.999
    assert set(found["3"]) == {3}
    said = [json.loads((tmp_path / f"{law}.npz.json").read_text())["labels"] for law in laws]
    assert said == ["balanced: sample i has class i mod classes", "random: uniform over classes", "class 3 alone"]


def test_a_label_belongs_to_its_id_and_steers_the_sample(tmp_path: Path, tiny_model: Factory) -> None:
    ids = np.arange(40)
    np.testing.assert_array_equal(labels_by("random", ids, 10, 1)[17:], labels_by("random", ids[17:], 10, 1))
    sample(tiny_model(), replace(CONFIG, labels="3"), tmp_path / "a.npz")
    states = final_states(tiny_model(), np.arange(25), steps=3, labels=np.full(25, 3))
    np.testing.assert_array_equal(archive.array(tmp_path / "a.npz", "arr_0"), quantise(states))


def test_labels_that_cannot_be_are_refused(tmp_path: Path, tiny_model: Factory) -> None:
    with pytest.raises(InputError, match="10 classes"):
        sample(tiny_model(), replace(CONFIG, labels="10"), tmp_path / "a.npz")
    with pytest.raises(InputError, match="no classes"):
        sample(tiny_model(classes=0), replace(CONFIG, labels="random"), tmp_path / "a.npz")


def test_the_record_says_what_a_number_will_depend_on(tmp_path: Path, tiny_model: Factory) -> None:
    found = sample(tiny_model(), CONFIG, tmp_path / "a.npz", part="ema")
    told = json.loads((tmp_path / "a.npz.json").read_text())
    assert {key: told[key] for key in found["protocol"]} == found["protocol"]
    assert (told["ema"], told["dtype"], told["nfe"]) == ("EMA", "float64 network, float64 states", 3)
    assert {"torch", "numpy", "slowflow"} <= told["environment"].keys()
    assert not {"shard", "batch_size"} & told.keys()
