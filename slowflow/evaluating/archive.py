"""The .npz that evaluators exchange, read and written a piece at a time.

    arr_0     uint8 [n, h, w, c]    the pictures                                  written by `sample`, read by everybody
    labels    int64 [n]             beside them, where there are classes
    data      float32 [n, *shape]   states that are no pictures
    mu, sigma, mu_s, sigma_s        moments of Inception's features and spatial features, in ADM's reference files

50,000 pictures of 256 x 256 are 9.8 GB, so an array is never held whole. Bytes depend on the arrays alone: every member
carries one fixed date. Nothing is unpickled.
Source: layout of guided-diffusion's evaluations (Dhariwal and Nichol 2021, arXiv 2105.05233).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from slowflow.errors import DataError
from slowflow.io import atomic

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Every member of the file carries this date, so that equal samples make equal bytes."""
LARGE = 2**31 - 2**16
"""Members above this get the long form of a zip entry, which every reader of large files knows."""
UNREADABLE = (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError)


@dataclass(frozen=True)
class Member:
    """An array that is written piece by piece: name, dtype, whole shape, pieces along the first axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return self.dtype.itemsize * math.prod(self.shape)


def whole(name: str, array: np.ndarray) -> Member:
    """An array that is at hand."""
    return Member(name, array.dtype, array.shape, [array])


def write(path: str | Path, members: list[Member]) -> None:
    """Write an uncompressed .npz, atomically."""

    def write_to(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for member in members:
                _write_member(archive, member)

    atomic.write_with(path, write_to, sum(member.size for member in members))


def _write_member(archive: zipfile.ZipFile, member: Member) -> None:
    info = zipfile.ZipInfo(f"{member.name}.npy", EPOCH)
    header = {"descr": np.lib.format.dtype_to_descr(member.dtype), "fortran_order": False, "shape": member.shape}
    with archive.open(info, "w", force_zip64=member.size > LARGE) as out:
        np.lib.format.write_array_header_1_0(out, header)
        rows = 0
        for piece in member.pieces:
            out.write(np.ascontiguousarray(piece, dtype=member.dtype).data)
            rows += len(piece)
    if rows != member.shape[0]:
        raise DataError(f"'{member.name}' has {rows} rows, expected {member.shape[0]}")


def names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz.

    Raises:
        DataError: missing or not an .npz.
    """
    if not Path(path).exists():
        raise DataError(f"no data set '{path}': no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def header(path: str | Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of one array, without reading it.

    Raises:
        DataError: unreadable, or an array of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _header(file, path, name, archive.getinfo(f"{name}.npy").file_size)
    except UNREADABLE as error:
        raise DataError(f"'{name}' in {path} cannot be read: {error}") from error


def batches(path: str | Path, name: str, rows: int) -> Iterator[np.ndarray]:
    """One array, so many rows at a time.

    Raises:
        DataError: unreadable, cut short, or an array of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, dtype = _header(file, path, name, archive.getinfo(f"{name}.npy").file_size)
            each = dtype.itemsize * math.prod(shape[1:])
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                raw = file.read(count * each)
                if len(raw) < count * each:
                    raise DataError(f"'{name}' in {path} ends at row {first + len(raw) // max(each, 1)} of {shape[0]}")
                yield np.frombuffer(raw, dtype=dtype).reshape(count, *shape[1:])
    except UNREADABLE as error:
        raise DataError(f"'{name}' in {path} cannot be read: {error}") from error


def array(path: str | Path, name: str) -> np.ndarray:
    """One array as a whole."""
    (shape, _) = header(path, name)
    return next(batches(path, name, max(shape[0], 1))).copy() if shape and shape[0] else np.zeros(shape)


def _header(file: Any, path: str | Path, name: str, held: int) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran or dtype.hasobject:
        what = "is stored column by column" if fortran else "holds Python objects, which are never opened"
        raise DataError(f"'{name}' in {path} {what}")
    needed, held = dtype.itemsize * math.prod(shape), held - file.tell()
    if min(shape, default=0) < 0 or needed > held:
        raise DataError(f"'{name}' in {path} says shape {shape}, {needed:,} bytes, but holds {held:,}")
    return shape, dtype
