"""mixflow_over_plain: a post-training step with MixFlow over a plain one, same batch, same noise; the floor is 1."""

from __future__ import annotations

from collections.abc import Callable

from slowflow.data.open import open_data
from slowflow.families.open import open_model
from slowflow.remedies import make
from slowflow.train.loop import TrainConfig, step_loss
from speed.machine import Machine
from speed.timing import AT_MOST, Ratio, quotients


def run(machine: Machine) -> list[Ratio]:
    """The bundled MNIST model, batches of 32."""
    model, data = open_model("mnist-sit").model, open_data("mnist5k").split()[0]
    config = TrainConfig(steps=1, batch_size=32)

    def step(name: str, **settings: float) -> Callable[[], None]:
        bound = make(name, settings).bound(model)
        return lambda: step_loss(model, bound, data, config, 0).backward()

    return [Ratio("mixflow_over_plain", *quotients(step("mixflow", gamma=0.4), step("plain"), 25), AT_MOST, 1.01, 1.0)]
