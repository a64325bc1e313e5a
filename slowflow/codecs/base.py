"""The interface of a codec, and how one is found.

Images are float in [-1, 1]; each codec converts to its own range. An encoder may describe a latent by a distribution:
`encode` then draws from it with noise the caller brings, so that a latent belongs to its image and to nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from slowflow.errors import CheckpointError, InputError, did_you_mean
from slowflow.io import pretrained
from slowflow.registry import Registry


class Codec(ABC):
    """Images in [-1, 1] to latents in the model's own scale, and back.

    name: of the kind. channels: of a latent. quantiser: how its authors make uint8 of images, see quantisers.py.
    net: None without weights.
    """

    name: str
    channels: int
    quantiser: str = "round"
    net: Any = None

    @abstractmethod
    def shape(self, size: int) -> tuple[int, int, int]:
        """Shape of the latent of a square image with sides of `size` pixels.

        Raises:
            InputError: the codec does not take this size.
        """

    @abstractmethod
    def encode(self, images: Float[Tensor, "n 3 h w"], noise: Tensor | None = None) -> Float[Tensor, "n c y x"]:
        """Latents; `noise` (like the latents) picks a draw from the encoder's distribution, None its mean."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Images; values may leave [-1, 1] a little, where the decoder does."""

    def facts(self) -> dict[str, Any]:
        """What a latent depends on, in plain values, for records."""
        return {"name": self.name, "quantiser": self.quantiser}


class CodecKind(Protocol):
    """Opens codecs of one kind."""

    def fits(self, config: dict[str, Any]) -> bool:
        """True when a folder with this config holds such a codec."""
        ...

    def open(self, folder: Path | None) -> Codec:
        """Open the folder; None for codecs without weights."""
        ...


CODECS: Registry[CodecKind] = Registry("codec", "slowflow.codecs")


def open_codec(spec: str | Path) -> Codec:
    """The codec that `spec` names.

    Args:
        spec: `pixels`, or a folder in the layout of diffusers: an autoencoder's, or a pipeline's with vae/ in it.

    Raises:
        InputError: the name of a codec that needs weights.
        CheckpointError: no such folder, or an autoencoder of no known kind.
        MissingExtraError: diffusers is needed and not installed.
    """
    if str(spec) in CODECS.names():
        return CODECS.get(str(spec)).open(None)
    path = Path(spec)
    if not path.exists():
        hint = did_you_mean(str(spec), CODECS.names())
        raise CheckpointError(f"no codec '{spec}': neither a name ({', '.join(CODECS.names())}) nor a folder{hint}")
    part = pretrained.find_part(path, ("vae",))
    config = pretrained.read_config(part)
    for entry in CODECS:
        if entry.value.fits(config):
            return entry.value.open(part)
    raise CheckpointError(
        f"{part} holds a '{config['_class_name']}', which no codec opens ({', '.join(CODECS.names())})"
    )


def needs_folder(name: str, example: str) -> InputError:
    """The answer to a codec asked for by name that has weights."""
    return InputError(f"the codec '{name}' has weights: give their folder, --codec PATH (such as {example})")
