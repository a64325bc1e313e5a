"""Planted faults: known errors around any model, which a measurement must find in sign and size.

    Scaled        u -> factor u                             too slow below 1, too fast above
    Smoothed      data_hat -> towards + (1 - shrink) (data_hat - towards), noise_hat from what is left of the state
    Mislabelled   u(x, t) -> u(x, t + offset)               the model is told another time than the state's
    Feedback      u -> u + gain (q - 1) w                   no fault on genuine states, grows with displacement

The first three keep a linear field linear; `slowflow.flow.linear_truth` has the variances that then come out. Feedback
is exposure bias in its pure form: right wherever training looked, wrong where its own errors lead.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from slowflow.flow.model import combine, convert
from slowflow.flow.spectral import SpectralMixture
from slowflow.flow.wrapper import Wrapper

States = Float[Tensor, "sample *data"]
Times = Float[Tensor, "..."]
Labels = Int[Tensor, " sample"]


@dataclass(frozen=True)
class Planted(Wrapper):
    """What every fault has in common: all but the velocity is the model's, the prediction follows from the velocity."""

    @abstractmethod
    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """The faulty velocity."""

    def predict(self, state: States, t: Times, cond: Labels) -> tuple[States, States]:
        """(data_hat, noise_hat) of the faulty velocity."""
        return convert(self.interpolant, "velocity", state, self.velocity(state, t, cond), t.to(state.dtype))


@dataclass(frozen=True)
class Scaled(Planted):
    """The velocity of `model` times `factor` (0.95 = too slow, 1.05 = too fast)."""

    factor: float

    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """factor * u."""
        return self.factor * self.model.velocity(state, t, cond)


@dataclass(frozen=True)
class Smoothed(Planted):
    """A denoiser that shrinks its answer, as a network trained with a squared error and too little capacity does.

    Args:
        model: as above.
        shrink: share of the distance to `towards` that is lost; negative sharpens.
        towards: value every entry is drawn to.
    """

    shrink: float = 0.05
    towards: float = 0.0

    def predict(self, state: States, t: Times, cond: Labels) -> tuple[States, States]:
        """The shrunk data_hat, and the noise that the state then holds."""
        data, _ = self.model.predict(state, t, cond)
        shrunk = self.towards + (1.0 - self.shrink) * (data - self.towards)
        return convert(self.interpolant, "data", state, shrunk, t.to(state.dtype))

    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """alpha' data_hat + sigma' noise_hat of the shrunk prediction."""
        data, noise = self.predict(state, t, cond)
        return combine(self.interpolant, data, noise, t.to(state.dtype))


@dataclass(frozen=True)
class Mislabelled(Planted):
    """The model is told t + offset, within [0, t_max], and its velocity there is used at t.

    Args:
        model: as above.
        offset: of the timestep label; positive tells the model its states are cleaner than they are.
    """

    offset: float

    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """u(state, t + offset)."""
        return self.model.velocity(state, (t + self.offset).clamp(0.0, self.t_max), cond)


@dataclass(frozen=True)
class Feedback(Planted):
    """A fault that answers to displacement: zero on the shell of genuine states, growing off it.

    With w the offset of a state from its posterior centre and v its variances (`SpectralMixture.locate`),
    q = mean_i w_i^2 / v_i is 1 +- O(sqrt(2 / d)) for genuine states of one Gaussian; u gains gain (q - 1) w.

    Args:
        model: the exact field, which knows where genuine states lie.
        gain: positive pushes states further from the shell, negative pulls them back.
    """

    model: SpectralMixture
    gain: float

    def velocity(self, state: States, t: Times, cond: Labels) -> States:
        """u + gain (q - 1) w."""
        place = self.model.locate(state, t, cond)
        energy = (place.offset.square() / place.variance).mean(dim=1, keepdim=True)
        push = self.model.assemble(self.gain * (energy - 1.0) * place.offset, state)
        return self.model.velocity(state, t, cond) + push
