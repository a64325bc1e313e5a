"""time-shift: the time of a state is read from its pixel variance, within a window around the schedule's.

    t' = argmin over [t - w/2, t + w/2] of | var(state) - (sigma(t')^2 + alpha(t')^2 s^2) |        while t < until

As published s^2 is 0, so that a perfect state is always found noisier than it is; on the linear path var = (1-t)^2 + t^2 s^2
gives t' = 1 - sqrt(var), short of t by about t^2 s^2 / (2 (1 - t)), and with the published windows t' is often just the edge. With
`variances` (s^2 of each class, or one for all) a perfect state is found where it is, in the mean. What t' is used for
differs between the published samplers, and both are here:

    label     the network is told t', the step is the schedule's (DEIS)
    target    the network is told t; the state is put at level t' of the prediction instead of s (DDIM, F-PNDM):
              state' = state(s) + (alpha(t') - alpha(s)) data_hat + (sigma(t') - sigma(s)) noise_hat

`label` moves the answer, hence a and b as label-correction does; `target` moves (a, b) along the path by t' - s at once. No
further network call. Published windows are in steps of a table of 1000: w = 5 is 0.005 here, cut-off 550 is until 0.45.
Source: Li et al. 2024, Time-Shift Sampler (arXiv 2305.15583); the data's variance is SlowFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from slowflow.errors import InputError
from slowflow.flow.interpolants import Interpolant, expand
from slowflow.flow.pixel_variance import expected_variance, match
from slowflow.flow.predictor import Predictor
from slowflow.flow.samplers import Sampler
from slowflow.remedies.sampling import SAMPLING_REMEDIES
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.findings import Findings
from slowflow.remedies.sampling.relabelling import Relabelled
from slowflow.remedies.sampling.stepping import Stepping, Witness

VARIANTS = ("label", "target")


@dataclass(frozen=True)
class ByVariance(Relabelled):
    """A model told t'.

    Args:
        model: what is told.
        remedy: the settings.
    """

    remedy: TimeShift
    cond: Tensor | None = None

    def label(self, state: Tensor, t: Tensor) -> Tensor:
        """t' of every state."""
        return self.remedy.shifted(self.interpolant, state, t, self.cond, self.t_max)

    def predict(self, state: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """As Relabelled; the class of a state says which variance its data have."""
        return Relabelled.predict(ByVariance(self.model, self.remedy, cond), state, t, cond)

    def velocity(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """u at t'."""
        return Relabelled.velocity(ByVariance(self.model, self.remedy, cond), state, t, cond)


@dataclass(frozen=True)
class Retargeted(Stepping):
    """A sampler whose step ends at t' instead of s.

    Args:
        inner: the sampler.
        remedy: the settings.
    """

    remedy: TimeShift

    def step(
        self, model: Predictor, state: Tensor, t: Tensor, s: Tensor, cond: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The inner step, then along the path of its own prediction to t'."""
        witness = Witness.of(model)
        reached = self.inner.step(witness, state, t, s, cond, noise)
        if float(s) >= min(self.remedy.until, model.t_max):
            return reached
        path, (data, noise_hat) = model.interpolant, witness.last()
        to = self.remedy.shifted(path, reached, s, cond, model.t_max)
        signal, rest = (expand((f(to) - f(s)).to(reached.dtype), reached) for f in (path.alpha, path.sigma))
        return reached + signal * data + rest * noise_hat


@SAMPLING_REMEDIES.register(
    "time-shift",
    summary="read each state's time from its pixel variance, within a window; as published or with the data's variance",
    source="Li et al. 2024, Time-Shift Sampler (arXiv 2305.15583); the data's variance is SlowFlow's",
)
@dataclass(frozen=True)
class TimeShift(SamplingRemedy):
    """Shifted times.

    Args:
        window: full width w of the window in t; 0 changes nothing.
        until: the time up to which it acts, the published cut-off seen from the data's side.
        variances: s^2, one for all classes or one a class; none = as published.
        variant: `label` or `target`.
    """

    window: float = 0.0
    until: float = 0.45
    variances: tuple[float, ...] = ()
    variant: str = "target"
    name: ClassVar[str] = "time-shift"
    constants: ClassVar[tuple[str, ...]] = ("variances",)

    def __post_init__(self) -> None:
        if not 0.0 <= self.window <= 1.0:
            raise InputError(f"window is {self.window}, expected a width in t between 0 (nothing) and 1")
        if not 0.0 <= self.until <= 1.0:
            raise InputError(f"until is {self.until}, expected a time between 0 and 1")
        if any(not 0.0 <= value < np.inf for value in self.variances):
            raise InputError(f"variances are {list(self.variances)}, expected numbers of at least 0")
        if self.variant not in VARIANTS:
            raise InputError(f"variant is '{self.variant}', expected one of {', '.join(VARIANTS)}")

    @property
    def active(self) -> bool:
        """Whether there is a window, and a time it acts at."""
        return self.window > 0.0 and self.until > 0.0

    def check(self, model: Predictor, method: Sampler) -> None:
        """A variance needs pixels; one variance a class needs as many as there are classes."""
        if self.active and int(np.prod(model.shape)) < 2:
            raise InputError(f"states of shape {model.shape} have no variance over their pixels")
        if len(self.variances) > 1 and len(self.variances) != model.classes:
            raise InputError(f"{len(self.variances)} variances were given for a model of {model.classes} classes")

    def wrapped(self, model: Predictor) -> Predictor:
        """The model told t', in the variant `label`."""
        return ByVariance(model, self) if self.variant == "label" else model

    def resolved(self, method: Sampler, steps: int) -> tuple[Sampler, int]:
        """The sampler that ends at t', in the variant `target`."""
        return (Retargeted(method, self), steps) if self.variant == "target" else (method, steps)

    def shifted(self, path: Interpolant, state: Tensor, t: Tensor, cond: Tensor | None, t_max: float) -> Tensor:
        """t' of every state, [sample]."""
        variance = state.detach().flatten(1).to("cpu", torch.float64).var(dim=1).numpy()
        times = np.broadcast_to(t.detach().cpu().numpy(), variance.shape).astype(np.float64)
        of = np.zeros(len(variance), dtype=np.int64)
        if len(self.variances) > 1 and cond is not None:
            of = cond.cpu().numpy() % len(self.variances)  # the null condition has no class of its own
        found = np.empty_like(times)
        for which in np.unique(of):
            data = self.variances[which] if self.variances else 0.0
            rows = of == which
            found[rows], _ = match(variance[rows], times[rows], expected_variance(path, data), 0.0, 1.0)
        low, high = times - self.window / 2.0, times + self.window / 2.0
        moved = np.where(times < self.until, np.clip(found, low, high), times)
        return torch.from_numpy(np.clip(moved, 0.0, t_max)).to(t)

    @classmethod
    def fitted(cls, findings: Findings, **settings: Any) -> Fit:
        """The data's variance; without a window of one's own, one as wide as the largest measured lag on either side."""
        shown = cls(**settings)
        if not findings.pixel_variance:
            raise findings.missing("the pixel variance of the data", "its data at hand")
        curve = findings.lag("level")
        lags, excess, said = findings.lagging("level")
        if not lags:
            text = f"{said}: no lag is clear of 0, no time is shifted"
            return Fit(cls(**{**settings, "window": 0.0}), False, text, {"excess": excess})
        acts = curve.t < shown.until
        widest = 2.0 * float(np.nanmax(np.abs(curve.values[0] - curve.t)[acts], initial=0.0))
        width = settings.get("window", min(widest, 1.0))
        text = f"{said}: windows of {width:.4f} about the variance of the data"
        return Fit(
            cls(**{**settings, "window": width, "variances": findings.pixel_variance}), True, text, {"excess": excess}
        )
