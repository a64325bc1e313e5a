"""Codecs: images to the latents a model works in, and back. One file each; a registry finds them."""

from __future__ import annotations

from slowflow.codecs.base import CODECS, Codec, open_codec

__all__ = ["CODECS", "Codec", "open_codec"]
