"""Exact fields fitted to ground truth: data whose flow is known in closed form and that resemble the user's own.

    gaussian_like   one Gaussian a class: class means c, covariance  S = sum_j (x_j - c)(x_j - c)^T / (n - classes)
    mixture_like    several: k-means in each class gives the centres, S is what is left within the clusters
    synthetic       an ImageSet drawn from such a field

S is shared by all classes and turned to its principal axes, S = A diag(s^2) A^T, once. A field of this kind has the
mean, the spectrum and (as a mixture) the coarse lumps of the data, and none of their finer structure.
Source: MacQueen 1967 (k-means), by SciPy; pooled covariance as in Fisher's linear discriminant (1936).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from slowflow import rng
from slowflow.data.bank import LARGEST
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.flow.interpolants import Interpolant
from slowflow.flow.spectral import SpectralMixture, draw

ITERATIONS = 30
"""Of k-means; its clusters only have to be sensible, not optimal."""


def gaussian_like(
    images: ImageSet, classes: int, path: str | Interpolant = "linear", t_max: float = 1.0
) -> SpectralMixture:
    """The exact flow of one Gaussian a class with the means and the pooled covariance of the data.

    Args:
        images: the data.
        classes: number of classes of the model; 0 takes all data as one class with label 0.
        path: linear, gvp or vp.
        t_max: where sampling ends.

    Raises:
        DataError: more than LARGEST dimensions, constant data, a class without data, a label outside the classes.
        InputError: a negative number of classes, or as `SpectralMixture`.
    """
    rows, labels = _prepared(images, classes)
    return _fitted(images, rows, labels, labels, path, t_max)


def mixture_like(
    images: ImageSet,
    classes: int,
    path: str | Interpolant = "linear",
    t_max: float = 1.0,
    components: int = 4,
    seed: int = 0,
) -> SpectralMixture:
    """The exact flow of a mixture of Gaussians a class, with the pooled covariance within the clusters.

    Every cluster has the same weight, so that the mean of a class is that of its centres and not of its data.

    Args:
        images: the data.
        classes: number of classes of the model; 0 takes all data as one class with label 0.
        path: linear, gvp or vp.
        t_max: where sampling ends.
        components: clusters in a class, at least 1; fewer where a class has not twice as many different images.
        seed: of k-means.

    Raises:
        DataError: more than LARGEST dimensions, constant data, a class without data, a label outside the classes.
        InputError: components below 1, a negative number of classes, or as `SpectralMixture`.
    """
    if components < 1:
        raise InputError(f"components is {components}, expected at least 1")
    rows, labels = _prepared(images, classes)
    cluster = np.empty(len(rows), dtype=np.int64)
    found = 0
    for label in np.unique(labels):
        own = labels == label
        cluster[own] = found + _clusters(rows[own], components, rng.generator(seed, "k-means", int(label)))
        found = int(cluster[own].max()) + 1
    return _fitted(images, rows, labels, cluster, path, t_max)


def synthetic(field: SpectralMixture, n_per_class: int, seed: int, name: str) -> ImageSet:
    """Data drawn from a field, classes in turn, float32.

    Args:
        field: the mixture; every class that has centres is drawn.
        n_per_class: items of each class, at least 1.
        seed: of the draw.
        name: of the set.

    Raises:
        InputError: n_per_class below 1.
    """
    if n_per_class < 1:
        raise InputError(f"n_per_class is {n_per_class}, expected at least 1")
    labels = field.labels.unique().to(torch.int64).repeat(n_per_class)
    data = draw(field, labels, rng.generator(seed, "synthetic"))
    return ImageSet(name, data.to(torch.float32), labels, field.classes, pixels=False)


def _prepared(images: ImageSet, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, d] in float64 and the class of each, checked."""
    if classes < 0:
        raise InputError(f"classes is {classes}, expected at least 0 (0 = unconditional)")
    rows = images.data.flatten(1).to(torch.float64).numpy()
    labels = images.labels.numpy() if classes else np.zeros(len(images), dtype=np.int64)
    if rows.shape[1] > LARGEST:
        raise DataError(
            f"'{images.name}' has {rows.shape[1]} dimensions, too many for principal axes (at most {LARGEST})"
        )
    if bool((rows == rows[0]).all()):
        raise DataError(f"all {len(rows)} items of '{images.name}' are equal; a field needs data that vary")
    if labels.max() >= max(classes, 1):
        raise DataError(f"labels of '{images.name}' run up to {labels.max()}, the model knows {classes} classes")
    missing = sorted(set(range(max(classes, 1))) - set(labels.tolist()))
    if missing:
        raise DataError(
            f"'{images.name}' has no item of {len(missing)} of the model's {classes} classes (first: {missing[0]})"
        )
    return rows, labels


def _clusters(rows: np.ndarray, components: int, generator: np.random.Generator) -> np.ndarray:
    """Cluster 0, 1, ... of each row; every number up to the largest is used."""
    # two different images a cluster at least, or its centre is an image and its width nothing
    wanted = min(components, len(np.unique(rows, axis=0)) // 2)
    if wanted < 2:
        return np.zeros(len(rows), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may run empty; it is left out below
        _, found = kmeans2(rows, wanted, iter=ITERATIONS, minit="++", seed=generator)
    return np.unique(found, return_inverse=True)[1]


def _fitted(
    images: ImageSet,
    rows: np.ndarray,
    labels: np.ndarray,
    cluster: np.ndarray,
    path: str | Interpolant,
    t_max: float,
) -> SpectralMixture:
    """The field with the mean of each cluster as a centre and the covariance about them."""
    count = int(cluster.max()) + 1
    centres = np.stack([rows[cluster == k].mean(axis=0) for k in range(count)])
    first = np.array([np.flatnonzero(cluster == k)[0] for k in range(count)])
    rest = rows - centres[cluster]
    variances, axes = np.linalg.eigh(rest.T @ rest / max(len(rows) - count, 1))
    return SpectralMixture(
        torch.from_numpy(centres).view(count, *images.shape),
        torch.from_numpy(labels[first]),
        torch.from_numpy(axes),
        torch.from_numpy(np.maximum(variances, 0.0)),
        path,
        t_max=t_max,
    )
