"""Feature extractors by name, path or function: `open_features(spec, shape)`."""

from __future__ import annotations

from pathlib import Path

import torch

from slowflow.cards import cards
from slowflow.errors import InputError, did_you_mean
from slowflow.evaluating.features.base import FEATURES, Features, Outputs, Request
from slowflow.io.run import file_sha256

__all__ = ["FEATURES", "Features", "Outputs", "open_features"]


def open_features(
    spec: str, shape: tuple[int, ...], *, sha256: str | None = None, device: torch.device | None = None
) -> Features:
    """The extractor called or stored at `spec`; it must take images of this shape.

    Args:
        spec: `pixels`; a bundled name; a path, whose kind is told by its content; `KIND:PATH` (`slowflow ls features`);
            or `package.module:function`, which is code and is run.
        shape: (C, H, W).
        sha256: hash that the file must have; refused where it has another.
        device: where it runs; the CPU when None.

    Raises:
        InputError: unknown, made for images of another shape, or another file than the hash says.
    """
    kind, text = _kind(spec)
    if sha256 is not None and Path(text).is_file():
        found = file_sha256(text)
        if found != sha256.lower():
            raise InputError(f"{text} has SHA-256 {found}, not {sha256.lower()}; it is not the file you mean")
    opened = FEATURES.get(kind).open(Request(text=text, sha256=sha256, device=device or torch.device("cpu")))
    if opened.channels is not None and shape[0] not in (1, opened.channels):
        raise InputError(f"the features '{spec}' do not take images of shape {shape}")
    try:
        opened.outputs(torch.zeros(2, *shape))
    except RuntimeError as error:
        raise InputError(f"the features '{spec}' do not take images of shape {shape}") from error
    return opened


def _kind(spec: str) -> tuple[str, str]:
    """(kind, what stands behind it) of a spec."""
    if spec == "pixels":
        return "pixels", ""
    if spec in {c.name for c in cards("features")}:
        return "classifier", spec
    if Path(spec).exists():
        fitting = [entry.name for entry in FEATURES if entry.value.fits(Path(spec))]
        if fitting:
            return fitting[0], spec
        raise InputError(
            f"{spec} is of no kind of features that is known by its content; a program must be named: torchscript:{spec}"
        )
    kind, colon, text = spec.partition(":")
    if colon and kind in FEATURES.names():
        return kind, text
    if colon:
        return "function", spec
    known = ["pixels", *(c.name for c in cards("features"))]
    raise InputError(
        f"no features '{spec}'{did_you_mean(spec, known)} (known: {', '.join(known)}, a path, KIND:PATH, or module:function)"
    )
