"""soar: one model step off a real pair, re-noised towards the same noise, and led back to the datum.

    x0 on the path of (noise, data) at t0;   x1 = one model step of 1 / N from it, at t1, without gradient, guided if asked
    t ~ U[t0 - back (1 - t0), t1],   not below 0: on the linear path sigma from sigma(t1) to (1 + back) sigma(t0)
    x = alpha(t) / alpha(t1) x1 + (sigma(t) - alpha(t) sigma(t1) / alpha(t1)) noise
    label t, target the one that leads from x to the datum: (data - x) / (1 - t) on the linear path

Re-noising keeps a state of the path on the path of its pair. The published method adds this loss to that of the pair with
weight 1 and takes six such points of every step; here a share of the rows is trained on one such point each.
Source: HY-SOAR 2026 (arXiv 2604.12617); formulas only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.grids import warp
from slowflow.flow.interpolants import expand, interpolant
from slowflow.flow.predictor import Predictor
from slowflow.remedies import REMEDIES
from slowflow.remedies.base import Pair, Trained
from slowflow.remedies.rollout import Rollout, rolled


@REMEDIES.register(
    "soar",
    summary="one model step, re-noised towards the same noise, led back to the datum",
    source="HY-SOAR 2026 (arXiv 2604.12617)",
)
@dataclass(frozen=True)
class Soar(Rollout):
    """One-step rollout with re-noising.

    Args:
        back: how far behind t0 a label may lie, as a share of 1 - t0; published as sigma up to 1.5 times that of t0.
        guidance: scale of classifier-free guidance in the model step; 1 = none, published 4.5 for text to image.
    """

    back: float = 0.5
    guidance: float = 1.0
    share: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        Rollout.__post_init__(self)
        if not 0.0 <= self.back < float("inf"):
            raise InputError(f"back is {self.back}, expected a share of 1 - t0 of at least 0")
        if not 0.0 <= self.guidance <= 100.0:
            raise InputError(f"guidance is {self.guidance}, expected a scale between 0 and 100 (1 = none)")

    def bound(self, model: Trained) -> Soar:
        """As every remedy; a guided step needs a model with a null condition."""
        made = cast(Soar, super().bound(model))
        made.stepper()
        return made

    def stepper(self) -> Predictor:
        """The model of the step: guided where that is asked for."""
        model = self.trained()
        if self.guidance == 1.0:
            return model
        from slowflow.flow.guidance import Guided

        # the plain rule of guidance, at every time: intervals and channels are habits of sampling
        return Guided(cast(Any, model), self.guidance)

    def calls(self, n: int) -> int:
        """One prediction for each row that is rolled out; two calls where it is guided."""
        return self.rows(n) * (1 if self.model is None else self.stepper().calls)

    def own_states(
        self, noise: Tensor, data: Tensor, t: Tensor, cond: Tensor, generator: torch.Generator | None
    ) -> Pair:
        """One step from t, then back towards the noise."""
        path = interpolant(self.interpolant)
        low = warp(torch.tensor(self.support[0], dtype=torch.float64), self.shift).to(t.device)
        end = self.after(t, 1.0)
        reached = rolled(self.stepper(), path.state(noise, data, t), torch.stack([t, end]), cond)
        start = torch.minimum(torch.maximum(t - self.back * (1.0 - t), low), end)
        u = torch.rand(len(t), dtype=torch.float64, generator=generator).to(t.device)
        label = self.rounded(start + (end - start) * u)
        kept = expand(path.alpha(label) / path.alpha(end), reached)
        added = expand(path.sigma(label), reached) - kept * expand(path.sigma(end), reached)
        state = kept * reached + added * noise
        return Pair(state, label, self.landing(noise, data, state, label))
