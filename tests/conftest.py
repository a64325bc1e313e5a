"""Shared by all tests: a tiny conditional model with fixed weights and smooth 8 x 8 images of ten classes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slowflow.data.images import ImageSet
from slowflow.flow.model import FlowModel

CLASSES, SIZE = 10, 8


def patterns() -> np.ndarray:
    """One smooth wave a class, [10, 1, 8, 8], values within 0.6 of zero."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    waves = [np.cos(2 * math.pi * ((c % 3) * x + (c // 3) * 0.5 * y) + 0.7 * c) for c in range(CLASSES)]
    return 0.6 * np.stack(waves)[:, None]


class TinyNet(nn.Module):
    """`factor` times the velocity of N(pattern of the class, width^2 I), linear path; float64, last class null."""

    def __init__(self, factor: float = 1.0, width: float = 0.25, classes: int = CLASSES) -> None:
        super().__init__()
        rows = patterns()[:classes] if classes else patterns()[:1]
        centres = np.concatenate([rows, np.zeros_like(rows[:1])])
        self.centres = nn.Parameter(torch.from_numpy(centres), requires_grad=False)
        self.factor, self.width = factor, width

    def forward(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = t[:, None, None, None]
        rest = (state - t * self.centres[cond]) / (t**2 * self.width**2 + (1 - t) ** 2)
        return self.factor * (self.centres[cond] + (t * self.width**2 - (1 - t)) * rest)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., FlowModel]:
    """tiny_model(factor=1.0, name="tiny", classes=10): a FlowModel of shape (1, 8, 8) that answers at once."""

    def make(factor: float = 1.0, name: str = "tiny", classes: int = CLASSES) -> FlowModel:
        return FlowModel.from_callable(
            TinyNet(factor, classes=classes), shape=(1, SIZE, SIZE), classes=classes, name=name
        )

    return make


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """300 images, 30 a class in turn: the pattern of the class, a smooth random part and a little grain."""
    draw = np.random.default_rng(7)
    labels = np.arange(300) % CLASSES
    smooth = draw.normal(size=(300, CLASSES)) @ patterns().reshape(CLASSES, -1)
    values = (
        patterns()[labels] + 0.12 * smooth.reshape(300, 1, SIZE, SIZE) + 0.05 * draw.normal(size=(300, 1, SIZE, SIZE))
    )
    data = torch.from_numpy(np.clip(values, -1, 1).astype(np.float32))
    return ImageSet("waves", data, torch.from_numpy(labels.astype(np.int64)), classes=CLASSES)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: on several threads equal bytes are not promised."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """process(code, word, *arguments): an interpreter that has run `code` until it printed `word`; killed at the end."""
    started = []

    def start(code: str, word: str, *arguments: object) -> subprocess.Popen[str]:
        path = os.pathsep.join(p for p in sys.path if p)
        made = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == f"{word}\n"
        return made

    yield start
    for made in started:
        made.kill()
        made.wait()
        for stream in (made.stdin, made.stdout):
            assert stream is not None
            stream.close()
