"""What samples are compared with: held-out images of a data set, or a reference file in ADM's layout.

Held-out images give every metric at equal n. A reference file gives the published protocol: moments (mu, sigma and,
for sFD, mu_s, sigma_s) of the whole training set, and pictures (arr_0) for precision, recall and their like, however
many it holds; n and n_real are then unequal, as they are in the published numbers, and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slowflow.data.images import ImageSet
from slowflow.data.mapped import tiles
from slowflow.errors import DataError, InputError
from slowflow.evaluating import archive
from slowflow.evaluating.moments import Moments
from slowflow.flow.generate import dequantise
from slowflow.io.run import file_sha256

ROWS = 256
"""Pictures read at once."""


@dataclass(frozen=True)
class Reference:
    """One side of every distance.

    Args:
        name, sha256: for records.
        shape: of one image, (C, H, W).
        pixels: True for pictures in [-1, 1].
        n: real images whose features are taken; 0 where there are moments alone.
        batches: gives those images, some at a time.
        labels: of those images; zeros where there are none.
        classes: 0 where there are no labels.
        moments, spatial: of features of the whole reference, from a file.
        heldout, train: for the nearest-image check; None for a file.
    """

    name: str
    sha256: str
    shape: tuple[int, ...] | None
    pixels: bool
    n: int
    batches: Callable[[], Iterator[Tensor]]
    labels: np.ndarray
    classes: int = 0
    moments: Moments | None = None
    spatial: Moments | None = None
    heldout: ImageSet | None = None
    train: ImageSet | None = None

    def must_have_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse samples of another shape."""
        if self.shape is not None and self.shape != shape:
            raise InputError(f"'{self.name}' has items of shape {self.shape}, the samples have {shape}")


def held_out(data: ImageSet, heldout: float, samples: int) -> Reference:
    """As many held-out images as there are samples, in an order that goes round the classes, as sample ids do.

    Raises:
        InputError: more samples than held-out images: both sides need the same n.
    """
    train, held = data.split(heldout)
    if samples > len(held):
        raise InputError(
            f"{samples} samples but only {len(held)} held-out images: both sides need the same n; "
            f"ask for at most {len(held)} samples or hold out more"
        )
    real = _balanced(held, samples, max(data.classes, 1))

    def batches() -> Iterator[Tensor]:
        return tiles(real.data, ROWS)

    return Reference(
        held.name,
        held.fingerprint,
        data.shape,
        data.pixels,
        len(real),
        batches,
        real.labels.numpy(),
        data.classes,
        heldout=held,
        train=train,
    )


def _balanced(images: ImageSet, n: int, classes: int) -> ImageSet:
    """The first n images in an order that goes round the classes; all when there are fewer."""
    labels = images.labels.numpy()
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    order = np.lexsort((labels, turn)) if classes > 1 else np.arange(len(labels))
    return images.take(order[:n], f"first {min(n, len(images))}")


def is_reference(path: str | Path) -> bool:
    """True for an .npz with moments: a reference file, not a data set."""
    path = Path(path)
    return path.suffix == ".npz" and path.is_file() and {"mu", "sigma"} <= set(archive.names(path))


def open_reference(path: str | Path) -> Reference:
    """A reference file in ADM's layout (VIRTUAL_imagenet256_labeled.npz and the like).

    Raises:
        DataError: unreadable, without moments, or with moments that are none.
    """
    path = Path(path)
    found = archive.names(path)
    if not {"mu", "sigma"} <= set(found):
        raise DataError(f"{path} holds {', '.join(sorted(found))}; a reference file holds mu and sigma")
    spatial = _moments(path, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= set(found) else None
    shape, n = None, 0
    if "arr_0" in found:
        stored, dtype = archive.header(path, "arr_0")
        if len(stored) != 4 or dtype != np.uint8:
            raise DataError(f"'arr_0' in {path} is {dtype} {stored}, expected uint8 pictures [n, h, w, c]")
        n, shape = stored[0], (stored[3], stored[1], stored[2])
    return Reference(
        path.stem,
        file_sha256(path),
        shape,
        True,
        n,
        lambda: pictures(path),
        np.zeros(n, dtype=np.int64),
        moments=_moments(path, "mu", "sigma"),
        spatial=spatial,
    )


def pictures(path: Path) -> Iterator[Tensor]:
    """The pictures of `arr_0`, in [-1, 1], some at a time."""
    for levels in archive.batches(path, "arr_0", ROWS):
        yield dequantise(levels)


def _moments(path: Path, mean: str, covariance: str) -> Moments:
    mu, sigma = (archive.array(path, name).astype(np.float64) for name in (mean, covariance))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"'{mean}' and '{covariance}' in {path} are {mu.shape} and {sigma.shape}, expected [k] and [k, k]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"'{mean}' or '{covariance}' in {path} holds NaN or infinity")
    if not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-8 * float(np.abs(sigma).max())):
        raise DataError(f"'{covariance}' in {path} is not symmetric, so it is no covariance")
    return Moments(mu, (sigma + sigma.T) / 2.0, 0)


@dataclass(frozen=True)
class SampleFile:
    """Samples in a file: how many, of which shape, with which labels, and the samples some at a time."""

    path: Path
    n: int
    shape: tuple[int, ...]
    pixels: bool
    labels: np.ndarray | None
    sha256: str

    def batches(self) -> Iterator[Tensor]:
        """As a viewer sees them: pictures in [-1, 1], states as they are."""
        if self.pixels:
            yield from pictures(self.path)
            return
        for states in archive.batches(self.path, "data", ROWS):
            yield torch.from_numpy(states.astype(np.float32))


def open_samples(path: str | Path) -> SampleFile:
    """An .npz of samples: `arr_0` uint8 NHWC, or `data` float32; and `labels` where it brings them.

    Raises:
        DataError: missing, not an .npz, or without samples.
    """
    path = Path(path)
    found = archive.names(path)
    name = "arr_0" if "arr_0" in found else "data"
    if name not in found:
        raise DataError(f"{path} holds {', '.join(sorted(found)) or 'nothing'}; expected an array 'arr_0' (or 'data')")
    shape, dtype = archive.header(path, name)
    pixels = name == "arr_0"
    if len(shape) != 4 or shape[0] == 0 or (pixels and dtype != np.uint8) or not (pixels or dtype.kind == "f"):
        raise DataError(f"'{name}' in {path} is {dtype} {shape}, expected uint8 [n, h, w, c] or floats [n, c, h, w]")
    labels = archive.array(path, "labels") if "labels" in found else None
    if labels is not None and (labels.shape != (shape[0],) or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"'labels' in {path} is {labels.dtype} {labels.shape}, expected integers ({shape[0]},)")
    item = (shape[3], shape[1], shape[2]) if pixels else shape[1:]
    return SampleFile(path, shape[0], tuple(item), pixels, labels, file_sha256(path))
