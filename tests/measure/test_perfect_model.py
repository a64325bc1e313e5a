"""Every path, warped time, stochastic and guided sampling: a perfect model stays at zero, a planted fault does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slowflow.data.fields import gaussian_like, synthetic
from slowflow.data.images import ImageSet
from slowflow.flow.model import FlowModel
from slowflow.flow.planted import Scaled
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.records import Probe

Factory = Callable[..., FlowModel]
PROBE = Probe(samples=200, steps=30, sampler="heun", references=("level", "clocks"), nulls=("genuine",), shard=100)


class Perfect(nn.Module):
    """The exact flow as a network: predicts the data, knows its classes."""

    def __init__(self, field: object, factor: float = 1.0) -> None:
        super().__init__()
        self.field = field if factor == 1.0 else Scaled(field, factor)  # type: ignore[arg-type]

    def forward(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.field.predict(state, t.clamp(0.0, 1.0 - 1e-6), cond)[0]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, images: ImageSet) -> Callable[..., Measurement]:
    """measured(path, probe, factor): the exact flow of Gaussian data like the images, times a factor."""

    def make(path: str, probe: Probe, factor: float = 1.0) -> Measurement:
        field = gaussian_like(images, 10, path)
        data = synthetic(field, 60, 3, "gaussian waves")
        model = FlowModel.from_callable(
            Perfect(field, factor), shape=field.shape, interpolant=path, prediction="data", classes=10, name="perfect"
        )
        model = replace(model, t_max=0.98)  # data predictions divide by sigma, which is 0 at the end
        return measure(model, data, probe, tmp_path_factory.mktemp("protocol") / "run", heldout=0.5)

    return make


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_a_perfect_model_is_at_zero_on_every_path(path: str, measured: Callable[..., Measurement]) -> None:
    fit = measured(path, PROBE).suggest()
    for name in ("excess_genuine", "signal_genuine", "noise_genuine"):
        found = fit.estimates[name]
        assert found.low <= 0.0 <= found.high or abs(found.value) < 0.02, (name, found)
    assert fit.verdict == "none detectable"


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize(("factor", "sign"), [(0.93, 1), (1.07, -1)])
def test_a_velocity_off_by_seven_per_cent_has_its_sign_on_every_path(
    path: str, factor: float, sign: int, measured: Callable[..., Measurement]
) -> None:
    noise = measured(path, PROBE, factor).suggest().estimates["noise_genuine"]
    assert sign * noise.value > 0
    assert noise.excludes(0.0)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_warped_grid_moves_times_and_no_zero(shift: float, measured: Callable[..., Measurement]) -> None:
    found = measured("linear", replace(PROBE, shift=shift, steps=120))  # a warp of 3 leaves long steps at the end
    t = found.array("t")
    assert (t[59] < 0.49) if shift > 1 else (t[59] > 0.49)  # the middle of the grid
    fit = found.suggest()
    for name in ("excess_genuine", "signal_genuine", "noise_genuine"):
        assert not fit.estimates[name].excludes(0.0) or abs(fit.estimates[name].value) < 0.02


def test_a_stochastic_sampler_of_a_perfect_model_is_at_zero(measured: Callable[..., Measurement]) -> None:
    probe = replace(PROBE, sampler="em", steps=100, references="auto")
    found = measured("linear", probe)
    assert found.references == ["level", "clocks"]
    fit = found.suggest()
    # 100 steps of Euler-Maruyama leave a bias of the order of one step
    assert abs(fit.estimates["excess_genuine"].value) < 0.04
    assert abs(fit.estimates["noise_genuine"].value) < 0.04


def test_guided_minus_unguided_is_what_guidance_does(tmp_path: Path, tiny_model: Factory, images: ImageSet) -> None:
    """The unguided states carry verdict and nulls; a scale of 3 sharpens, which is a difference and not a lag."""
    probe = replace(PROBE, guidance=3.0, sampler="euler", nulls=("genuine", "exact"))
    found = measure(tiny_model(), images, probe, tmp_path / "guided", heldout=0.5)
    plain = measure(tiny_model(), images, replace(probe, guidance=1.0), tmp_path / "plain", heldout=0.5)
    guided, unguided = found.suggest(), plain.suggest()
    assert "guided_minus_unguided" in guided.estimates
    assert guided.estimates["excess_genuine"].value == pytest.approx(
        unguided.estimates["excess_genuine"].value, abs=1e-6
    )
    assert guided.verdict == unguided.verdict
    assert any("sampling was guided" in w for w in guided.warnings)
    assert "guided_minus_unguided" not in unguided.estimates


def test_log_snr_gap_does_not_depend_on_the_time_variable(measured: Callable[..., Measurement]) -> None:
    slow = [measured("linear", replace(PROBE, shift=s), 0.93).suggest().log_snr_gap for s in (1.0, 2.0)]
    assert all(gap is not None for gap in slow)
    values = [gap.value for gap in slow if gap is not None]
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=0.5)  # other times enter, so only the size can agree
    assert isinstance(torch.tensor(values[0]), Tensor)
