"""evaluate and sample, end to end: paired differences, exact resumption, files that say how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slowflow.data.images import ImageSet
from slowflow.errors import ConfigMismatchError, DataError, InputError
from slowflow.evaluating import frechet, parts
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.evaluation import Evaluation, label
from slowflow.evaluating.features import Features, Outputs, open_features
from slowflow.evaluating.filed import evaluate_file
from slowflow.evaluating.moments import moments
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.flow.generate import final_states
from slowflow.flow.model import FlowModel
from slowflow.io import checkpoint

Factory = Callable[..., FlowModel]
PIXELS = Features("FD-pixels")
SAMPLING = Sampling(samples=60, steps=(2, 8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Factory, images: ImageSet) -> Evaluation:
    """A finished evaluation; its folder must not be changed."""
    return evaluate(tiny_model(), images, PIXELS, SAMPLING, tmp_path_factory.mktemp("evaluate") / "run", heldout=0.5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_metrics_stand_beside_interval_and_protocol(finished: Evaluation) -> None:
    answer = json.loads(json.dumps(finished.result(), allow_nan=False))
    assert set(answer["by_steps"]) == {"2", "8"}
    for steps, one_count in answer["by_steps"].items():
        # pixels know no classes, so no agreement and no score; 60 samples are too few to extrapolate in 64 dimensions
        assert set(one_count["metrics"]) == {"fd", "kid", "precision", "recall", "density", "coverage"}
        assert one_count["labels"]["kid"] == "KD-pixels"
        for one in one_count["metrics"].values():
            assert one["low"] - 1e-12 <= one["value"] <= one["high"] + 1e-12  # recentring rounds
            assert one["n"] == 60
        protocol = one_count["protocol"]
        assert (protocol["n"], protocol["n_real"], protocol["nfe"]) == (60, 60, int(steps))
        assert protocol["features"]["name"] == "FD-pixels"
        assert (protocol["ema"], protocol["dtype"]) == ("as stored", "float64 network, float64 states")
        assert {"slowflow", "torch", "numpy"} <= protocol["versions"].keys()
    assert answer["metrics"] == answer["by_steps"]["8"]["metrics"]
    assert 0.5 < answer["memorisation"]["ratio"] < 3.0


def test_the_estimate_is_the_frechet_distance_of_the_samples(
    finished: Evaluation, tiny_model: Factory, images: ImageSet
) -> None:
    states = final_states(tiny_model(), np.arange(60), steps=8)
    levels = torch.floor((states.clamp(-1, 1) + 1) * 127.5 + 0.5) / 127.5 - 1
    held = images.split(0.5)[1]
    rows = np.concatenate([np.flatnonzero(held.labels.numpy() == c)[:6] for c in range(10)])  # 60 of them, balanced
    a, b = levels.flatten(1).double().numpy(), held.data[rows].flatten(1).double().numpy()
    found = frechet.distance(moments(a), moments(b))
    assert finished.estimate("fd", 8).value == pytest.approx(found, rel=1e-5)  # pixels are float32


def test_equal_models_differ_by_exactly_zero(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    twin = evaluate(tiny_model(name="twin"), images, PIXELS, SAMPLING, tmp_path / "run", heldout=0.5)
    for metric in finished.metrics:
        for steps in finished.steps:
            found = twin.difference(finished, metric, steps)
            assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_worse_model_is_worse_and_the_difference_is_antisymmetric(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    worse = evaluate(tiny_model(0.6), images, PIXELS, SAMPLING, tmp_path / "run", heldout=0.5)
    for metric, sign in (("fd", 1), ("coverage", -1)):
        found, back = worse.difference(finished, metric, 8), finished.difference(worse, metric, 8)
        assert sign * found.value > 0
        assert found.excludes(0.0)
        assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"seed": 1}, "seed"), ({"samples": 50}, "n"), ({"sampler": "heun"}, "nfe"), ({"guidance": 2.0}, "nfe")],
)
def test_unlike_protocols_are_not_compared(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet, changes: dict, field: str
) -> None:
    other = evaluate(tiny_model(), images, PIXELS, replace(SAMPLING, **changes), tmp_path / "run", heldout=0.5)
    with pytest.raises(InputError, match=f"differ in {field}"):
        finished.difference(other, "fd", 8)


def test_a_run_that_was_cut_ends_in_the_same_bytes(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    folder = Path(shutil.copytree(finished.path, tmp_path / "copy"))
    (folder / "manifest.json").unlink()
    (folder / "features" / "00008.safetensors").unlink()
    evaluate(tiny_model(), images, PIXELS, SAMPLING, folder, heldout=0.5)
    assert contents(folder) == contents(finished.path)


def test_a_finished_run_returns_at_once(
    finished: Evaluation, tiny_model: Factory, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished run made samples again")

    monkeypatch.setattr(parts, "final_states", never)
    assert evaluate(tiny_model(), images, PIXELS, SAMPLING, finished.path, heldout=0.5).steps == [2, 8]


def damaged(finished: Evaluation, tmp_path: Path) -> Path:
    """A copy of the run with one bit of one feature changed."""
    folder = Path(shutil.copytree(finished.path, tmp_path / "copy"))
    path = folder / "features" / "00002.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(bytes(raw))
    return folder


def test_damaged_features_are_refused(finished: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"00002\.safetensors' is missing or damaged"):
        Evaluation.load(damaged(finished, tmp_path))


def test_evaluating_again_repairs_damaged_features(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    folder = damaged(finished, tmp_path)
    evaluate(tiny_model(), images, PIXELS, SAMPLING, folder, heldout=0.5)  # what the message above tells the user to do
    assert contents(folder) == contents(finished.path)


def test_known_samples_give_the_same_features(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {steps: final_states(tiny_model(), np.arange(60), steps=steps).flatten(1).numpy() for steps in (2, 8)}
    monkeypatch.setattr(parts, "final_states", None)  # the known ones must be enough
    evaluate(tiny_model(), images, PIXELS, SAMPLING, tmp_path / "run", heldout=0.5, known=known)
    assert contents(tmp_path / "run") == contents(finished.path)


def test_another_configuration_is_refused(finished: Evaluation, tiny_model: Factory, images: ImageSet) -> None:
    with pytest.raises(ConfigMismatchError, match=r"sampling\.seed: 0 -> 3"):
        evaluate(tiny_model(), images, PIXELS, replace(SAMPLING, seed=3), finished.path, heldout=0.5)


def test_data_of_another_shape_are_refused(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    small = ImageSet("small", images.data[:, :, :4, :4], images.labels, 10)
    with pytest.raises(InputError, match=r"\(1, 4, 4\)"):
        evaluate(tiny_model(), small, PIXELS, SAMPLING, tmp_path / "run")


@pytest.mark.parametrize("settings", [{"samples": 1}, {"steps": ()}, {"steps": (0,)}])
def test_sampling_refuses_values_that_cannot_be(settings: dict) -> None:
    with pytest.raises(InputError):
        Sampling(**settings)


@pytest.mark.parametrize("classes", [10, 0])
def test_the_reference_shows_every_class_whatever_the_order_of_the_data(
    tmp_path: Path, tiny_model: Factory, images: ImageSet, classes: int
) -> None:
    ordered = images.take(np.argsort(images.labels.numpy(), kind="stable"), "sorted")  # as a folder of classes is read
    found = evaluate(
        tiny_model(classes=classes), ordered, PIXELS, Sampling(samples=20, steps=(2,)), tmp_path / "run", heldout=0.5
    )
    real = checkpoint.load(found.path / "features" / "real.safetensors").tensors["labels"]
    assert torch.bincount(real, minlength=10).tolist() == [2] * 10


def test_a_file_of_samples_is_evaluated_like_the_model_that_made_it(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    sample(tiny_model(), SampleConfig(n=60, steps=8), tmp_path / "made.npz")
    found = evaluate_file(tmp_path / "made.npz", images, PIXELS, tmp_path / "run", heldout=0.5)
    assert found.steps == [8]
    for metric in finished.metrics:
        assert found.estimate(metric, 8) == finished.estimate(metric, 8)
        assert found.difference(finished, metric, 8).value == 0.0
    assert found.facts["nfe"] == {"8": 8}


def test_a_foreign_file_is_evaluated_without_knowing_its_steps(tmp_path: Path, images: ImageSet) -> None:
    levels = np.random.default_rng(0).integers(0, 256, size=(20, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "foreign.npz", arr_0=levels)
    found = evaluate_file(tmp_path / "foreign.npz", images, PIXELS, tmp_path / "run", heldout=0.5)
    assert (found.steps, found.facts["nfe"]) == ([0], {"0": 0})
    assert found.estimate("coverage", 0).value < 0.5  # noise covers no image
    with pytest.raises(InputError, match="samples of shape"):
        evaluate_file(
            tmp_path / "foreign.npz", ImageSet("s", images.data[:, :, :4], images.labels, 10), PIXELS, tmp_path / "b"
        )
    with pytest.raises(DataError, match="no data set"):
        evaluate_file(tmp_path / "missing.npz", images, PIXELS, tmp_path / "c")


def test_features_are_opened_by_name_or_refused() -> None:
    assert open_features("pixels", (1, 8, 8)) == PIXELS
    with pytest.raises(InputError, match="no features 'inception'"):
        open_features("inception", (1, 8, 8))


def test_averaged_and_raw_weights_are_not_compared_unless_the_file_does_not_say(
    tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    run = {
        part: evaluate(tiny_model(), images, PIXELS, SAMPLING, tmp_path / part, heldout=0.5, part=part)
        for part in ("ema", "model", "flat")
    }
    assert [run[part].protocol(8)["ema"] for part in run] == ["EMA", "raw weights", "as stored"]
    with pytest.raises(InputError, match="differ in ema: EMA and raw weights"):
        run["ema"].difference(run["model"], "fd", 8)
    assert run["ema"].difference(run["flat"], "fd", 8).value == 0.0


def test_fid_is_the_name_of_one_networks_distance_alone() -> None:
    metrics = ("fd", "sfd", "kid", "is", "recall")
    assert [label(m, "FID") for m in metrics] == ["FID", "sFID", "KID", "IS", "recall"]
    assert [label(m, "FD-mnist") for m in metrics] == ["FD-mnist", "sFD-mnist", "KD-mnist", "IS-mnist", "recall"]
    assert [label(m, "FD-inception") for m in metrics][:3] == ["FD-inception", "sFD-inception", "KD-inception"]


def test_the_share_of_fd_that_n_makes_is_given_or_said_to_be_untold(
    finished: Evaluation, tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    answer = finished.result()
    assert "fd_infinity" not in answer["metrics"]
    assert answer["notes"] == ["n = 60 is too small beside 64 features to tell how much of FD is there because of n"]
    narrow = Features("FD-narrow", "0", lambda some: Outputs(some.flatten(1)[:, ::16]))
    sampling = Sampling(samples=150, steps=(8,))
    answer = evaluate(tiny_model(), images, narrow, sampling, tmp_path / "run", heldout=0.5).result()
    assert answer["notes"] == []
    assert answer["metrics"]["fd_infinity"]["low"] < answer["metrics"]["fd"]["value"]


def test_disk_space_of_features_is_known_beforehand(finished: Evaluation) -> None:
    files = [finished.path / "features" / name for name in ("real.safetensors", "00002.safetensors")]
    held = sum(file.stat().st_size for file in files)
    assert PIXELS.bytes(2, 60, (1, 8, 8)) == pytest.approx(held, rel=0.05)  # beside the headers


def test_very_few_samples_leave_metrics_out_and_make_no_nan(
    tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    found = evaluate(tiny_model(), images, PIXELS, replace(SAMPLING, samples=3), tmp_path / "run", heldout=0.5)
    assert "kid" not in found.all_metrics
    assert np.isfinite([value for one in found.result()["metrics"].values() for value in one.values()]).all()
