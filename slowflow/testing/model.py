"""The contract of a model in canonical time: what a family adapter, or `from_callable`, must hand to everything else.

from slowflow.testing import check_model
check_model(open_model("my.safetensors", "myfamily").model)
"""

from __future__ import annotations

import torch

from slowflow.flow.generate import noise_of
from slowflow.flow.interpolants import expand
from slowflow.flow.model import FlowModel
from slowflow.testing.promises import require, require_close

ROWS = 4
BATCH = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far a row's prediction may move with its batch: matrix products block differently; 16-bit networks by 5 %."""


def check_model(model: FlowModel, *, times: tuple[float, ...] = (0.1, 0.5, 0.9), seed: int = 0) -> None:
    """The contract of a model, whatever its weights are.

    Predictions are finite and have the state's shape and dtype; predicted data and noise add up to the state; a row does not
    depend on its batch; inputs, weights, buffers and torch's global stream stay as they were; labels are finite on the grid;
    the null condition is accepted; the sampling grid rises from t_min to t_max with the intervals that were asked for.

    Time's direction and the sign of the prediction cannot be seen on random weights: `slowflow check --data` and
    `slowflow.families.open.direction_test` try those on real images.

    Args:
        model: any; put into evaluation mode.
        times: canonical times to look at.
        seed: of the states.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    model.net.eval()
    state = noise_of(seed, torch.arange(ROWS).numpy(), model.shape).to(model.device)
    cond = (torch.arange(ROWS) % max(model.classes, 1)).to(model.device)
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    stream = torch.get_rng_state()
    for at in times:
        _check_prediction(model, state, torch.tensor(at, dtype=torch.float64), cond)
    if model.null is not None:
        with torch.no_grad():
            empty = model.predict(state, torch.tensor(0.5, dtype=torch.float64), torch.full_like(cond, model.null))
        require(all(bool(torch.isfinite(part).all()) for part in empty), "the null condition gives finite predictions")
    kept = all(torch.equal(value, weights[name]) for name, value in model.net.state_dict().items())
    require(kept, "prediction leaves weights and buffers as they were")
    require(torch.equal(torch.get_rng_state(), stream), "nothing is drawn from torch's global stream")
    grid = model.grid(8)
    require(len(grid) == 9 and bool((grid.diff() > 0).all()), "8 steps are 9 increasing times")
    require_close(
        grid[[0, -1]], torch.tensor([model.t_min, model.t_max]).to(grid), "the grid spans [t_min, t_max]", 1e-6
    )
    require(bool(torch.isfinite(model.label(grid)).all()), "the labels of the grid are finite")


@torch.no_grad()
def _check_prediction(model: FlowModel, state: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> None:
    before = state.clone()
    data, noise = model.predict(state, t, cond)
    require(torch.equal(state, before), "predict leaves the state as it was")
    for name, part in (("data", data), ("noise", noise)):
        require(
            part.shape == state.shape,
            f"predicted {name} has shape {tuple(part.shape)}, the states {tuple(state.shape)}",
        )
        require(part.dtype == state.dtype, f"predicted {name} is {part.dtype}, the states are {state.dtype}")
        require(bool(torch.isfinite(part).all()), f"predicted {name} is finite at t = {float(t)}")
    path = model.interpolant
    mixed = expand(path.alpha(t), data) * data + expand(path.sigma(t), noise) * noise
    require_close(mixed, state, "predicted data and noise add up to the state", 1e-6)
    alone = model.predict(state[1:2], t, cond[1:2])[0]
    tolerance = BATCH.get(model.dtype, 0.05)
    require_close(alone, data[1:2], "the prediction for a row does not depend on its batch", tolerance)
