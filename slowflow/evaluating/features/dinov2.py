"""dinov2: a local folder of DINOv2 in transformers' layout (`--features dinov2:FOLDER`); needs the extra `diffusers`.

Pictures are resized to 224 by antialiased bicubic interpolation and normalised as DINOv2 was trained; the feature is the
class token after the last norm. FD-DINOv2 follows people's judgement of generative models better than FID does, and its
size is not that of an FID.
Source: Oquab et al. 2023 (arXiv 2304.07193); Stein et al. 2023 (arXiv 2306.04675).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.evaluating.features.base import FEATURES, Features, Outputs, Request
from slowflow.io import pretrained
from slowflow.io.run import file_sha256, read_json

SIZE = 224
BATCH = 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TYPES = ("dinov2", "dinov2_with_registers")
WEIGHTS = "model.safetensors"


class Dinov2:
    """DINOv2 through transformers."""

    def fits(self, path: Path) -> bool:
        """A folder whose config says so."""
        config = path / "config.json"
        return config.is_file() and read_json(config).get("model_type") in TYPES

    def open(self, asked: Request) -> Features:
        """Weights as safetensors, from the folder alone: no download and no code from it."""
        folder = asked.path
        if not self.fits(folder):
            raise CheckpointError(f"{folder} is no folder of DINOv2 (config.json with model_type {' or '.join(TYPES)})")
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder} has no {WEIGHTS}; other formats are not opened")
        sha = file_sha256(folder / WEIGHTS)
        if asked.sha256 is not None and asked.sha256.lower() != sha:
            raise InputError(f"{folder / WEIGHTS} has SHA-256 {sha}, not {asked.sha256.lower()}")
        net = _network(folder).to(asked.device)

        def outputs(images: Tensor) -> Outputs:
            return Outputs(net(pixel_values=prepared(images)).last_hidden_state[:, 0])

        return Features("FD-DINOv2", sha, outputs, channels=3, device=asked.device, batch=BATCH)


def _network(folder: Path) -> Any:
    transformers = pretrained.require("transformers", "the features 'dinov2'")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        found = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    finally:
        if shown:
            bars.enable_progress_bar()
    net, info = found
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} weights of DINOv2 ({', '.join(missing[:5])})")
    return net.eval().requires_grad_(False)


def prepared(images: Tensor) -> Tensor:
    """Images in [-1, 1] as DINOv2 sees them: three channels, 224 pixels, ImageNet's mean and deviation."""
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    sized = F.interpolate((rgb + 1.0) / 2.0, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(x, device=images.device)[:, None, None] for x in (MEAN, DEVIATION))
    return (sized.clamp(0.0, 1.0) - mean) / deviation


FEATURES.register(
    "dinov2",
    summary="a local folder of DINOv2 (transformers): dinov2:FOLDER",
    source="Oquab et al. 2023 (arXiv 2304.07193)",
)(Dinov2())
