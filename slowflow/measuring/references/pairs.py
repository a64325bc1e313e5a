"""References with one given pair of noise and image a state: own, paired, paired-late, inverted.

They differ only in which pair it is. On the linear path m = <x - x0, y - x0> / |y - x0|^2 (five inner products, no
bank is searched). None has a perfect model at m = t, except where the pair truly belongs to the trajectory:

* `own`: own noise, own endpoint. 1 at the end by construction; a perfect model bends away from t in between
  (Gaussian data of scale s: m = (sqrt((1-t)^2 + s^2 t^2) - 1) / (s - 1)).
* `paired`: own noise, a random real image of the class: the likely reading of the paper's figure. A genuine state
  against another image of correlation c gives m/t = (1 + c s^2) / (1 + s^2), far below 1 with no model at all.
* `paired-late`: the same pair, but the sampler starts inside it, at a real interpolation at t = 0.05, which is where
  the fan of the paper's figure closes. The model then forgets the image, and m falls behind for that reason alone.
* `inverted`: a real image and the noise that the model's own ODE, run backwards, finds for it: the one pairing in
  which a real endpoint belongs to the trajectory. Still a chord of a bent path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from slowflow import rng
from slowflow.data.bank import Bank
from slowflow.errors import InputError
from slowflow.measuring.closest import closest_time
from slowflow.measuring.references.base import REFERENCES, Assigned, Start, Trajectories, repeat


@dataclass(frozen=True)
class Pair:
    """Nearest time on the interpolation of one given pair.

    Args:
        image: endpoint (own), bank (a random one of the class), datum (the one the trajectory belongs to).
        start: which trajectories.
    """

    image: str
    start: Start = "noise"
    shares_noise: bool = True

    def assign(self, batch: Trajectories, bank: Bank, backend: str) -> Assigned:
        """m of every state against its pair."""
        n, times, d = batch.states.shape
        flat = batch.states.reshape(n * times, d)
        closest = closest_time(
            torch.from_numpy(flat),
            torch.from_numpy(repeat(batch.noise, times)),
            torch.from_numpy(repeat(self._images(batch, bank), times)),
            batch.path,
        )
        # on its own chord a trajectory ends at 1 by construction: that is not a boundary hit
        given = (batch.grid < 1.0) if self.image == "endpoint" or batch.kind in ("genuine", "seen") else True
        return Assigned(
            m=closest.m.reshape(n, times),
            residual=(closest.distance / np.linalg.norm(flat, axis=1)).reshape(n, times),
            boundary=closest.boundary.reshape(n, times) & given,
            index=np.full((n, times), -1),
        )

    def _images(self, batch: Trajectories, bank: Bank) -> np.ndarray:
        if self.image == "endpoint":
            return batch.endpoint
        if self.image == "datum":
            if batch.datum is None:
                raise InputError("this reference needs trajectories that belong to a real image")
            return batch.datum
        rows = np.empty_like(batch.endpoint)
        for i, (sample, label) in enumerate(zip(batch.ids, batch.labels, strict=True)):
            shard = bank.shard(int(label))
            rows[i] = shard[rng.generator(batch.seed, "paired", int(sample)).integers(len(shard))]
        return rows


REFERENCES.register(
    "own",
    summary="own noise, own endpoint; closed form, no bank; 1 at the end by construction",
    source="MixFlow (arXiv 2512.19311), one reading of its Figure 1",
)(Pair("endpoint"))
REFERENCES.register(
    "paired",
    summary="own noise, a random real image of the class; from pure noise",
    source="MixFlow (arXiv 2512.19311), the likely reading of its Figure 1",
)(Pair("bank"))
REFERENCES.register(
    "paired-late",
    summary="noise and real image of the interpolation at t = 0.05 where sampling starts",
    source="MixFlow (arXiv 2512.19311), where its Figure 1 closes",
)(Pair("datum", start="late"))
REFERENCES.register(
    "inverted",
    summary="a real image and its noise by the model's own ODE run backwards",
    source="DDIM inversion, Song et al. 2021 (arXiv 2010.02502); the measure is SlowFlow's",
)(Pair("datum", start="inverted"))
