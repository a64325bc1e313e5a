"""Networks, samplers and losses against the golden numbers of the official code."""

from collections import deque

import numpy as np
import pytest
import torch
from golden import DOUBLE, TIMES, det, filled, noise, summary
from golden_numbers import LOSSES, STATES

from slowflow.families import rae, repa, sit
from slowflow.families.rae.backbone import DDT, RAEConfig
from slowflow.families.repa.backbone import REPA, REPAConfig
from slowflow.families.repa.projection import projection_loss
from slowflow.families.sit.backbone import SiT, SiTConfig
from slowflow.flow.grids import uniform_grid, unwarp
from slowflow.flow.guidance import Guided
from slowflow.flow.habits import Guiding
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.samplers.euler_maruyama import EulerMaruyama
from slowflow.flow.samplers.heun import Heun
from slowflow.flow.samplers.stochastic_heun import StochasticHeun
from slowflow.flow.weighting import loss_weight

LATENT = (3, 8, 4, 4)
NULL_THIRD, KNOWN = torch.tensor([0, 7, 10]), torch.tensor([0, 7, 3])
PATHS = {"Linear": "linear", "GVP": "gvp", "VP": "vp", "linear": "linear", "cosine": "gvp"}


@pytest.fixture(scope="module")
def nets():
    trunk = dict(input_size=8, patch=2, channels=4, hidden=32, depth=2, heads=2)
    return {
        "sit": filled(SiT(SiTConfig(**trunk, classes=10, learn_sigma=True))),
        "repa": filled(REPA(REPAConfig(SiTConfig(**trunk, classes=1000), (12,), 20, encoder_depth=1))),
        "rae": filled(DDT(RAEConfig(4, 1, 8, (24, 32), (2, 1), (2, 2), 10))),
        "guide": filled(DDT(RAEConfig(4, 1, 8, (16, 32), (1, 1), (2, 2), 10))),
    }


def last(model, method, start, cond, grid):
    return deque(walk(model, method, start, cond, grid, noise), maxlen=1)[0][1]


def sit_state(row, nets):
    parts = row.split(".")
    if parts[1:2] == ["forward"]:
        return sit_model(nets).velocity(det(1), TIMES, NULL_THIRD)
    if row.startswith("sit.cfg"):
        channels = 3 if "3ch" in row else None
        return Guided(sit_model(nets), 1.5, Guiding(channels=channels)).velocity(det(1), TIMES, KNOWN)
    if parts[1] == "sde":
        kind = {"Euler": EulerMaruyama, "Heun": StochasticHeun}[parts[3]]
        method = kind(diffusion=parts[2], last=parts[4].lower(), last_step=0.04)
        model = sit_model(nets)
        return last(model, method, det(1), NULL_THIRD, method.grid(model, 5))
    if len(parts) == 4:
        return last(
            sit_model(nets), sampler(parts[2].removesuffix("2")), det(1), NULL_THIRD, uniform_grid(4)
        )  # "5" counts grid points
    model = sit_model(nets, PATHS[parts[2]], parts[3])
    return last(model, sampler("euler"), det(1), NULL_THIRD, model.grid(4))


def sit_model(nets, path="linear", prediction="velocity"):
    return sit.flow_model(nets["sit"], path=path, prediction=prediction, name="golden")


def repa_state(row, nets):
    model = repa.flow_model(nets["repa"], path="linear", name="golden")
    if row in ("repa.forward", "repa.zs0"):
        velocity, projected = nets["repa"](det(1), TIMES, torch.tensor([0, 7, 1000]))
        return velocity if row == "repa.forward" else projected[0]
    kind, rest = row.removeprefix("repa.").split(".cfg")
    scale, interval = rest.split(".[")
    low, high = (float(x) for x in interval.rstrip("]").split(","))
    how = Guiding((1 - high, 1 - low), decide="start")
    field = model if scale == "1.0" else Guided(model, float(scale), how)
    methods = {"ode.euler.4": "euler", "ode.heun.4": "heun-last-euler", "sde.5": "em-sit"}
    method = sampler(methods[kind])
    return last(field, method, det(1), KNOWN, method.grid(model, int(kind[-1])))


def rae_state(row, nets):
    shift = 2**0.5
    model = rae.flow_model(nets["rae"], name="golden", shift=shift)
    if row == "rae.forward":
        return nets["rae"](det(1, LATENT), TIMES, NULL_THIRD)
    method, grid, field = sampler("heun" if "heun2" in row else "euler"), model.grid(5), model  # "6" counts grid points
    if "cfg" in row or "autoguidance" in row:
        bounds = row[row.index("(") + 1 : -1].split(",")
        guide = rae.flow_model(nets["guide"], name="guide", shift=shift) if "auto" in row else None
        scale = 1.42 if guide else 1.5
        field = Guided(model, scale, Guiding((1 - float(bounds[1]), 1 - float(bounds[0])), guide=guide))
    return last(field, method, det(1, LATENT), KNOWN, grid)


@pytest.mark.parametrize("row", STATES)
def test_golden_state(row, nets):
    made = {"sit": sit_state, "repa": repa_state, "rae": rae_state}[row.split(".")[0]](row, nets)
    expected = np.array(STATES[row])
    if ".noise." in row or ".score." in row:
        # values of thousands; models.md allows 5e-4, because the official code divides by a float32 time
        np.testing.assert_allclose(summary(made), expected, rtol=1e-6)
    else:
        np.testing.assert_allclose(summary(made), expected, rtol=0, atol=1e-6)


def mean_over_values(gap):
    return gap.square().flatten(1).mean(dim=1).detach()


@pytest.mark.parametrize("row", [row for row in LOSSES if row.startswith("sit.loss")])
def test_golden_sit_loss(row, nets):
    _, _, path, prediction, weighting = row.split(".")
    model = sit_model(nets, PATHS[path], prediction)
    low, high = model.training.interval
    t = low + (high - low) * torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    data, start = det(2), det(3)
    gap = model.raw(model.interpolant.state(start, data, t), t, NULL_THIRD) - model.target(start, data, t)
    weight = loss_weight(model.interpolant, prediction, weighting.lower(), t)
    loss = mean_over_values(gap) * (1.0 if weight is None else weight)
    np.testing.assert_allclose(loss, LOSSES[row], rtol=1e-6)  # the official code rounds at 1.4e-7


REPA_LOSSES = {
    "linear.uniform": ((4.59300631, 4.6577863, 5.20355785), -0.0044572477),
    "linear.lognormal": ((4.45999535, 4.6577863, 5.05875039), -0.00439818468),
    "cosine.uniform": ((6.37333792, 5.45078205, 5.97824533), -0.0041199366),
    "cosine.lognormal": ((5.90705904, 5.45078205, 5.63122201), -0.00409938594),
}


@pytest.mark.parametrize("row", REPA_LOSSES)
def test_golden_repa_loss(row, nets):
    path, law = row.split(".")
    model = repa.flow_model(nets["repa"], path=PATHS[path], name="golden")
    if law == "uniform":
        t = 1.0 - torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    else:
        # sigma / alpha is log-normal: log-SNR is minus twice the normal draw
        t = model.interpolant.time_of_log_snr(-2.0 * torch.tensor([-1.0, 0.0, 0.5], dtype=DOUBLE))
    data, start = det(2), det(3)
    state = model.interpolant.state(start, data, t)
    denoise, projection = REPA_LOSSES[row]
    gap = model.raw(state, t, KNOWN) - model.target(start, data, t)
    np.testing.assert_allclose(mean_over_values(gap), denoise, rtol=1e-6)
    _, projected = nets["repa"](state, model.label(t), KNOWN)
    assert projection_loss(projected, [det(5, (3, 16, 12))]).item() == pytest.approx(projection, abs=1e-9)


def test_golden_rae_grid():
    # printed in n, five decimals; models.md has 0.99392 for the third, the formula and the official grid give 0.99390
    net = DDT(RAEConfig(16, 1, 768, (16, 16), (1, 2), (2, 2), 10))
    model = rae.flow_model(net, name="grid")
    n = 1.0 - model.grid(49)
    assert model.shift == pytest.approx(48**0.5)
    np.testing.assert_allclose(n[:3], [1.0, 0.99700, 0.99390], atol=1e-5)
    np.testing.assert_allclose(n[-3:], [0.23198, 0.13151, 0.0068873], atol=1e-5)
    assert len(n) == 50
    np.testing.assert_allclose(unwarp(1 - n, model.shift), np.linspace(0, 0.999, 50), atol=1e-12)


def test_heun_of_repa_is_heun_with_a_last_euler_step():
    assert sampler("heun-last-euler") == Heun(last_euler=True)
