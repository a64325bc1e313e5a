"""Look at the data before anything is measured, and say by name what would make the numbers untrustworthy."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float

from slowflow import rng
from slowflow.data.bank import LARGEST, Bank
from slowflow.data.images import ImageSet
from slowflow.data.mapped import tiles
from slowflow.errors import DataError
from slowflow.flow.interpolants import Interpolant

TOO_VAGUE = 0.5
"""Standard deviation of the slack of one state, as the spectrum allows it, from which `level` is called unidentified."""
LATE = 0.3


def screened(bank: ImageSet, heldout: ImageSet, asked: int, seed: int) -> tuple[ImageSet, list[str]]:
    """(the bank, cut to the size asked for; warnings).

    Args:
        bank, heldout: the two parts of the data.
        asked: images the bank should hold, 0 for all; a smaller bank is a random part, stratified by class.
        seed: of that choice.

    Raises:
        DataError: every image is the same, or the bank asked for is too small for the classes.
    """
    warnings = []
    first = bank.data[:1].flatten(1)
    if all(bool((tile.flatten(1) == first).all()) for tile in tiles(bank.data)):
        raise DataError(
            f"all {len(bank)} images of '{bank.name}' are the same; there is no spectrum and nothing to search"
        )
    constant = sum(int((tile.flatten(1) == tile.flatten(1)[:, :1]).all(1).sum()) for tile in tiles(bank.data))
    if constant:
        warnings.append(f"constant images: {constant} of {len(bank)} images of '{bank.name}' have one value everywhere")
    rows, others = _keys(bank), _keys(heldout)
    for images, keys in ((bank, rows), (heldout, others)):
        doubles = len(keys) - len(set(keys))
        if doubles:
            warnings.append(f"duplicates: {doubles} of {len(images)} images of '{images.name}' occur more than once")
    leaked = len(set(rows) & set(others))
    if leaked:
        warnings.append(
            f"leak: {leaked} images are both in the bank and held out; genuine states of those find themselves, so the "
            "nulls of searched references are too close to t"
        )
    if asked > len(bank):
        warnings.append(f"small bank: {asked} images were asked for and '{bank.name}' holds {len(bank)}")
    elif 0 < asked < 2 * max(bank.classes, 1):
        raise DataError(
            f"a bank of {asked} images is too small for {bank.classes} classes; at least 2 a class are needed"
        )
    elif asked:
        bank = _part(bank, asked, seed)
    return bank, warnings


def _keys(images: ImageSet) -> list[bytes]:
    """What is equal for equal images: a hash, because the images of a large bank are not kept twice."""
    rows = (row for tile in tiles(images.data) for row in tile.flatten(1).contiguous().numpy())
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def _part(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`count` images, the classes in turn."""
    order: list[tuple[float, int]] = []
    for label in images.labels.unique().tolist():
        rows = np.flatnonzero(images.labels.numpy() == label)
        shuffled = rows[rng.permutation(seed, "bank", len(rows), int(label))]
        order += [((k + 0.5) / len(rows), int(row)) for k, row in enumerate(shuffled)]
    chosen = sorted(row for _, row in sorted(order)[:count])
    return images.take(np.array(chosen), f"bank of {count}")


def level_information(bank: Bank, path: Interpolant, times: Float[torch.Tensor, " times"]) -> np.ndarray:
    """Fisher information about t in the energies of one Gaussian state with the data's spectrum: sum_i (v_i'/v_i)^2 / 2.

    The slack of one state cannot be read with a smaller standard deviation than 1 / (t sqrt(information)).
    """
    spectrum = bank.spectrum
    alpha, sigma, up, down = (
        f(times).numpy()[:, None] for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
    )
    variance = alpha**2 * spectrum.group_variance + sigma**2
    slope = 2.0 * (alpha * up * spectrum.group_variance + sigma * down)
    return np.asarray(0.5 * np.square(slope / variance) @ spectrum.group_size)


def level_warning(bank: Bank, path: Interpolant, times: Float[torch.Tensor, " times"]) -> list[str]:
    """A warning where the dimension or the spectrum does not identify the level."""
    path, times = path.twin(times)  # a table of noise levels has no derivative; the times of its twin are as good
    inner = times[(times >= LATE) & (times < 1.0)]
    size = next(iter(bank.shards.values())).shape[1]
    if size > LARGEST or not len(inner):
        return []
    information = np.maximum(level_information(bank, path, inner), 1e-12)
    doubt = float(np.median(1.0 / (inner.numpy() * np.sqrt(information))))
    if doubt < TOO_VAGUE:
        return []
    return [
        f"level not identified: {size} dimensions with this spectrum leave a standard deviation of {doubt:.2f} on the "
        "slack of one state; read means over many samples only, or measure in more dimensions"
    ]
