"""FlowModel: any network seen in canonical time.

The primitive is `predict(state, t, cond) -> (data_hat, noise_hat)`; velocity and score follow from it (prediction.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slowflow.errors import InputError
from slowflow.flow import compiling
from slowflow.flow.grids import uniform_grid
from slowflow.flow.habits import Guiding, Training
from slowflow.flow.interpolants import Interpolant, expand, interpolant
from slowflow.flow.prediction import FLOOR as FLOOR
from slowflow.flow.prediction import PREDICTIONS as PREDICTIONS
from slowflow.flow.prediction import Prediction as Prediction
from slowflow.flow.prediction import convert as convert
from slowflow.flow.prediction import regression_target as regression_target
from slowflow.flow.predictor import Predictor as Predictor
from slowflow.memory import in_parts


def combine(path: Interpolant, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Velocity from a (data, noise) pair: alpha' data + sigma' noise."""
    return path.velocity(noise, data, t)


def score(model: Predictor, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """Score of the noisy marginal, -noise_hat / sigma; sigma is held at FLOOR near the data end."""
    _, noise = model.predict(state, t, cond)
    return -noise / expand(model.interpolant.sigma(t).clamp_min(FLOOR), noise)


def conditions(model: Predictor, labels: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
    """What a model is told of labelled data: the labels, or zeros where it knows no classes."""
    return labels if model.classes else torch.zeros_like(labels)


def _identity(t: Tensor) -> Tensor:
    return t


def first_output(raw: Any, channels: int) -> Tensor:
    """The prediction inside what a network returned: first of a tuple, first `channels` channels."""
    out = raw[0] if isinstance(raw, tuple | list) else raw
    if not isinstance(out, Tensor):
        raise InputError(
            f"the network returned {type(raw).__name__}, expected a tensor or a tuple that starts with one"
        )
    return out[:, :channels]


@dataclass(frozen=True)
class FlowModel:
    """A network with everything a checkpoint file cannot tell: path, prediction, label, null condition.

    Args:
        net: `net(state, label, cond) -> Tensor | tuple`, called in its own dtype.
        interpolant: the path it was trained on.
        prediction: what it returns, in canonical sign once `sign` is applied.
        shape: shape of one state, (C, H, W).
        classes: number of classes; 0 for an unconditional network.
        null: index of the null condition, None when the network has none.
        sign: -1 for a velocity that points towards noise (REPA, RAE, SD3).
        label: canonical t -> the number the network is told.
        t_max: where sampling ends, 1 except where the authors stop early (RAE: 0.9931).
        t_min: where sampling starts, 0 except where the authors start late (noise and score networks of SiT: 0.001).
        name: for records and messages.
        calls: network evaluations of one prediction.
        shift: resolution shift s of the warp, for training times and sampling grids alike (RAE: 6.93, SD3: 3).
        times: steps -> the times the authors sample at, noise to data; None = equally spaced before the warp.
        guiding: how guidance is applied.
        training: law of the times and weighting of the loss.
        family: who opened it, and can describe and export it.
    """

    net: nn.Module
    interpolant: Interpolant
    prediction: Prediction
    shape: tuple[int, ...]
    classes: int = 0
    null: int | None = None
    sign: float = 1.0
    label: Callable[[Tensor], Tensor] = _identity
    t_max: float = 1.0
    t_min: float = 0.0
    name: str = "model"
    calls: int = 1
    shift: float = 1.0
    times: Callable[[int], Tensor] | None = None
    guiding: Guiding = field(default_factory=Guiding)
    training: Training = field(default_factory=Training)
    family: str = "custom"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise InputError(f"prediction is '{self.prediction}', expected one of {', '.join(PREDICTIONS)}")
        if self.prediction == "v" and self.interpolant.name == "linear":
            raise InputError(
                "the prediction 'v' is defined where alpha^2 + sigma^2 = 1 (gvp, vp), not on the linear path"
            )
        if self.prediction == "velocity":
            self.interpolant.alpha_dot(torch.tensor(0.5))  # a table refuses: nothing can predict its derivative
        if not 0.0 < self.t_max <= 1.0:
            raise InputError(f"t_max is {self.t_max}, expected a time in (0, 1]")
        if not 0.0 <= self.t_min < self.t_max:
            raise InputError(f"t_min is {self.t_min}, expected a time from 0 to below t_max = {self.t_max}")
        if not 0.0 < self.shift < math.inf:
            raise InputError(f"shift is {self.shift}, expected a finite number above 0")

    def grid(self, steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
        """steps + 1 sampling times, float64, from t_min (noise) to t_max.

        Args:
            steps: intervals.
            shift: a further warp on top of the model's own; warps multiply.

        Raises:
            InputError: steps below 1, or a further warp of times that the authors fixed.
        """
        if self.times is None:
            return uniform_grid(steps, start=self.t_min, end=self.t_max, shift=self.shift * shift)
        if shift != 1.0:
            raise InputError(f"'{self.name}' brings its own sampling times, which cannot be shifted by {shift}")
        return self.times(steps)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        parameter = next(self.net.parameters(), None)
        return parameter.device if parameter is not None else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype; states keep their own."""
        parameter = next((p for p in self.net.parameters() if p.is_floating_point()), None)
        return parameter.dtype if parameter is not None else torch.float32

    def raw(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> Float[Tensor, "sample *data"]:
        """The network's own prediction in canonical sign, in the network's dtype; gradients flow."""
        return self.answer(state, t, cond)[0]

    def answer(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> tuple[Float[Tensor, "sample *data"], Any]:
        """(the prediction as `raw` gives it, all that the network returned)."""
        # a label of 981 or 0.981 does not survive bfloat16; networks compute their time features in float32 at least
        label = self.label(t.to(torch.float64)).to(torch.promote_types(self.dtype, torch.float32))
        if label.ndim == 0:
            label = label.to(state.device, non_blocking=True).expand(state.shape[0])
        whole = self._called(state.to(self.dtype), label, cond)
        out = first_output(whole, self.shape[0])
        if out.shape != state.shape:
            raise InputError(
                f"'{self.name}' returned shape {tuple(out.shape)} for states of shape {tuple(state.shape)}"
            )
        return out if self.sign == 1.0 else self.sign * out, whole

    def _called(self, state: Tensor, label: Tensor, cond: Tensor) -> Any:
        """The network's output; without gradients in as many parts as memory asks for."""
        if torch.is_grad_enabled() or not len(state):  # activations stay: a training step is cut by its loop instead
            return self.net(state, label, cond)

        def some(i: int, j: int) -> Any:
            return compiling.kept(self.net, self.net(state[i:j], label[i:j], cond[i:j]))

        parts = in_parts(self.net, some, len(state))
        return parts[0] if len(parts) == 1 else torch.cat([first_output(part, self.shape[0]) for part in parts])

    def target(self, noise: Tensor, data: Tensor, t: Float[Tensor, "..."]) -> Tensor:
        """What `raw` should return on the interpolation of (noise, data) at t."""
        return regression_target(self.interpolant, self.prediction, noise, data, t)

    def predict(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> tuple[Float[Tensor, "sample *data"], Float[Tensor, "sample *data"]]:
        """(data_hat, noise_hat) in the dtype of `state`."""
        out = self.raw(state, t, cond).to(state.dtype)
        return convert(self.interpolant, self.prediction, state, out, t.to(state.dtype))

    def velocity(
        self, state: Float[Tensor, "sample *data"], t: Float[Tensor, "..."], cond: Int[Tensor, " sample"]
    ) -> Float[Tensor, "sample *data"]:
        """u(state, t), in the dtype of `state`; a velocity network is passed through untouched."""
        if self.prediction == "velocity":
            return self.raw(state, t, cond).to(state.dtype)
        data, noise = self.predict(state, t, cond)
        return combine(self.interpolant, data, noise, t.to(state.dtype))

    def with_net(self, net: nn.Module, name: str | None = None) -> FlowModel:
        """The same conventions around other weights."""
        return replace(self, net=net, name=name or self.name)

    @classmethod
    def from_callable(
        cls,
        net: Callable[[Tensor, Tensor, Tensor], Any],
        *,
        shape: Sequence[int],
        interpolant: str | Interpolant = "linear",
        prediction: Prediction = "velocity",
        classes: int = 0,
        label: Callable[[Tensor], Tensor] | None = None,
        null: int | None = None,
        name: str = "custom",
    ) -> FlowModel:
        """Wrap any `net(state, label, cond) -> tensor like state`.

        Args:
            net: a module or a plain function.
            shape: shape of one state.
            interpolant: linear, gvp or vp.
            prediction: velocity (canonical: towards data), noise, data, score or v.
            classes: number of classes; labels passed as `cond` are 0..classes-1.
            label: canonical t -> what the network is told; default t itself.
            null: index of the null class; default `classes` when there are classes.
            name: for records.
        """
        module = net if isinstance(net, nn.Module) else _Function(net)
        return cls(
            net=module,
            interpolant=_interpolant(interpolant),
            prediction=prediction,
            shape=tuple(int(n) for n in shape),
            classes=classes,
            null=classes if null is None and classes else null,
            label=label or _identity,
            name=name,
        )


_interpolant = interpolant


class _Function(nn.Module):
    """A plain function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, state: Tensor, label: Tensor, cond: Tensor) -> Any:
        return self.function(state, label, cond)
