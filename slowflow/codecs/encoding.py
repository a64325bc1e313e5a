"""encode: a folder of images to latents, once, in shards; resumable.

    OUT/shards/00000000.safetensors ...    data [n, c, h, w] float32, labels [n]
    OUT/manifest.json                      count, shape, classes and their names, the codec

Every image is cropped as ADM does and, with flips, also mirrored: image i is item i, its mirror item n + i. A draw
from the encoder's distribution is keyed by (seed, item), so latents depend neither on batches nor on how many processes
share the work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slowflow import rng
from slowflow.codecs.base import Codec
from slowflow.data.crop import centre_crop
from slowflow.data.folder import image_files
from slowflow.errors import DataError, InputError, MissingExtraError
from slowflow.io import checkpoint, ranks, space
from slowflow.io.run import RunFolder
from slowflow.memory import in_parts

POSTERIORS = ("sample", "mean")


@dataclass(frozen=True)
class EncodeConfig:
    """How images become latents.

    Args:
        size: side of the crop in pixels.
        flips: also encode every image mirrored.
        posterior: `sample` draws once from the encoder's distribution (as SiT and REPA train), `mean` takes its mean.
        seed: of that draw.
        batch: images a network call.
        shard: items a saved shard.
    """

    size: int = 256
    flips: bool = False
    posterior: str = "sample"
    seed: int = 0
    batch: int = 8
    shard: int = 256

    def __post_init__(self) -> None:
        for name in ("size", "batch", "shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.posterior not in POSTERIORS:
            raise InputError(f"posterior is '{self.posterior}', expected one of {', '.join(POSTERIORS)}")


def encode_folder(
    folder: str | Path,
    codec: Codec,
    config: EncodeConfig,
    out: str | Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Encode every image below `folder` into the run folder `out`; resumes an unfinished one.

    Args:
        folder: images; class = subfolder.
        codec: already on the device it shall run on.
        config: how.
        out: run folder, afterwards a data set for `--data`.
        progress: called with (items done, items in all, note).

    Returns:
        The result of the manifest: count, shape, classes, names, codec, shards.

    Raises:
        DataError: no such folder, no images, or an unreadable one.
        InputError: a size the codec does not take.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder of images '{folder}'")
    files, names = image_files(folder)
    shape = codec.shape(config.size)
    run = RunFolder(out, "encode", {"images": _listing(folder, files), "codec": codec.facts(), "encode": config})
    if run.finished:
        return dict(run.manifest["result"])
    progress = run.watched(progress)
    items = len(files) * (2 if config.flips else 1)
    here = ranks.current()
    if here.leads:
        space.require(run.path, items * (4 * math.prod(shape) + 8), "encoding these images")
    firsts = range(0, items, config.shard)
    shards = [f"shards/{first:08d}.safetensors" for first in firsts]
    share = here.share(run.path, shards)
    for first, name in zip(firsts, shards, strict=True):
        ids = range(first, min(first + config.shard, items))
        if name in share:
            here.check()
            _write_shard(run.path / name, files, ids, codec, config, shape)
        progress(ids[-1] + 1, items, "encoding")
    here.gathered(run.path, shards)
    result = {
        "count": items,
        "shape": list(shape),
        "classes": len(names),
        "names": names,
        "codec": codec.facts(),
        "shards": shards,
    }
    if here.leads:
        run.finish(shards, result)
    here.meet()
    return result


def _listing(folder: Path, files: list[tuple[Path, int]]) -> str:
    """SHA-256 over names, classes and sizes of the images: enough to tell one folder from another without reading it."""
    lines = [f"{file.relative_to(folder)}|{label}|{file.stat().st_size}" for file, label in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _write_shard(
    path: Path,
    files: list[tuple[Path, int]],
    ids: range,
    codec: Codec,
    config: EncodeConfig,
    shape: tuple[int, int, int],
) -> None:
    device = next(codec.net.parameters()).device if codec.net is not None else torch.device("cpu")
    parts = []
    for first in range(ids.start, ids.stop, config.batch):
        some = range(first, min(first + config.batch, ids.stop))
        images = torch.stack([_image(files[i % len(files)][0], config.size, i >= len(files)) for i in some])
        noise = (
            torch.from_numpy(rng.normal(config.seed, "posterior", some, shape))
            if config.posterior == "sample"
            else None
        )

        def encoded(i: int, j: int, images: Tensor = images, noise: Tensor | None = noise) -> Tensor:
            drawn = None if noise is None else noise[i:j].to(device, torch.float32)
            return codec.encode(images[i:j].to(device), drawn).cpu().float()

        parts += in_parts(codec, encoded, len(images))
    labels = torch.tensor([files[i % len(files)][1] for i in ids], dtype=torch.int64)
    checkpoint.save(path, {"data": torch.cat(parts), "labels": labels}, {})


def _image(file: Path, size: int, mirrored: bool) -> Tensor:
    """A cropped image in [-1, 1], [3, size, size]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "demo", "reading images") from error
    try:
        with Image.open(file) as image:
            pixels = centre_crop(image, size)
    except OSError as error:
        raise DataError(f"{file} is not a readable image: {error}") from error
    pixels = pixels[:, ::-1] if mirrored else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 127.5 - 1.0
