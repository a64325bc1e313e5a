"""Open whatever `--data` names: a bundled set, a folder of images or latents, an .npz or .safetensors file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow.data.folder import image_files
from slowflow.data.images import ImageSet
from slowflow.data.latents import is_encoded, moments_folder, open_encoded, open_moments
from slowflow.data.mapped import MappedRows
from slowflow.data.sets import SETS
from slowflow.errors import DataError, MissingExtraError, did_you_mean
from slowflow.io import checkpoint

UNFOLDS = 100
"""A compressed file may unfold to so many times its size; images and latents come to about twenty at most."""
UNREADABLE = (
    ValueError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    MemoryError,  # a header that claims more than there is memory
    RuntimeError,  # encrypted members
    NotImplementedError,  # compression methods of other programs
)
"""How a damaged or foreign .npz shows."""


def open_data(spec: str | Path | ImageSet, *, classes: int | None = None) -> ImageSet:
    """The data set called or stored at `spec`.

    Args:
        spec: a registered name; a folder of images (class = subfolder), one that `slowflow encode` wrote, or REPA's of
            means and deviations; an .npz or .safetensors file; an ImageSet is passed on.
        classes: number of classes of the model; labels at or above it are refused.

    Raises:
        DataError: nothing there, no images, wrong shape, labels out of range, NaN.
    """
    if isinstance(spec, ImageSet):
        images = spec
    elif str(spec) in SETS.names():
        images = SETS.get(str(spec))()
    else:
        images = _open_path(Path(spec))
    if classes and images.classes > classes:
        raise DataError(
            f"labels of '{images.name}' run up to {images.classes - 1}, but the model has {classes} classes "
            f"(0 to {classes - 1})"
        )
    return images


def _open_path(path: Path) -> ImageSet:
    if not path.exists():
        hint = did_you_mean(str(path), SETS.names())
        raise DataError(f"no data set '{path}': neither a known name ({', '.join(SETS.names())}) nor a path{hint}")
    if path.is_dir():
        moments = moments_folder(path)
        if moments is not None:
            return open_moments(moments)
        return open_encoded(path) if is_encoded(path) else _from_folder(path)
    if path.suffix == ".npz":
        return _from_arrays(path.stem, _read_npz(path), path)
    if path.suffix == ".safetensors":
        tensors = checkpoint.load(path).tensors
        found = _from_arrays(path.stem, {name: _numpy(tensor) for name, tensor in tensors.items()}, path)
        return (
            found if found.pixels else replace(found, data=MappedRows([found.data]))
        )  # float32 still lies in the file
    raise DataError(f"{path} is a '{path.suffix}' file; expected a folder of images, .npz or .safetensors")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
        if unfolded > UNFOLDS * path.stat().st_size:
            raise DataError(
                f"{path} is compressed {unfolded // max(path.stat().st_size, 1):,} times ({unfolded:,} bytes unfolded), "
                f"which no real images are; write it uncompressed"
            )
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable .npz file: {str(error) or type(error).__name__}") from error


def _numpy(tensor: Tensor) -> np.ndarray:
    """NumPy has no bfloat16; every floating tensor goes through float32."""
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def _from_arrays(name: str, arrays: dict[str, np.ndarray], path: Path) -> ImageSet:
    """`data` (float32 [N, *shape] or uint8 NHWC) or `arr_0` (uint8 NHWC), `labels` and `features` when there are any."""
    key = "data" if "data" in arrays else "arr_0"
    if key not in arrays:
        raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected an array 'data' (or 'arr_0')")
    values = arrays[key]
    if values.ndim != 4:
        raise DataError(f"'{key}' in {path} has shape {values.shape}, expected four axes")
    pixels = values.dtype == np.uint8
    if pixels:
        values = values.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
    elif not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"'{key}' in {path} is {values.dtype}, expected float32 states or uint8 images")
    labels = arrays.get("labels")
    if labels is not None and labels.ndim != 1:
        raise DataError(f"'labels' in {path} has shape {labels.shape}, expected ({len(values)},)")
    if labels is not None and not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"'labels' in {path} is {labels.dtype}, expected integers")
    rows: Tensor = (
        torch.zeros(len(values), dtype=torch.int64) if labels is None else torch.from_numpy(labels.astype(np.int64))
    )
    found = 0 if labels is None or len(rows) == 0 else int(rows.max()) + 1
    states = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return ImageSet(name, states, rows, found, pixels, _features(arrays.get("features"), len(values), path))


def _features(values: np.ndarray | None, n: int, path: Path) -> Tensor | None:
    """`features` [N, tokens, d] of a vision model, where a file brings them."""
    if values is None:
        return None
    if values.ndim != 3 or len(values) != n or not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"'features' in {path} is {values.dtype} {values.shape}, expected floats ({n}, tokens, width)")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _pixels(image: Any) -> np.ndarray:
    """uint8 pixels of a PIL image: grey stays grey, 16-bit grey is scaled, everything else becomes RGB."""
    if image.mode.startswith("I"):
        return (np.asarray(image, dtype=np.float64) / 257.0).round().clip(0, 255).astype(np.uint8)
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _from_folder(folder: Path) -> ImageSet:
    """Images below `folder`; subfolders, sorted by name, are classes 0, 1, ..."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "demo", "reading a folder of images") from error
    files, names = image_files(folder)
    arrays, labels, size = [], [], None
    for file, label in files:
        try:
            with Image.open(file) as image:
                array = _pixels(image)
        except OSError as error:
            raise DataError(f"{file} is not a readable image: {error}") from error
        array = array[..., None] if array.ndim == 2 else array
        if size is not None and array.shape != size:
            raise DataError(f"{file} is {array.shape}, the images before it are {size}; all must be equal")
        size = array.shape
        arrays.append(array)
        labels.append(label)
    values = np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
    return ImageSet(folder.name, torch.from_numpy(values), torch.tensor(labels), classes=len(names))
