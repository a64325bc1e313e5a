"""Grids of samples, one panel an arm, the same noise in the same cell of every panel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import image as plt_image
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.flow.generate import quantise
from slowflow.io import atomic
from slowflow.measuring.measurement import Measurement
from slowflow.results import RunResult

ROWS, COLUMNS = 10, 10


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 images [n, h, w, c] on one sheet, row by row, a pixel of white between."""
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = 1 + (i // columns) * (height + 1), 1 + (i % columns) * (width + 1)
        sheet[y : y + height, x : x + width] = image
    return sheet


def save_sheet(images: np.ndarray, path: Path) -> None:
    """Write uint8 images [n, h, w, c] as one PNG sheet, pixels four times as large."""
    sheet = tile(images, COLUMNS).repeat(4, axis=0).repeat(4, axis=1)
    buffer = io.BytesIO()
    plt_image.imsave(
        buffer, sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, cmap="gray", vmin=0, vmax=255, format="png"
    )
    atomic.write_bytes(path, buffer.getvalue())


def image_states(found: Measurement) -> tuple[int, ...]:
    """The shape [c, h, w] of states that can be drawn as they are.

    Raises:
        InputError: they are latents.
    """
    shape = tuple(int(size) for size in found.facts["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"states of shape {shape} are not images and cannot be drawn without a codec")
    return shape


def data(result: RunResult) -> pd.DataFrame:
    """arm, title, steps, sheet (an image array): the first samples of every arm."""
    rows = []
    for arm in result.arms:
        if arm.name not in result.measurements:
            continue
        found = result.measurements[arm.name]
        shape = image_states(found)
        states = torch.from_numpy(found.array("final")[: ROWS * COLUMNS]).view(-1, *shape)
        rows.append(
            {"arm": arm.name, "title": arm.title, "steps": found.steps[0], "sheet": tile(quantise(states), COLUMNS)}
        )
    if not rows:
        raise InputError(f"{result.path} holds no samples")
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """Grey images in grey, colour images in colour."""
    for panel, row in zip(axes, table.itertuples(), strict=True):
        sheet = np.asarray(row.sheet)
        panel.imshow(
            sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest"
        )
        panel.set(title=str(row.title), xticks=[], yticks=[])
        panel.grid(False)
        for side in panel.spines.values():
            side.set_visible(False)


def alt(table: pd.DataFrame) -> str:
    """What is in the panels."""
    return (
        f"Grids of samples at {table['steps'].iloc[0]} steps, the same noise in every grid: "
        + "; ".join(table["title"])
        + "."
    )


FIGURES.register("samples", summary="grids of samples, the same noise for every arm", source="SlowFlow")(
    Figure(
        title="What do the samples look like?",
        caption=(
            "The first samples by id, not selected: the same starting noise in the same cell of every grid, "
            "class = id modulo the number of classes."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(len(table), 3.6, 3.9),
        alt=alt,
        arms=True,
    )
)
