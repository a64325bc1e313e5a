"""Ground truth: what an ImageSet refuses, how it is split, and every form `open_data` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.errors import DataError

LEVELS = np.random.default_rng(0).integers(0, 256, size=(6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def image_set(n: int = 4, classes: int = 2, **changes: object) -> ImageSet:
    content = {"data": torch.zeros(n, 1, 4, 4), "labels": torch.arange(n) % max(classes, 1), **changes}
    return ImageSet("set", classes=classes, **content)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_item(bad: float) -> None:
    data = torch.zeros(4, 1, 4, 4)
    data[2, 0, 1, 3] = bad
    with pytest.raises(DataError, match="item 2 of 'set'"):
        image_set(data=data)


@pytest.mark.parametrize("labels", [[0, 1, 2, 0], [0, -1, 0, 0]])
def test_labels_out_of_range_are_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match="expected 0 to 1"):
        image_set(labels=torch.tensor(labels))


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="4 items but 3 labels"):
        image_set(labels=torch.tensor([0, 1, 0]))


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        image_set(n=0)


def test_the_fingerprint_knows_values_labels_and_shape() -> None:
    base = image_set()
    data = base.data.clone()
    data[0, 0, 0, 0] = 1e-6
    others = [
        image_set(data=data),
        image_set(labels=torch.tensor([1, 0, 1, 0])),
        image_set(data=torch.zeros(4, 4, 4, 1)),
    ]
    assert len({base.fingerprint, *(o.fingerprint for o in others)}) == 4
    assert image_set().fingerprint == base.fingerprint


def rows_of(part: ImageSet, whole: ImageSet) -> list[int]:
    """Rows of `whole` that are in `part`, by value."""
    found = [torch.nonzero((whole.data == item).flatten(1).all(1)) for item in part.data]
    assert all(len(f) == 1 for f in found)
    return [int(f[0, 0]) for f in found]


def test_a_split_is_stratified_and_disjoint_and_complete(images: ImageSet) -> None:
    train, held = images.split(0.2)
    assert torch.bincount(held.labels, minlength=10).tolist() == [6] * 10
    assert torch.bincount(train.labels, minlength=10).tolist() == [24] * 10
    kept, out = rows_of(train, images), rows_of(held, images)
    assert sorted(kept + out) == list(range(len(images)))
    assert (train.classes, train.pixels, train.name) == (10, True, "waves/train")


def test_a_split_depends_on_seed_and_labels_alone(images: ImageSet) -> None:
    again, other = images.split(0.2)[1], images.split(0.2, seed=1)[1]
    assert again.fingerprint == images.split(0.2)[1].fingerprint
    assert other.fingerprint != again.fingerprint
    negative = ImageSet("negative", -images.data, images.labels, 10)
    torch.testing.assert_close(negative.split(0.2)[1].data, -again.data, rtol=0, atol=0)


def test_both_sides_of_a_split_keep_every_class() -> None:
    train, held = image_set(n=4, data=torch.randn(4, 1, 2, 2)).split(0.01)
    assert sorted(held.labels.tolist()) == [0, 1]
    train, held = image_set(n=4, data=torch.randn(4, 1, 2, 2)).split(0.99)
    assert sorted(train.labels.tolist()) == [0, 1]


def test_a_class_of_one_item_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 1 of 'set' has one item"):
        image_set(labels=torch.tensor([0, 0, 0, 1])).split()


def test_an_image_set_is_passed_on(images: ImageSet) -> None:
    assert open_data(images) is images


def test_an_npz_of_uint8_images_becomes_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", arr_0=LEVELS, labels=LABELS)
    found = open_data(tmp_path / "set.npz")
    assert (found.name, found.shape, found.classes, found.pixels) == ("set", (3, 8, 8), 3, True)
    assert found.data.dtype == torch.float32
    expected = LEVELS.transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(found.data.numpy(), expected, rtol=0, atol=1e-6)  # float32
    assert found.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_an_npz_of_states_is_taken_as_it_is(tmp_path: Path, dtype: type) -> None:
    states = np.random.default_rng(1).normal(size=(5, 4, 2, 2)).astype(dtype)
    np.savez(tmp_path / "latents.npz", data=states)
    found = open_data(tmp_path / "latents.npz")
    assert (found.shape, found.classes, found.pixels) == ((4, 2, 2), 0, False)
    np.testing.assert_array_equal(found.data.numpy(), states.astype(np.float32))
    assert found.labels.tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_of_states_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    states = torch.arange(16).reshape(2, 2, 2, 2).to(dtype)
    safetensors.torch.save_file({"data": states, "labels": torch.tensor([1, 0])}, tmp_path / "latents.safetensors")
    found = open_data(tmp_path / "latents.safetensors")
    torch.testing.assert_close(found.data, states.float(), rtol=0, atol=0)
    assert (found.labels.tolist(), found.classes, found.pixels) == ([1, 0], 2, False)


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    states = np.zeros((3, 1, 2, 2), dtype=np.float32)
    states[1, 0, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", data=states)
    with pytest.raises(DataError, match="item 1 of 'bad'"):
        open_data(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 4, 4, 1), np.uint8)}, "expected an array 'data'"),
        ({"arr_0": np.zeros((2, 4, 4), np.uint8)}, "four axes"),
        ({"arr_0": np.zeros((2, 4, 4, 1), np.int64)}, "int64"),
        ({"arr_0": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(2)}, "expected integers"),
        ({"arr_0": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(3, np.int64)}, "2 items but 3 labels"),
        ({"arr_0": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, -1])}, "labels of"),
        ({"arr_0": np.zeros((0, 4, 4, 1), np.uint8)}, "empty"),
    ],
)
def test_arrays_that_are_not_images_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / "odd.npz")


def test_labels_with_two_axes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", arr_0=LEVELS, labels=LABELS[:, None])
    with pytest.raises(DataError, match="labels"):
        open_data(tmp_path / "odd.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", arr_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        open_data(tmp_path / "evil.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"hello"])
def test_a_broken_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cut.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        open_data(tmp_path / "cut.npz")


def write_images(
    folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", suffix: str = ".png"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(LEVELS[i]).convert(mode).resize(size).save(folder / f"{i}{suffix}")


def test_subfolders_are_classes_in_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path / "b", 2)
    write_images(tmp_path / "a", 3)
    write_images(tmp_path / ".hidden", 1)
    found = open_data(tmp_path)
    assert (found.classes, found.labels.tolist(), found.shape) == (2, [0, 0, 0, 1, 1], (3, 8, 8))
    np.testing.assert_allclose(found.data[0].numpy(), LEVELS[0].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)  # float32


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, 2, mode="L")
    (tmp_path / "notes.txt").write_text("not an image")
    found = open_data(tmp_path)
    assert (found.classes, found.labels.tolist(), found.shape, found.pixels) == (0, [0, 0], (1, 8, 8), True)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match="holds no images"):
        open_data(tmp_path)


def test_images_of_unequal_size_are_refused_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 1, size=(9, 8))
    with pytest.raises(DataError, match=r"b.0\.png is \(8, 9, 3\), the images before it are \(8, 8, 3\)"):
        open_data(tmp_path)


def test_a_broken_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"x\.png is not a readable image"):
        open_data(tmp_path)


def test_a_missing_path_names_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a known name \(.*digits"):
        open_data(tmp_path / "nowhere")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"'\.csv' file"):
        open_data(tmp_path / "data.csv")


def test_labels_above_the_classes_of_the_model_are_refused(images: ImageSet) -> None:
    with pytest.raises(DataError, match="run up to 9, but the model has 5 classes"):
        open_data(images, classes=5)
    assert open_data(images, classes=10) is images
    assert open_data(images, classes=1000) is images


def test_an_unconditional_model_takes_labelled_data(images: ImageSet) -> None:
    """A model without classes looks at no label (`Bank.of(conditional=False)`), so none can be out of range."""
    assert open_data(images, classes=0) is images


# --- a bank that is larger than memory allows at once


def test_a_bank_summed_in_pieces_has_the_axes_of_the_whole(monkeypatch):
    from slowflow.data import bank as module

    draw = np.random.default_rng(3)
    data = torch.from_numpy((draw.normal(size=(600, 2, 3, 3)) * np.linspace(1, 3, 18).reshape(2, 3, 3)).astype("f4"))
    images = ImageSet("many", data, torch.arange(600) % 12, 12)
    whole = module.Bank.of(images, conditional=True)
    expected, within = whole.spectrum, whole.within
    monkeypatch.setattr(module, "AT_ONCE", 60)  # two classes at a time
    monkeypatch.setattr(module, "KEPT", 3 * 50 * 18 * 8)  # and three in memory
    pieces = module.Bank.of(images, conditional=True)
    found = pieces.spectrum
    np.testing.assert_allclose(found.group_variance, expected.group_variance, rtol=1e-9)
    np.testing.assert_array_equal(found.group_size, expected.group_size)
    # an axis has no sign
    np.testing.assert_allclose(np.abs(found.axes), np.abs(expected.axes), atol=1e-9)
    np.testing.assert_allclose(np.abs(found.mean), np.abs(expected.mean), atol=1e-9)
    np.testing.assert_allclose(pieces.within.variance, within.variance, rtol=1e-9)
    assert len(pieces.shards._made) <= 3
    assert len(pieces) == 600
    assert pieces.largest == 50
    for label in range(12):
        np.testing.assert_array_equal(pieces.shard(label), data[label::12].flatten(1).double().numpy())
