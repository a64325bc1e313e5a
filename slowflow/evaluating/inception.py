"""The network of the published FID: Inception-v3 as a TensorFlow graph of 2015 has it, in PyTorch's names.

It differs from today's Inception-v3 in four ways: 1,008 classes; average pools that do not count their padding; a maximum
instead of an average pool in the last block; and a resize to 299 pixels whose grid is not centred (output pixel i looks
at i * in / out). Grey levels go in and become (x - 128) / 128.

    features  2,048 after the last average pool                     FID, KID, precision and recall
    spatial   7 of 192 channels of Mixed_6d's first branch, 17 x 17, rows first, channels last    sFID
    logits    1,008, without the bias of the last layer              Inception Score

Written from these facts and checked here by shapes, by 23,850,960 parameters and by behaviour; equality with the
official network needs the official weights and is not checked by the tests.
Source: Szegedy et al. 2015 (arXiv 1512.00567); facts as recorded by pytorch-fid, torch-fidelity and guided-diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SIZE = 299
SPATIAL = 7
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """What the network says of a batch."""

    features: Float[Tensor, "n 2048"]
    spatial: Float[Tensor, "n 2023"]
    logits: Float[Tensor, "n 1008"]


class Norm(nn.Module):
    """Batch norm of a fixed network: the four vectors that the file holds, and no count of batches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """With the stored mean and variance, always."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU; padded to keep its size unless it strides or is told not to."""

    def __init__(self, channels: int, out: int, kernel: Size, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, out, (height, width), stride, padding, bias=False)
        self.bn = Norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width unless it strides."""
        return F.relu(self.bn(self.conv(x)))


Branch = Sequence[str | tuple[str, ...]]


class Block(nn.Module):
    """Branches side by side, their channels joined; a tuple in a branch runs side by side too.

    Args:
        units: by name, as the file has them.
        branches: chains of names; `average`, `max` and `halve` are pools.
    """

    def __init__(self, units: dict[str, Unit], branches: Sequence[Branch]) -> None:
        super().__init__()
        for name, unit in units.items():
            self.add_module(name, unit)
        self.branches = branches

    def step(self, name: str, x: Tensor) -> Tensor:
        """One unit or pool."""
        if name == "average":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        if name == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        if name == "halve":
            return F.max_pool2d(x, 3, stride=2)
        return self.get_submodule(name)(x)

    def forward(self, x: Tensor) -> Tensor:
        """All branches."""
        joined = []
        for branch in self.branches:
            y = x
            for name in branch:
                y = torch.cat([self.step(n, y) for n in name], 1) if isinstance(name, tuple) else self.step(name, y)
            joined.append(y)
        return torch.cat(joined, 1)


def _chain(name: str, *shapes: tuple[int, int, Size]) -> dict[str, Unit]:
    """name_1, name_2, ... one after the other."""
    return {f"{name}_{i}": Unit(*shape) for i, shape in enumerate(shapes, 1)}


def _a(c: int, pooled: int) -> Block:
    units = {"branch1x1": Unit(c, 64, 1)}
    units |= _chain("branch5x5", (c, 48, 1), (48, 64, 5))
    units |= _chain("branch3x3dbl", (c, 64, 1), (64, 96, 3), (96, 96, 3))
    units |= {"branch_pool": Unit(c, pooled, 1)}
    chains = ["branch1x1"], ["branch5x5_1", "branch5x5_2"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)]
    return Block(units, [*chains, ["average", "branch_pool"]])


def _b(c: int) -> Block:
    units = {"branch3x3": Unit(c, 384, 3, stride=2)}
    units |= _chain("branch3x3dbl", (c, 64, 1), (64, 96, 3)) | {"branch3x3dbl_3": Unit(96, 96, 3, stride=2)}
    return Block(units, [["branch3x3"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)], ["halve"]])


def _c(c: int, w: int) -> Block:
    across, down = (1, 7), (7, 1)
    units = {"branch1x1": Unit(c, 192, 1)}
    units |= _chain("branch7x7", (c, w, 1), (w, w, across), (w, 192, down))
    units |= _chain("branch7x7dbl", (c, w, 1), (w, w, down), (w, w, across), (w, w, down), (w, 192, across))
    units |= {"branch_pool": Unit(c, 192, 1)}
    chains = ["branch1x1"], [f"branch7x7_{i}" for i in (1, 2, 3)], [f"branch7x7dbl_{i}" for i in range(1, 6)]
    return Block(units, [*chains, ["average", "branch_pool"]])


def _d(c: int) -> Block:
    units = {"branch3x3_1": Unit(c, 192, 1), "branch3x3_2": Unit(192, 320, 3, stride=2)}
    units |= _chain("branch7x7x3", (c, 192, 1), (192, 192, (1, 7)), (192, 192, (7, 1)))
    units |= {"branch7x7x3_4": Unit(192, 192, 3, stride=2)}
    chains = [f"branch3x3_{i}" for i in (1, 2)], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)]
    return Block(units, [*chains, ["halve"]])


def _e(c: int, pool: str) -> Block:
    pair = {"a": (1, 3), "b": (3, 1)}
    units = {"branch1x1": Unit(c, 320, 1), "branch3x3_1": Unit(c, 384, 1)}
    units |= {f"branch3x3_2{x}": Unit(384, 384, shape) for x, shape in pair.items()}
    units |= _chain("branch3x3dbl", (c, 448, 1), (448, 384, 3))
    units |= {f"branch3x3dbl_3{x}": Unit(384, 384, shape) for x, shape in pair.items()}
    units |= {"branch_pool": Unit(c, 192, 1)}
    double: Branch = ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")]
    single: Branch = ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")]
    return Block(units, [["branch1x1"], single, double, [pool, "branch_pool"]])


class Inception(nn.Module):
    """The whole network; names as in the file of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c = _c(768, 128), _c(768, 160)
        self.Mixed_6d, self.Mixed_6e = _c(768, 160), _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, levels: Float[Tensor, "n 3 h w"]) -> Answer:
        """Features of pictures given as grey levels 0 to 255, of any size."""
        x = (resized(levels, SIZE) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        spatial = self.Mixed_6d.step("branch1x1", x)[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        features = self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))
        return Answer(features, spatial, features @ self.fc.weight.T)


def resized(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c s s"]:
    """Bilinear, as TensorFlow 1 had it: output pixel i is read at i * in / out, not at pixel centres; no antialiasing."""
    for axis in (2, 3):
        length = images.shape[axis]
        at = torch.arange(size, device=images.device, dtype=torch.float32) * (length / size)
        low = at.floor().long()
        high = (low + 1).clamp_max(length - 1)
        share = (at - low).view(-1, 1) if axis == 2 else (at - low)
        below, above = images.index_select(axis, low), images.index_select(axis, high)
        images = below + (above - below) * share
    return images
