"""What a distance between images is measured in: the record of an extractor, and the registry of kinds.

A kind is one file beside this one. It says which files it recognises and opens them; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import InputError
from slowflow.registry import Registry


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch of images.

    Args:
        features: what FD, KD, precision and the like are taken of.
        spatial: a few channels of an early map, flattened: what sFD is taken of; None where it has none.
        probabilities: of its classes, for IS; None where it is no classifier.
    """

    features: Float[Tensor, "n k"]
    spatial: Float[Tensor, "n s"] | None = None
    probabilities: Float[Tensor, "n classes"] | None = None


@dataclass(frozen=True)
class Features:
    """A feature extractor.

    Args:
        name: of the distance: FID for the published Inception file alone, else FD-<what>.
        sha256: of its weights or its code; None when it has none.
        net: float32 images in [-1, 1], as a viewer sees them -> Outputs; None for raw pixels.
        heldout_accuracy: of a classifier on real held-out data; for comparison with label agreement.
        judges: its classes are those of the data, so that it can say whether a sample shows its label.
        channels: what images must have; None for any.
        device: where the network is.
        batch: images a call of the network.
        note: what whoever reads the number must know.
    """

    name: str
    sha256: str | None = None
    net: Callable[[Tensor], Outputs] | None = None
    heldout_accuracy: float | None = None
    judges: bool = False
    channels: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    batch: int = 512
    note: str = ""

    @torch.no_grad()
    def outputs(self, images: Float[Tensor, "n c h w"]) -> dict[str, np.ndarray]:
        """`features`, and `spatial`, `probabilities` and `predicted` where there are any; float32, on the CPU."""
        if self.net is None:
            return {"features": images.flatten(1).numpy()}
        parts: dict[str, list[Tensor]] = {}
        for some in images.split(self.batch):
            found = self.net(some.to(self.device))
            for key in ("features", "spatial", "probabilities"):
                value = getattr(found, key)
                if value is not None:
                    parts.setdefault(key, []).append(value.float().cpu())
        made = {key: torch.cat(values).numpy() for key, values in parts.items()}
        if self.judges and "probabilities" in made:
            made["predicted"] = made["probabilities"].argmax(axis=1).astype(np.int64)
        return made

    def bytes(self, sets: int, n: int, shape: tuple[int, ...]) -> int:
        """Bytes that the outputs and labels of `sets` sets of n images take on disk."""
        one = self.outputs(torch.zeros(1, *shape))
        return sets * n * (sum(values.nbytes for values in one.values()) + 8)


@dataclass(frozen=True, kw_only=True)
class Request:
    """How an extractor was asked for.

    Args:
        text: what stands behind the kind: a path, a name, `module:function`.
        sha256: the hash that its file must have; None where none was given.
        device: where it shall run.
    """

    text: str
    sha256: str | None
    device: torch.device

    @property
    def path(self) -> Path:
        """The text as a path that must exist.

        Raises:
            InputError: nothing there.
        """
        path = Path(self.text)
        if not path.exists():
            raise InputError(f"no features '{path}': no such file or folder")
        return path


class Kind(Protocol):
    """Opens extractors of one kind."""

    def fits(self, path: Path) -> bool:
        """True for a file or folder that is plainly of this kind."""

    def open(self, asked: Request) -> Features:
        """The extractor.

        Raises:
            InputError: missing, damaged, of another kind, or without the hash that was asked for.
        """


FEATURES: Registry[Kind] = Registry("kind of features", "slowflow.evaluating.features")
