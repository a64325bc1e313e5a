"""A small convolutional classifier: feature extractor of FD-mnist and the judge of whether a sample shows its label.

Trained on real training images only, by a recorded recipe, and shipped with its held-out accuracy. Its distance is
named FD-<data>, never FID: FID is a distance in the features of one particular Inception network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slowflow import rng
from slowflow.config import from_mapping, read_toml
from slowflow.data.images import ImageSet
from slowflow.data.open import open_data
from slowflow.io import checkpoint, ranks
from slowflow.io.run import RunFolder


@dataclass(frozen=True)
class ClassifierRecipe:
    """Settings of a classifier.

    Args:
        name: of the features, such as fd-mnist.
        data: data set; the same held-out split as everywhere.
        features: width of the layer that is compared.
        epochs, batch_size, lr: Adam with a cosine to zero.
        shift: images are moved by up to this many pixels while training.
        seed: of weights, order and shifts.
    """

    name: str
    data: str
    features: int = 64
    epochs: int = 20
    batch_size: int = 100
    lr: float = 2e-3
    shift: int = 1
    heldout: float = 0.2
    seed: int = 0


class Classifier(nn.Module):
    """Three strided convolutions, one feature layer, one linear head."""

    def __init__(self, channels: int, size: int, features: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, stride=2 if size > 16 else 1, padding=1)
        cells = self.conv3(self.conv2(self.conv1(torch.zeros(1, channels, size, size)))).flatten(1).shape[1]
        self.embed = nn.Linear(cells, features)
        self.head = nn.Linear(features, classes)

    def maps(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n channels y x"]:
        """The last map, where features still have a place in the image."""
        return F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(images))))))

    def embedded(self, maps: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n k"]:
        """The layer that is compared, of the last map."""
        return F.relu(self.embed(maps.flatten(1)))

    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """The layer that is compared."""
        return self.embedded(self.maps(images))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits."""
        return self.head(self.features(images))


def read_classifier_recipe(path: str | Path) -> ClassifierRecipe:
    """Parse the [classifier] section of a recipe."""
    return from_mapping(ClassifierRecipe, read_toml(path).get("classifier", {}), f"[classifier] of {path}")


def train_classifier(recipe: ClassifierRecipe, out: str | Path) -> Path:
    """Train into the folder `out`; returns the weights' path. Takes seconds, so it is not resumed in the middle, and of
    several ranks the first one does it while the others wait."""
    train, heldout = open_data(recipe.data).split(recipe.heldout)
    folder, here = RunFolder(out, "classifier", {"recipe": recipe, "data_sha256": train.fingerprint}), ranks.current()
    if here.leads and not folder.finished:
        _train(recipe, train, heldout, folder)
    here.meet()
    return folder.path / "model.safetensors"


def _train(recipe: ClassifierRecipe, train: ImageSet, heldout: ImageSet, folder: RunFolder) -> None:
    """One process, from the first step to the manifest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = Classifier(train.shape[0], train.shape[1], recipe.features, train.classes)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
    batches = len(train) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * batches)
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(rng.permutation(recipe.seed, "classifier", len(train), epoch).copy())
        for batch in range(batches):
            rows = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            draw = rng.torch_generator(recipe.seed, "shift", epoch, batch)
            images = _moved(train.data[rows], recipe.shift, draw)
            loss = F.cross_entropy(net(images), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    facts = {"train_accuracy": accuracy(net, train), "heldout_accuracy": accuracy(net, heldout)}
    shape = {"channels": train.shape[0], "size": train.shape[1], "features": recipe.features, "classes": train.classes}
    metadata = {"classifier": shape, "provenance": {"recipe": asdict(recipe), **facts}}
    checkpoint.save(folder.path / "model.safetensors", dict(net.named_parameters()), metadata)
    folder.finish(["model.safetensors"], {"checkpoint": "model.safetensors", **facts})


def _moved(images: Tensor, shift: int, draw: torch.Generator) -> Tensor:
    """The whole batch moved by one random offset; what comes in at the edge repeats the border."""
    if shift == 0:
        return images
    dy, dx = (int(v) for v in torch.randint(0, 2 * shift + 1, (2,), generator=draw))
    height, width = images.shape[-2:]
    return F.pad(images, (shift,) * 4, mode="replicate")[..., dy : dy + height, dx : dx + width]


@torch.no_grad()
def accuracy(net: Classifier, images: ImageSet) -> float:
    """Share of images whose largest logit is their label."""
    return float((net(images.data).argmax(1) == images.labels).float().mean())


def open_classifier(path: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """Weights and provenance of a shipped or own classifier."""
    stored = checkpoint.load(path)
    net = Classifier(**stored.metadata["classifier"])
    net.load_state_dict(stored.tensors)
    return net.eval(), stored.metadata["provenance"]
