"""The exchanged .npz: NumPy reads what is written, pieces are the whole, nothing hostile is opened."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slowflow.errors import DataError
from slowflow.evaluating import archive
from slowflow.evaluating.archive import Member, write
from slowflow.evaluating.reference import is_reference, open_reference, open_samples, pictures

LEVELS = np.random.default_rng(0).integers(0, 256, size=(23, 4, 5, 3), dtype=np.uint8)


def pieces(rows: int) -> Iterator[np.ndarray]:
    for first in range(0, 23, rows):
        yield LEVELS[first : first + rows]


def test_numpy_reads_what_is_written_in_pieces(tmp_path: Path) -> None:
    labels = np.arange(23)
    write(tmp_path / "a.npz", [Member("arr_0", LEVELS.dtype, LEVELS.shape, pieces(4)), archive.whole("labels", labels)])
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], LEVELS)
        np.testing.assert_array_equal(file["labels"], labels)


def test_bytes_depend_on_the_values_alone(tmp_path: Path) -> None:
    for rows in (4, 23):
        write(tmp_path / f"{rows}.npz", [Member("arr_0", LEVELS.dtype, LEVELS.shape, pieces(rows))])
    assert (tmp_path / "4.npz").read_bytes() == (tmp_path / "23.npz").read_bytes()


def test_large_members_are_read_by_numpy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGE", 0)
    write(tmp_path / "a.npz", [Member("arr_0", LEVELS.dtype, LEVELS.shape, pieces(4))])
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], LEVELS)
    np.testing.assert_array_equal(archive.array(tmp_path / "a.npz", "arr_0"), LEVELS)


@pytest.mark.parametrize("shape", [(2, 10**9, 10**9, 3), (24, 4, 5, 3), (23, 4, -5, 3)])
def test_a_shape_that_the_file_does_not_hold_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("arr_0.npy", member.getvalue() + LEVELS.tobytes()[: 23 * 60])
    with pytest.raises(DataError, match=r"but holds|cannot be read"):
        open_samples(tmp_path / "a.npz")


def test_a_wrong_number_of_rows_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="23 rows, expected 24"):
        write(tmp_path / "a.npz", [Member("arr_0", LEVELS.dtype, (24, 4, 5, 3), pieces(4))])
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    piece = np.zeros((64, 32, 32, 3), dtype=np.uint8)  # 196 kB, 64 times: 12.6 MB
    tracemalloc.start()
    write(tmp_path / "a.npz", [Member("arr_0", piece.dtype, (4096, 32, 32, 3), (piece for _ in range(64)))])
    seen = sum(len(some) for some in archive.batches(tmp_path / "a.npz", "arr_0", 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 4096
    assert peak < 3e6


@pytest.mark.parametrize("compressed", [False, True])
def test_pieces_that_are_read_are_the_whole(tmp_path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", arr_0=LEVELS)
    found = list(archive.batches(tmp_path / "a.npz", "arr_0", 5))
    assert [len(some) for some in found] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(found), LEVELS)
    assert archive.header(tmp_path / "a.npz", "arr_0") == (LEVELS.shape, np.dtype(np.uint8))


class Evil:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("code from a file was run",))


def test_python_objects_are_never_opened(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": (1, 1, 1, 1)})
    member.write(pickle.dumps(Evil()))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("arr_0.npy", member.getvalue())
    with pytest.raises(DataError, match="Python objects"):
        open_samples(tmp_path / "a.npz")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        open_samples(tmp_path / "text.npz")
    with pytest.raises(DataError, match="no such file"):
        open_samples(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="holds x"):
        open_samples(tmp_path / "other.npz")
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((2, 4, 4, 3)))
    with pytest.raises(DataError, match="float64"):
        open_samples(tmp_path / "float.npz")
    np.savez(tmp_path / "labels.npz", arr_0=LEVELS, labels=np.zeros(3, dtype=int))
    with pytest.raises(DataError, match="'labels'"):
        open_samples(tmp_path / "labels.npz")
    np.savez(tmp_path / "column.npz", arr_0=np.asfortranarray(LEVELS))
    with pytest.raises(DataError, match="column by column"):
        list(archive.batches(tmp_path / "column.npz", "arr_0", 4))
    short = (tmp_path / "column.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(short[: len(short) // 2])
    with pytest.raises(DataError, match="not a readable"):
        open_samples(tmp_path / "short.npz")


def test_a_reference_file_brings_pictures_and_moments(tmp_path: Path) -> None:
    file = tmp_path / "VIRTUAL_tiny.npz"
    sigma = np.eye(6, dtype=np.float32)
    np.savez(file, arr_0=LEVELS, mu=np.zeros(6), sigma=sigma, mu_s=np.ones(4), sigma_s=np.eye(4))
    assert is_reference(file)
    found = open_reference(file)
    assert (found.name, found.n, found.shape) == ("VIRTUAL_tiny", 23, (3, 4, 5))
    assert found.moments is not None
    assert found.moments.covariance.dtype == np.float64
    assert found.spatial is not None
    assert len(found.spatial.mean) == 4
    np.testing.assert_allclose(next(found.batches())[0, :, 0, 0].numpy(), LEVELS[0, 0, 0] / 127.5 - 1.0, atol=1e-6)
    assert sum(len(some) for some in pictures(file)) == 23


def test_moments_alone_are_a_reference_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(6), sigma=np.eye(6))
    found = open_reference(tmp_path / "stats.npz")
    assert (found.n, found.shape, found.spatial) == (0, None, None)
    np.savez(tmp_path / "data.npz", arr_0=LEVELS)
    assert not is_reference(tmp_path / "data.npz")
    assert not is_reference(tmp_path)
    with pytest.raises(DataError, match="mu and sigma"):
        open_reference(tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"expected \[k\] and \[k, k\]"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "NaN"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "arr_0": np.zeros((2, 3))}, "expected uint8 pictures"),
    ],
)
def test_moments_that_are_none_are_refused(tmp_path: Path, arrays: dict, says: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        open_reference(tmp_path / "a.npz")
