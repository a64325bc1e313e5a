"""Latents on disk: what `slowflow encode` wrote, and REPA's folder of posterior means and deviations as it is.

REPA (and EDM2) keep one .npy per image with 2 C channels, mean then standard deviation, beside a dataset.json of
[name, label]. A training latent is (mean + std * noise) * 0.18215. Here one draw is made per image, keyed by its place
in the list, so that every part of SlowFlow sees the same latents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from slowflow import rng
from slowflow.data.images import ImageSet
from slowflow.data.mapped import MappedRows
from slowflow.errors import DataError, InputError
from slowflow.io import checkpoint
from slowflow.io.run import read_json, read_manifest

SD_VAE_SCALE = 0.18215
"""Scale of sd-vae-ft-ema/mse, the only autoencoder REPA's folders are made with."""
MOMENTS = "vae-sd"


def is_encoded(folder: Path) -> bool:
    """True for the folder of an `encode` run, finished or not."""
    config = folder / "config.json"
    return config.is_file() and (folder / "shards").is_dir() and '"encode"' in config.read_text(encoding="utf-8")


def open_encoded(folder: Path) -> ImageSet:
    """Latents that `slowflow encode` wrote.

    Raises:
        DataError: the run is unfinished or damaged.
    """
    try:
        result = read_manifest(folder, "encode")["result"]
    except InputError as error:
        raise DataError(f"the latents in {folder} cannot be used: {error}") from error
    count, shape = int(result["count"]), tuple(map(int, result["shape"]))
    parts, labels = [], []
    for name in result["shards"]:
        shard = checkpoint.load(folder / name).tensors
        if shard["data"].shape != (len(shard["labels"]), *shape) or shard["data"].dtype != torch.float32:
            raise DataError(f"{folder / name} does not belong to the {count} latents of {folder}")
        parts.append(shard["data"])
        labels.append(shard["labels"].clone())
    if sum(map(len, parts)) != count:
        raise DataError(f"{folder} holds {sum(map(len, parts))} of {count} latents; encode again")
    data = MappedRows(parts)
    return ImageSet(
        folder.name, data, torch.cat(labels), int(result["classes"]), pixels=result["codec"]["name"] == "pixels"
    )


def moments_folder(folder: Path) -> Path | None:
    """The folder of means and deviations that `folder` is or holds, None when there is none."""
    for place in (folder, folder / MOMENTS):
        if (place / "dataset.json").is_file() and any(place.glob("*/img-mean-std-*.npy")):
            return place
    return None


def open_moments(folder: Path, seed: int = 0) -> ImageSet:
    """One latent per image from REPA's folder.

    Raises:
        DataError: the list is damaged, a file is missing, or an array has not 2 C channels.
    """
    content = read_json(folder / "dataset.json")
    rows = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 for r in rows) or not rows:
        raise DataError(f"{folder / 'dataset.json'} has no list 'labels' of [name, label]")
    away = [str(name) for name, _ in rows if not (folder / str(name)).resolve().is_relative_to(folder.resolve())]
    if away:
        raise DataError(f"{folder / 'dataset.json'} names '{away[0]}', which lies outside of the folder")
    latents = [_draw(folder / str(name), i, seed) for i, (name, _) in enumerate(rows)]
    if len({latent.shape for latent in latents}) > 1:
        raise DataError(f"the latents in {folder} have different shapes; all must be equal")
    labels = torch.tensor([int(label) for _, label in rows], dtype=torch.int64)
    return ImageSet(folder.name, torch.stack(latents), labels, int(labels.max()) + 1, pixels=False)


def _draw(file: Path, index: int, seed: int) -> torch.Tensor:
    try:
        moments = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is not a readable array: {error}") from error
    if moments.ndim != 3 or moments.shape[0] % 2 or not np.issubdtype(moments.dtype, np.floating):
        raise DataError(
            f"{file} has shape {moments.shape} of {moments.dtype}, expected [2 C, h, w]: means, then deviations"
        )
    mean, std = np.split(moments.astype(np.float64), 2)
    noise = rng.normal(seed, "posterior", [index], mean.shape)[0]
    return torch.from_numpy(((mean + std * noise) * SD_VAE_SCALE).astype(np.float32))
