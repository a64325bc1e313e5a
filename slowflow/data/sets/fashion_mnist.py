"""fashion-mnist: 70,000 clothing images, 28 x 28, from Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.data.sets import SETS
from slowflow.errors import EnvironmentProblem

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def _idx(path: Path, header: int) -> np.ndarray:
    """The payload of an IDX file (LeCun's format): a fixed header, then bytes."""
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)


@SETS.register(
    "fashion-mnist",
    summary="70,000 clothing images, 28x28 grey, 10 classes (Debian package dataset-fashion-mnist)",
    source="Xiao et al. 2017 (arXiv 1708.07747), MIT",
)
def load() -> ImageSet:
    """Read the 60,000 training and then the 10,000 test images; pixels 0..255 become -1..1."""
    if not FOLDER.is_dir():
        raise EnvironmentProblem(
            f"fashion-mnist is read from {FOLDER}, which does not exist: apt-get install dataset-fashion-mnist"
        )
    images = [_idx(FOLDER / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28) for part in ("train", "t10k")]
    labels = [_idx(FOLDER / f"{part}-labels-idx1-ubyte.gz", 8) for part in ("train", "t10k")]
    data = torch.from_numpy(np.concatenate(images).astype(np.float32) / 127.5 - 1.0)
    return ImageSet("fashion-mnist", data, torch.from_numpy(np.concatenate(labels).astype(np.int64)), classes=10)
