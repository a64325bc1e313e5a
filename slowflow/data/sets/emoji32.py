"""emoji32: 1,906 emoji of nine categories, 32 x 32 RGB, from the npm package emoji-datasource-google.

Skin-tone variants are left out: they repeat a picture in other colours, and a picture may not stand on both sides of the
held-out split. So is the category `Component`, which has five pictures. Transparent pixels become white.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from slowflow.data.images import ImageSet
from slowflow.data.sets import SETS
from slowflow.errors import EnvironmentProblem, MissingExtraError
from slowflow.io.run import read_json

PACKAGE, VARIABLE = "emoji-datasource-google", "SLOWFLOW_EMOJI"
SIZE = 32
CATEGORIES = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects",
    "Symbols", "Flags",
)  # fmt: skip


def _folder() -> Path:
    """Where the package is: the folder that the environment names, or `node_modules` below the current one."""
    told = os.environ.get(VARIABLE)
    folder = Path(told) if told else Path("node_modules") / PACKAGE
    if not (folder / "emoji.json").is_file():
        raise EnvironmentProblem(
            f"emoji32 is read from {folder}, which holds no emoji.json: npm install {PACKAGE}@16.0.0 in this folder, or set "
            f"{VARIABLE} to the folder of the package"
        )
    return folder


@SETS.register(
    "emoji32",
    summary="1,906 emoji, 32x32 RGB, 9 categories (npm package emoji-datasource-google)",
    source="Noto Emoji (Apache-2.0), as shipped in emoji-datasource-google 16.0.0 (MIT)",
)
def load() -> ImageSet:
    """Read the pictures, put them on white and shrink them to 32 x 32 (Lanczos); pixels 0..255 become -1..1."""
    folder = _folder()
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "demo", "the data set emoji32") from error
    pictures, labels = [], []
    for entry in read_json(folder / "emoji.json"):
        if not entry.get("has_img_google") or entry["category"] not in CATEGORIES:
            continue
        with Image.open(folder / "img" / "google" / "64" / entry["image"]) as file:
            drawn = file.convert("RGBA")
        white = Image.new("RGBA", drawn.size, (255, 255, 255, 255))
        small = Image.alpha_composite(white, drawn).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(small, dtype=np.float32))
        labels.append(CATEGORIES.index(entry["category"]))
    data = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / 127.5 - 1.0)
    return ImageSet("emoji32", data.contiguous(), torch.tensor(labels, dtype=torch.int64), classes=len(CATEGORIES))
