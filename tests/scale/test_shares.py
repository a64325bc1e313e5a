"""The same numbers for any number of ranks and any batch size: measuring, sampling, encoding, evaluating."""

import json
from pathlib import Path

import numpy as np
import pytest

from slowflow.codecs import open_codec
from slowflow.codecs.encoding import EncodeConfig, encode_folder
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import open_features
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.io import ranks
from slowflow.io.ranks import Ranks, ShareDone
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.records import Probe


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tasks(world, work, order=None):
    """The tasks of a job array one after the other; all but the last say that others have not made their share."""
    for k, rank in enumerate(order or range(world)):
        with ranks.acting_as(Ranks(rank, world)):
            if k < world - 1:
                with pytest.raises(ShareDone):
                    work()
            else:
                work()


@pytest.fixture
def jobs(tiny_model, images):
    """name -> (out -> what makes it): the four kinds of work that ranks share."""
    probe = Probe(samples=30, steps=(3,), references=("own",), nulls=("genuine",), shard=6)
    return {
        "measure": lambda out: measure(tiny_model(0.9), images, probe, out / "run", heldout=0.3),
        "evaluate": lambda out: evaluate(
            tiny_model(),
            images,
            open_features("pixels", (1, 8, 8)),
            Sampling(samples=60, steps=(2, 3)),
            out / "run",
            heldout=0.5,
        ),
        "sample": lambda out: sample(tiny_model(), SampleConfig(n=33, steps=3, shard=5), out / "x.npz", pixels=False),
        "encode": lambda out: encode_folder(
            photos(out.parent), open_codec("pixels"), EncodeConfig(size=8, shard=3, flips=True), out / "run"
        ),
    }


def photos(folder: Path) -> Path:
    from PIL import Image

    for k in range(8):
        file = folder / "photos" / f"class{k % 2}" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(file)
    return folder / "photos"


@pytest.mark.parametrize("what", ["measure", "evaluate", "sample", "encode"])
@pytest.mark.parametrize(("world", "order"), [(2, (1, 0)), (3, (2, 0, 1))])
def test_a_job_array_ends_in_the_bytes_of_one_process(tmp_path, jobs, what, world, order, monkeypatch):
    monkeypatch.setattr("slowflow.evaluating.parts.SIZE", 7)
    jobs[what](tmp_path / "one")
    tasks(world, lambda: jobs[what](tmp_path / "many"), order)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("what", ["measure", "evaluate", "sample", "encode"])
def test_a_run_that_lost_tasks_is_finished_by_another_number_of_them(tmp_path, jobs, what, monkeypatch):
    monkeypatch.setattr("slowflow.evaluating.parts.SIZE", 7)
    jobs[what](tmp_path / "one")
    with ranks.acting_as(Ranks(1, 3)), pytest.raises(ShareDone):
        jobs[what](tmp_path / "many")
    made = {name: p.stat().st_mtime_ns for p in (tmp_path / "many").rglob("*.safetensors") for name in [str(p)]}
    assert made
    with ranks.acting_as(Ranks(0, 2)), pytest.raises(ShareDone):
        jobs[what](tmp_path / "many")
    still = {str(p): p.stat().st_mtime_ns for p in (tmp_path / "many").rglob("*.safetensors")}
    assert len(still) > len(made)
    assert all(still[name] == when for name, when in made.items())  # nothing is made twice
    jobs[what](tmp_path / "many")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def numbers(value, where=""):
    """Every number in a result, by place."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in numbers(item, f"{where}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in numbers(item, f"{where}/{i}").items()}
    return {where: float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def agree(one: Measurement, other: Measurement) -> None:
    """m of every state, excess, gamma and all other numbers to 1e-6; signs and verdict equal."""
    for name in one.singles:
        np.testing.assert_allclose(one.array("m", reference=name), other.array("m", reference=name), rtol=0, atol=1e-6)
    mine, theirs = (numbers(found.result()) for found in (one, other))
    kept = {place for place in mine if not place.startswith(("/protocol", "/search"))}
    assert kept <= theirs.keys()
    assert len(kept) > 50
    for place in kept:
        assert mine[place] == pytest.approx(theirs[place], rel=0, abs=1e-6), place
        assert np.sign(round(mine[place], 9)) == np.sign(round(theirs[place], 9)), place
    assert one.suggest().verdict == other.suggest().verdict


def test_statistics_do_not_depend_on_the_batch(tmp_path, tiny_model, images):
    def measured(shard):
        probe = Probe(samples=40, steps=(3,), references=("nearest",), nulls=("genuine",), shard=shard)
        return measure(tiny_model(0.9), images, probe, tmp_path / f"{shard}", heldout=0.3)

    whole = measured(64)
    for size in (1, 7):
        agree(measured(size), whole)


@pytest.mark.full
def test_a_real_network_measures_the_same_in_every_batch_and_world(tmp_path):
    from slowflow.data.open import open_data
    from slowflow.families.open import open_model

    model, data = open_model("digits-sit").model, open_data("digits")

    def measured(shard, world=1):
        probe, out = Probe(samples=64, steps=(5,), shard=shard), tmp_path / f"{shard}-{world}"
        if world > 1:
            tasks(world, lambda: measure(model, data, probe, out))
        return measure(model, data, probe, out)

    whole = measured(64)
    for shard in (1, 3, 8, 17, 32):
        agree(measured(shard), whole)
    for world in (2, 3):
        agree(measured(8, world), whole)
        assert contents(tmp_path / f"8-{world}") == contents(tmp_path / "8-1")


def test_arms_of_evaluations_have_the_same_metrics_in_every_world(tmp_path, jobs, monkeypatch):
    # parts of another size are another batch: features differ by rounding at most
    jobs["evaluate"](tmp_path / "one")
    monkeypatch.setattr("slowflow.evaluating.parts.SIZE", 11)
    tasks(3, lambda: jobs["evaluate"](tmp_path / "many"))
    told = [json.loads((tmp_path / n / "run/manifest.json").read_text())["result"]["summary"] for n in ("one", "many")]
    mine, theirs = map(numbers, told)
    assert mine.keys() == theirs.keys()
    assert all(mine[place] == pytest.approx(theirs[place], rel=0, abs=1e-6) for place in mine)
