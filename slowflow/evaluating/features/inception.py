"""inception: the network of the published FID, from its file of weights (`--features inception:PATH`).

The file is the PyTorch port of the TensorFlow graph of 2015 that pytorch-fid and torch-fidelity use; it is opened as
plain tensors and never downloaded. Its published name ends in the first eight digits of its SHA-256. A file with that
hash gives FID; any other file of the same layout gives FD-inception.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from slowflow.errors import CheckpointError, InputError
from slowflow.evaluating.features.base import FEATURES, Features, Outputs, Request
from slowflow.evaluating.inception import Inception
from slowflow.io import checkpoint
from slowflow.io.run import file_sha256

BATCH = 32
"""Images of 299 pixels a call: about 200 MB of maps."""
PUBLISHED = "6726825d"
"""First digits of the SHA-256 of pt_inception-2015-12-05, as its name has them."""
TELLTALE = "Mixed_7c.branch_pool.conv.weight"


class InceptionFile:
    """A state dict of the FID network."""

    def fits(self, path: Path) -> bool:
        """A file of tensors with the network's last block."""
        if not path.is_file():
            return False
        try:
            return TELLTALE in checkpoint.load(path).tensors
        except CheckpointError:
            return False

    def open(self, asked: Request) -> Features:
        """Every name and shape must match."""
        path = asked.path
        tensors = checkpoint.load(path).tensors
        with torch.device("meta"):  # the file brings every number
            net = Inception()
        kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        checkpoint.load_strictly(net, kept, path, assign=True)
        net.eval().requires_grad_(False).to(asked.device)
        sha = file_sha256(path)
        known = sha.startswith(PUBLISHED)
        note = (
            "" if known else f"its hash does not begin with {PUBLISHED}: not the published weights, so not called FID"
        )

        def outputs(images: Tensor) -> Outputs:
            found = net(levels(images))
            return Outputs(found.features, found.spatial, found.logits.softmax(dim=1))

        return Features(
            "FID" if known else "FD-inception", sha, outputs, channels=3, device=asked.device, batch=BATCH, note=note
        )


class Script:
    """A TorchScript file, such as NVIDIA's of the same network.

    TorchScript is a program. Opening and running one runs what its author wrote, with no protection worth the name, so
    one is only opened under `torchscript:PATH` and with the hash of the file that is meant; SlowFlow never takes a file for
    TorchScript by its content. Pictures go in as uint8 [n, 3, h, w]; IS and sFD are not taken, as such files do not agree
    on where classes and maps are.
    """

    def fits(self, path: Path) -> bool:
        """Never guessed: running a file's code must be asked for."""
        return False

    def open(self, asked: Request) -> Features:
        """Only with its hash."""
        path = asked.path
        if asked.sha256 is None:
            raise InputError(
                f"{path} is TorchScript, a program that would be run; give the SHA-256 of the file you trust with "
                f"--features-sha256 (this file's is {file_sha256(path)})"
            )
        net = checkpoint.load_script(path).to(asked.device)
        flag = {"return_features": True} if "return_features" in checkpoint.script_arguments(net) else {}

        def outputs(images: Tensor) -> Outputs:
            found = net(levels(images).to(torch.uint8), **flag)
            if not isinstance(found, Tensor) or found.ndim != 2:
                raise InputError(f"{path} returned no [n, k] features")
            return Outputs(found)

        note = "features by a TorchScript program"
        return Features(
            f"FD-{path.stem}", asked.sha256.lower(), outputs, channels=3, device=asked.device, batch=BATCH, note=note
        )


def levels(images: Tensor) -> Tensor:
    """Grey levels 0 to 255 as floats, in three channels; grey pictures have equal ones."""
    whole = ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5 + 0.5).floor()
    return whole.expand(-1, 3, -1, -1) if images.shape[1] == 1 else whole


FEATURES.register(
    "inception",
    summary="weights of the FID network by path: inception:FILE",
    source="Szegedy et al. 2015; weights of 2015-12-05 as ported for pytorch-fid",
)(InceptionFile())
FEATURES.register(
    "torchscript",
    summary="a TorchScript file by path and hash: torchscript:FILE; it is a program and is run",
    source="its author",
)(Script())
