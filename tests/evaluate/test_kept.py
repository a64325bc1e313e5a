"""Features are kept on the way: a killed evaluation makes no part twice and ends in the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowflow.data.images import ImageSet
from slowflow.evaluating import kept
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import Features, Outputs, open_features
from slowflow.evaluating.filed import evaluate_file
from slowflow.evaluating.kept import kept_features
from slowflow.evaluating.sampling import SampleConfig, sample
from slowflow.flow.model import FlowModel

Factory = Callable[..., FlowModel]


class Killed(BaseException):
    """As if the process had gone."""


class Counting:
    """Means of rows as features; counts what it is shown and dies at an image that is given."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.shown, self.dies_at = 0, dies_at

    def __call__(self, images: torch.Tensor) -> Outputs:
        if self.dies_at is not None and self.shown + len(images) > self.dies_at:
            raise Killed
        self.shown += len(images)
        return Outputs(images.mean(dim=2).flatten(1), images.mean(dim=3).flatten(1))

    @property
    def features(self) -> Features:
        return Features("FD-means", "0" * 64, self)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_set_in_parts_is_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, images = open_features("fd-mnist", (1, 28, 28)), torch.rand(11, 1, 28, 28)
    whole = found.outputs(images)
    monkeypatch.setattr(kept, "PART", 4)
    seen: list[int] = []
    for _ in range(2):  # made, then read
        parts = kept_features(tmp_path, "real", found, images.split(2), 11, seen.append)
        assert parts.keys() == whole.keys()
        np.testing.assert_allclose(parts["features"], whole["features"], rtol=1e-4, atol=1e-5)
    assert seen == [2, 4, 6, 8, 10, 11] * 2
    assert len(list((tmp_path / "parts").iterdir())) == 3
    assert kept_features(tmp_path, "none", found, (), 0) == {}


def test_a_set_of_one_part_is_not_kept_twice(tmp_path: Path) -> None:
    kept_features(tmp_path, "real", Counting().features, torch.rand(9, 1, 4, 4).split(2), 9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["cut", "short"])
def test_a_damaged_part_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.setattr(kept, "PART", 4)
    images = torch.rand(8, 1, 4, 4)
    wanted = kept_features(tmp_path, "real", Counting().features, images.split(2), 8)
    first, second = sorted((tmp_path / "parts").iterdir())
    if harm == "cut":
        first.write_bytes(first.read_bytes()[:-9])
    else:
        kept_features(tmp_path, "other", Counting().features, images[:6].split(2), 6)
        shutil.copy(tmp_path / "parts" / "features-other-00000004.safetensors", second)
    again = Counting()
    found = kept_features(tmp_path, "real", again.features, images.split(2), 8)
    assert again.shown == 4
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def judged(how: str, net: Counting, model: FlowModel, images: ImageSet, out: Path) -> None:
    if how == "model":
        evaluate(model, images, net.features, Sampling(samples=30, steps=(2, 3)), out / "run", heldout=0.5)
        return
    if not (out / "a.npz").exists():
        sample(model, SampleConfig(n=30, steps=2), out / "a.npz")
    evaluate_file(out / "a.npz", images, net.features, out / "run", heldout=0.5)


@pytest.mark.parametrize(("how", "sets"), [("model", 3), ("file", 2)])
def test_a_killed_evaluation_makes_no_part_twice_and_ends_in_the_same_bytes(
    tmp_path: Path, tiny_model: Factory, images: ImageSet, monkeypatch: pytest.MonkeyPatch, how: str, sets: int
) -> None:
    monkeypatch.setattr(kept, "PART", 8)
    for place in ("reference", "engine"):
        monkeypatch.setattr(f"slowflow.evaluating.{place}.ROWS", 4)
    whole = Counting()
    judged(how, whole, tiny_model(), images, tmp_path / "whole")
    asked = 1 if how == "model" else 2  # `bytes` asks the network about one image before the run
    assert whole.shown <= 30 * sets + asked
    for at in (3, 18, 41, 30 * sets):
        folder, first, second = tmp_path / str(at), Counting(dies_at=at), Counting()
        with pytest.raises(Killed):
            judged(how, first, tiny_model(), images, folder)
        judged(how, second, tiny_model(), images, folder)
        assert first.shown + second.shown <= whole.shown + 8 + asked  # at most the part at hand was lost
        assert contents(folder / "run") == contents(tmp_path / "whole" / "run")
        assert not (folder / "run" / "parts").exists()
