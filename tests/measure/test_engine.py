"""measure, end to end: kinds, shapes, exact resumption, refusals, and the zero of the instrument on a perfect model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slowflow.data.images import ImageSet
from slowflow.errors import ConfigMismatchError, DataError, InputError
from slowflow.flow.model import FlowModel
from slowflow.measuring import gamma
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

KINDS = ("model", *Probe().nulls)
SINGLES = ("own", "nearest", "level")
Factory = Callable[..., FlowModel]
PROBE = Probe(samples=60, steps=(10,), shard=32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Factory, images: ImageSet) -> Measurement:
    """A finished measurement of a model 10 % too slow; its folder must not be changed."""
    return measure(tiny_model(0.9), images, PROBE, tmp_path_factory.mktemp("measure") / "run", heldout=0.5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def copied(finished: Measurement, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / "copy"))


def test_every_kind_is_measured_under_every_reference(finished: Measurement) -> None:
    assert tuple(finished.kinds()) == KINDS
    assert finished.references == [*SINGLES, "clocks"]
    assert list(finished.readings()) == [*SINGLES, "signal clock", "noise clock"]
    for kind in KINDS:
        np.testing.assert_allclose(finished.array("t", kind), np.arange(1, 11) / 10, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(finished.array("ids", kind), np.arange(60))
        np.testing.assert_array_equal(finished.array("labels", kind), np.arange(60) % 10)
        for reference in SINGLES:
            for what in ("m", "residual", "boundary", "index"):
                assert finished.array(what, kind, reference=reference).shape == (60, 10)
    assert finished.array("final").shape == (60, 64)
    assert finished.array("kept").shape == (8, 10, 64)


def test_records_hold_every_state_once(finished: Measurement) -> None:
    table = finished.records()
    assert len(table) == len(KINDS) * 60 * 10 * 3
    keys = ["steps", "kind", "reference", "sample_id", "t"]
    assert not table.duplicated(keys).any()
    assert not table.isna().any(axis=None)


def test_the_winning_image_is_in_the_class_of_the_state(finished: Measurement) -> None:
    index = finished.array("index", "genuine", reference="nearest")
    assert index.min() >= 0
    assert index.max() < 15  # half of the 30 images of a class are in its shard


def test_the_summary_agrees_with_the_records(finished: Measurement) -> None:
    table = finished.summary("nearest")
    kinds = ("genuine", "exact", "coarse", "seen")
    expected = {"t", "residual", "boundary", "norm_ratio"}
    for kind in KINDS:
        expected |= {f"m_{kind}{end}" for end in ("", "_low", "_high", "_q05", "_q50", "_q95")}
    for kind in kinds:
        expected |= {f"excess_{kind}{end}" for end in ("", "_low", "_high")}
    assert set(table.columns) == expected
    rows = finished.records().query("reference == 'nearest'").groupby(["kind", "t"])["m"].mean()
    for kind in KINDS:
        np.testing.assert_allclose(table[f"m_{kind}"], rows[kind].to_numpy(), rtol=1e-12)
    for kind in kinds:
        np.testing.assert_allclose(table[f"excess_{kind}"], table["m_model"] - table[f"m_{kind}"], atol=1e-12)
        assert (table[f"excess_{kind}_low"] <= table[f"excess_{kind}"]).all()
        assert (table[f"excess_{kind}"] <= table[f"excess_{kind}_high"]).all()


def test_the_result_is_json_without_nan(finished: Measurement) -> None:
    answer = finished.result()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert set(answer["references"]) == {*SINGLES, "clocks"}
    assert answer["protocol"]["nfe"] == 10
    assert len(answer["references"]["own"]["m"]) == len(answer["references"]["own"]["t"]) == 10


def test_genuine_states_are_at_their_own_time_on_their_own_pair(finished: Measurement) -> None:
    m, t = finished.array("m", "genuine", reference="own"), finished.array("t", "genuine")
    np.testing.assert_allclose(m, np.broadcast_to(t, m.shape), rtol=0, atol=1e-9)


def test_the_search_engines_agree_and_say_so(finished: Measurement) -> None:
    facts = finished.facts["search"]["nearest"]
    assert 0.0 <= facts["certified"] <= 1.0
    assert facts.get("agreement", 1.0) == 1.0


def test_a_perfect_model_has_no_excess_over_genuine_states(
    tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    probe = Probe(samples=150, steps=(10,), references=("level",), nulls=("genuine", "exact"), shard=75)
    kinds = measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5).slack("level")
    perfect = {"level": {"model": kinds["exact"], "genuine": kinds["genuine"]}}
    found = gamma.fit(perfect, band_reference="level", excess_reference="level").estimates["excess_genuine"]
    assert not found.excludes(0.0)
    assert abs(found.value) < 0.05  # the interval must not be the reason


def test_a_slow_model_is_behind_a_fast_one(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    probe = Probe(samples=60, steps=(10,), references=("level",), nulls=("genuine",), shard=60)
    slow, fast = (measure(tiny_model(f), images, probe, tmp_path / str(f), heldout=0.5) for f in (0.85, 1.15))
    moved = gamma.change(slow.slack("level")["model"], fast.slack("level")["model"], slow.slack("level")["genuine"], 0)
    assert moved.high < 0.0  # paired by sample id, so 60 trajectories are enough


def test_a_run_that_was_cut_ends_in_the_same_bytes(
    finished: Measurement, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    folder, before = copied(finished, tmp_path), contents(finished.path)
    (folder / "manifest.json").unlink()
    sorted((folder / "shards").iterdir())[3].unlink()
    measure(tiny_model(0.9), images, PROBE, folder, heldout=0.5)
    assert contents(folder) == before


def test_a_finished_run_returns_at_once(
    finished: Measurement, tiny_model: Factory, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a finished run made states again")

    monkeypatch.setattr(Source, "make", never)
    again = measure(tiny_model(0.9), images, PROBE, finished.path, heldout=0.5)
    assert again.files == finished.files


@pytest.mark.parametrize("shard", [7, 60])
def test_the_shard_size_changes_no_number(
    finished: Measurement, tmp_path: Path, tiny_model: Factory, images: ImageSet, shard: int
) -> None:
    other = measure(tiny_model(0.9), images, replace(PROBE, shard=shard), tmp_path / "run", heldout=0.5)
    for kind in KINDS:
        for reference in SINGLES:
            a, b = (one.array("m", kind, reference=reference) for one in (finished, other))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)  # batched float64 products round differently


def test_another_configuration_is_refused_by_its_field(
    finished: Measurement, tiny_model: Factory, images: ImageSet
) -> None:
    with pytest.raises(ConfigMismatchError, match=r"probe\.seed: 0 -> 1"):
        measure(tiny_model(0.9), images, replace(PROBE, seed=1), finished.path, heldout=0.5)
    with pytest.raises(ConfigMismatchError, match="model"):
        measure(tiny_model(0.9, name="other"), images, PROBE, finished.path, heldout=0.5)


def damaged(finished: Measurement, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the run with one bit of one number of one shard changed."""
    folder = copied(finished, tmp_path)
    shard = sorted((folder / "shards").iterdir())[0]
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1
    shard.write_bytes(bytes(raw))
    return folder, shard


def test_a_damaged_shard_is_refused(finished: Measurement, tmp_path: Path) -> None:
    folder, shard = damaged(finished, tmp_path)
    with pytest.raises(InputError, match=f"{shard.name}' is missing or damaged"):
        Measurement.load(folder)
    shard.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        Measurement.load(folder)


def test_measuring_again_repairs_a_damaged_shard(
    finished: Measurement, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    folder, _ = damaged(finished, tmp_path)
    measure(tiny_model(0.9), images, PROBE, folder, heldout=0.5)  # what the message above tells the user to do
    assert contents(folder) == contents(finished.path)


def test_an_unfinished_run_cannot_be_loaded(finished: Measurement, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        Measurement.load(folder)


def test_several_step_counts_and_guidance_are_measured(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    probe = Probe(samples=20, steps=(4, 8), guidance=1.5, references=("own",), nulls=("genuine",), shard=20)
    found = measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5)
    assert found.steps == [4, 8]
    assert found.facts["nfe"] == {"4": 8, "8": 16}  # two calls a step under guidance
    assert found.array("m", reference="own", steps=8).shape == (20, 8)
    assert len(found.summary("own", steps=8)) == 8
    plain = measure(tiny_model(), images, replace(probe, guidance=1.0), tmp_path / "plain", heldout=0.5)
    assert np.abs(plain.array("final") - found.array("final")).max() > 0.05


def test_the_first_samples_do_not_depend_on_how_many_are_asked_for(
    finished: Measurement, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    few = measure(tiny_model(0.9), images, replace(PROBE, samples=20), tmp_path / "run", heldout=0.5)
    for kind in KINDS:
        a, b = (one.array("m", kind, reference="nearest")[:20] for one in (finished, few))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)  # batched float64 products round differently


def test_an_unconditional_model_uses_one_bank_for_all_classes(
    tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    probe = Probe(samples=20, steps=(4,), shard=20)
    found = measure(tiny_model(classes=0), images, probe, tmp_path / "run", heldout=0.5)
    assert found.array("index", "genuine", reference="nearest").max() >= 15
    np.testing.assert_array_equal(found.array("labels"), np.zeros(20))


def test_data_of_another_shape_are_refused(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    small = ImageSet("small", images.data[:, :, :4, :4], images.labels, 10)
    with pytest.raises(InputError, match=r"\(1, 4, 4\).*\(1, 8, 8\)"):
        measure(tiny_model(), small, PROBE, tmp_path / "run")


def test_a_missing_class_is_refused_by_name(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    some = images.take(np.flatnonzero(images.labels.numpy() != 3), "no threes")
    with pytest.raises(DataError, match="first: 3"):
        measure(tiny_model(), some, PROBE, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 1}, "samples is 1"),
        ({"steps": (0,)}, "intervals between"),
        ({"steps": ()}, "steps"),
        ({"steps": (5, 5)}, "twice"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": -1.0}, "guidance"),
        ({"shift": 0.0}, "shift"),
        ({"shard": 0}, "shard"),
        ({"nulls": ("finest",)}, "unknown null 'finest'"),
        ({"references": ()}, "no reference"),
    ],
)
def test_a_probe_refuses_values_that_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Probe(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"references": ("closest",)}, "unknown reference 'closest'"),
        ({"sampler": "rk9"}, "unknown sampler 'rk9'"),
        ({"backend": "annoy"}, "unknown search backend"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    tmp_path: Path, tiny_model: Factory, images: ImageSet, settings: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        measure(tiny_model(), images, replace(PROBE, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("heldout", [0.0, 1.0, -0.2])
def test_a_heldout_share_outside_zero_and_one_is_refused(
    tmp_path: Path, tiny_model: Factory, images: ImageSet, heldout: float
) -> None:
    with pytest.raises(InputError, match="heldout"):
        measure(tiny_model(), images, PROBE, tmp_path / "run", heldout=heldout)


def test_nulls_copied_from_another_model_are_the_ones_it_would_have_made(
    tmp_path: Path, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> None:
    probe = Probe(samples=12, steps=3, shard=6)
    first = measure(tiny_model(), images, probe, tmp_path / "first")
    alone = measure(tiny_model(0.9), images, probe, tmp_path / "alone", model_id={"name": "slow"})
    copied = measure(
        tiny_model(0.9), images, probe, tmp_path / "copied", model_id={"name": "slow"}, nulls_from=first.path
    )
    for name in alone.files:
        assert (alone.path / name).read_bytes() == (copied.path / name).read_bytes(), name
