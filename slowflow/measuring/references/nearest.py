"""nearest: the state's own noise, nearest real image of its class over a bank (FAISS). The default.

Its zero is not the diagonal: a genuine state whose datum is not in the bank comes out at m/t = (1 + c s^2)/(1 + s^2)
on the linear path (c: correlation with the winning image, s^2: data variance), slower than t although nothing is
wrong. The excess over genuine states, measured by the same code, is what is reported.
"""

from __future__ import annotations

import numpy as np

from slowflow.data.bank import Bank
from slowflow.errors import InputError
from slowflow.measuring import search
from slowflow.measuring.references.base import REFERENCES, Assigned, Trajectories, repeat


class NearestInBank:
    """Joint minimum over images of the class and over m."""

    def assign(self, batch: Trajectories, bank: Bank | None, backend: str) -> Assigned:
        """m and the winning image of every state."""
        if bank is None:
            raise InputError("the reference 'nearest' needs a bank of real data")
        n, times, d = batch.states.shape
        flat, noise = batch.states.reshape(n * times, d), repeat(batch.noise, times)
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
)(NearestInBank())
