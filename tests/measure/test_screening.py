"""Bad input gets a named warning or a refusal, never a silent number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.measuring import search
from slowflow.measuring.engine import measure
from slowflow.measuring.screening import level_information, level_warning, screened
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

Factory = Callable[..., FlowModel]
PROBE = Probe(samples=40, steps=5, references=("nearest", "level"), nulls=("genuine",), shard=40)


def halves(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    return images.split(0.5)


def with_rows(images: ImageSet, rows: torch.Tensor) -> ImageSet:
    return replace(images, data=rows)


def test_sound_data_pass_without_a_word(images: ImageSet) -> None:
    bank, held = halves(images)
    kept, warnings = screened(bank, held, 0, 0)
    assert kept is bank
    assert warnings == []


def test_duplicates_are_named(images: ImageSet) -> None:
    bank, held = halves(images)
    rows = bank.data.clone()
    rows[3] = rows[5] = rows[7]
    _, warnings = screened(with_rows(bank, rows), held, 0, 0)
    assert warnings == ["duplicates: 2 of 150 images of 'waves/train' occur more than once"]


def test_held_out_images_in_the_bank_are_named(images: ImageSet) -> None:
    bank, held = halves(images)
    rows = bank.data.clone()
    rows[0] = held.data[4]
    _, warnings = screened(with_rows(bank, rows), held, 0, 0)
    assert len(warnings) == 1
    assert warnings[0].startswith("leak: 1 images are both in the bank and held out")


def test_constant_images_are_named_and_data_without_any_difference_refused(images: ImageSet) -> None:
    bank, held = halves(images)
    rows = bank.data.clone()
    rows[:3] = torch.tensor([0.1, 0.2, 0.3])[:, None, None, None]
    _, warnings = screened(with_rows(bank, rows), held, 0, 0)
    assert warnings == ["constant images: 3 of 150 images of 'waves/train' have one value everywhere"]
    with pytest.raises(DataError, match="are the same; there is no spectrum"):
        screened(with_rows(bank, torch.zeros_like(rows)), held, 0, 0)


def test_a_bank_smaller_than_asked_is_named_and_a_larger_one_is_cut_class_by_class(images: ImageSet) -> None:
    bank, held = halves(images)
    kept, warnings = screened(bank, held, 200, 0)
    assert len(kept) == 150
    assert warnings == ["small bank: 200 images were asked for and 'waves/train' holds 150"]
    cut, none = screened(bank, held, 60, 0)
    assert none == []
    assert torch.bincount(cut.labels).tolist() == [6] * 10
    again, _ = screened(bank, held, 60, 0)
    assert again.fingerprint == cut.fingerprint
    other, _ = screened(bank, held, 60, 1)
    assert other.fingerprint != cut.fingerprint


def test_the_information_of_the_level_is_that_of_the_likelihood() -> None:
    """Closed form for equal variances s^2: d/2 (v'/v)^2; it grows with d, so few dimensions cannot tell the time."""
    rows = 0.5 * np.random.default_rng(0).normal(size=(40_000, 8))
    bank, t = Bank({0: rows}, "flat", "0"), np.array([0.3, 0.6, 0.9])
    v, slope = t**2 * 0.25 + (1 - t) ** 2, 2 * (0.25 * t - (1 - t))
    found = level_information(bank, interpolant("linear"), torch.from_numpy(t))
    np.testing.assert_allclose(found, 4 * (slope / v) ** 2, rtol=0.05)  # variances from 20,000 rows


def test_too_few_dimensions_are_named() -> None:
    draw, t = np.random.default_rng(0), torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    few = level_warning(Bank({0: draw.normal(size=(500, 2))}, "few", "0"), interpolant("linear"), t)
    assert len(few) == 1
    assert few[0].startswith("level not identified: 2 dimensions")
    many = draw.normal(size=(500, 256)) / np.sqrt(np.arange(1, 257))
    assert level_warning(Bank({0: many}, "many", "0"), interpolant("linear"), t) == []


def test_whitened_data_on_a_variance_preserving_path_are_named() -> None:
    rows = np.random.default_rng(0).normal(size=(4000, 64))
    found = level_warning(
        Bank({0: rows}, "white", "0"), interpolant("gvp"), torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    )
    assert found
    assert "level not identified" in found[0]


def test_warnings_reach_the_fit_and_its_json(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    rows = images.data.clone()
    rows[10] = rows[0]
    found = measure(tiny_model(), with_rows(images, rows), replace(PROBE, bank=1000), tmp_path / "run", heldout=0.5)
    warnings = found.suggest().warnings
    assert any(w.startswith("small bank: 1000") for w in warnings)
    assert any(w.startswith(("duplicates: 1", "leak: 1")) for w in warnings)
    assert any("small bank" in w for w in found.result()["gamma"]["warnings"])


def test_all_times_at_the_boundary_are_named(tmp_path: Path, images: ImageSet) -> None:
    """A model that never moves: under its own noise every state is nearest to m = 0."""
    still = FlowModel.from_callable(lambda x, t, c: 0 * x, shape=(1, 8, 8), classes=10, name="still")
    probe = replace(PROBE, references=("nearest", "level", "clocks"))
    warnings = measure(still, images, probe, tmp_path / "run", heldout=0.5).suggest().warnings
    assert any(w.startswith("at the boundary: 100% of all m under 'nearest'") for w in warnings)


def test_no_class_in_common_is_refused(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    part = images.take(np.flatnonzero(images.labels.numpy() < 4), "four")
    with pytest.raises(DataError, match="no image of 6 of the model's 10 classes"):
        measure(tiny_model(), part, PROBE, tmp_path / "run")


def test_an_approximate_index_is_never_the_default_and_says_what_it_costs(
    tmp_path: Path, tiny_model: Factory, images: ImageSet
) -> None:
    pytest.importorskip("faiss")
    assert search.backend("auto", interpolant("linear")) == "faiss"
    with pytest.raises(InputError, match="searches straight paths only"):
        search.backend("approximate", interpolant("gvp"))
    found = measure(tiny_model(), images, replace(PROBE, backend="approximate"), tmp_path / "run", heldout=0.5)
    facts = found.facts["search"]["nearest"]
    assert {"recall", "signed_error_in_m"} <= facts.keys()
    assert "agreement" not in facts
    assert 0.0 <= facts["recall"] <= 1.0
    assert any("searched approximately" in w for w in found.suggest().warnings)


def test_an_approximate_index_shifts_m_itself() -> None:
    """Missed neighbours do not cancel: the error in m has a sign. This is why it is no default."""
    pytest.importorskip("faiss")
    draw, path = np.random.default_rng(0), interpolant("linear")
    rows, noise = 0.5 * draw.normal(size=(3000, 128)), draw.normal(size=(80, 128))
    state = 0.5 * rows[:80] + 0.5 * noise + 0.2 * draw.normal(size=(80, 128))
    exact, rough = (search.nearest(state, noise, rows, path, engine) for engine in ("torch", "approximate"))
    missed = rough.index != exact.index
    assert missed.any()
    assert (rough.closest.distance >= exact.closest.distance - 1e-12).all()  # never better than the exact search
    assert rough.certified == 0.0


def test_a_null_has_the_model_s_mix_of_classes(images: ImageSet, tiny_model: Factory) -> None:
    """Uneven classes: whole rounds over the classes only, because another mix has another zero."""
    uneven = images.take(
        np.concatenate([np.flatnonzero(images.labels.numpy() == c)[: 30 - 2 * c] for c in range(10)]), "u"
    )
    seen, held = uneven.split(0.5)
    ids = Source(tiny_model(), held, seen, Probe(samples=200)).ids("genuine")
    assert np.bincount(ids % 10).tolist() == [int(torch.bincount(held.labels).min())] * 10


def test_a_bank_that_cannot_hold_every_class_is_refused(images: ImageSet) -> None:
    with pytest.raises(DataError, match="a bank of 15 images is too small for 10 classes"):
        screened(*halves(images), 15, 0)


@pytest.mark.parametrize("settings", [{"nulls": ("genuine", "genuine")}, {"measures": ("norms", "norms")}])
def test_a_kind_named_twice_is_refused(settings: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InputError, match="name one twice"):
        Probe(**settings)
