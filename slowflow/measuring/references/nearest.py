"""References that search the bank: nearest (own noise; the default) and fresh (noise that is not the state's).

Joint minimum over the images of the class and over m (FAISS). Neither has its zero on the diagonal. With the state's
own noise a genuine state whose datum is not in the bank comes out at m/t = (1 + c s^2)/(1 + s^2) on the linear path (c:
correlation with the winning image, s^2: data variance). With fresh noise it comes out at m = (1 + c t s^2)/(1 + s^2): a
pull to the point of least norm that hides t; `fresh` cannot see slow flow and is here to show it. The excess over
genuine states, measured by the same code, is what is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slowflow import rng
from slowflow.data.bank import Bank
from slowflow.measuring import search
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories, repeat


@dataclass(frozen=True)
class Searched:
    """Joint minimum over images of the class and over m.

    Args:
        shares_noise: take the state's own noise, or an independent draw.
    """

    shares_noise: bool = True
    start: Start = "noise"

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m and the winning image of every state."""
        n, times, d = batch.states.shape
        own = batch.noise
        if not self.shares_noise:
            own = rng.normal(batch.seed, f"{batch.kind}/fresh", batch.ids.tolist(), (d,))
        flat, noise = batch.states.reshape(n * times, d), repeat(own, times)
        labels = np.repeat(batch.labels, times)
        m, distance = np.empty(n * times), np.empty(n * times)
        boundary, index = np.empty(n * times, dtype=bool), np.empty(n * times, dtype=np.int64)
        certified = 0.0
        for label in np.unique(labels):
            rows = labels == label
            found = search.nearest(flat[rows], noise[rows], bank.shard(int(label)), batch.path, backend)
            m[rows], distance[rows], boundary[rows] = found.closest.m, found.closest.distance, found.closest.boundary
            index[rows] = found.index
            certified += found.certified * rows.sum() / len(labels)
        return Assigned(
            m=m.reshape(n, times),
            residual=(distance / np.linalg.norm(flat, axis=1)).reshape(n, times),
            boundary=boundary.reshape(n, times),
            index=index.reshape(n, times),
            certified=float(certified),
        )


REFERENCES.register(
    "nearest",
    summary="own noise, nearest real image of the class over the bank (FAISS); the default",
    source="MixFlow (arXiv 2512.19311), abstract; null by the algebra of shared noise",
)(Searched())
REFERENCES.register(
    "fresh",
    summary="independent noise, nearest real image of the class; cannot see slow flow, shown to say so",
    source="SlowFlow; null by the algebra of independent noise",
)(Searched(shares_noise=False))
