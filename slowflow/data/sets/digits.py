"""digits: 1,797 handwritten digits, 8 x 8, from scikit-learn; small enough for tests."""

from __future__ import annotations

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.data.sets import SETS
from slowflow.errors import MissingExtraError


@SETS.register(
    "digits",
    summary="1,797 handwritten digits, 8x8 grey, 10 classes (package scikit-learn)",
    source="Alpaydin and Kaynak 1998, UCI (CC BY 4.0), as shipped in scikit-learn (BSD-3)",
)
def load() -> ImageSet:
    """Read the digits; grey levels 0..16 become -1..1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo", "the data set digits") from error
    bunch = load_digits()
    data = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)[:, None] / 8.0 - 1.0)
    return ImageSet("digits", data, torch.from_numpy(np.asarray(bunch.target, dtype=np.int64)), classes=10)
