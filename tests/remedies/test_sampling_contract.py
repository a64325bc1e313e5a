"""Every sampling remedy keeps the public contract; strength 0 is the untouched model bit for bit, on every path."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture
from slowflow.flow.guidance import Guided
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.table import Table
from slowflow.remedies.sampling import SAMPLING_REMEDIES, make
from slowflow.remedies.sampling.base import Fit, SamplingRemedy
from slowflow.remedies.sampling.label_correction_per_state import LabelCorrectionPerState
from slowflow.remedies.sampling.presets import preset, presets
from slowflow.testing import check_sampling_remedy

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
SHAPE = (1, 4, 4)
MAP = {"times": (0.2, 0.6, 1.0), "labels": (0.18, 0.55, 0.97)}


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


CENTRES = 0.5 * randn(0, 6, *SHAPE)


def mixture(path="linear"):
    return ExactMixture(CENTRES, torch.arange(6) % 2, 0.3, path)


def spectrum():
    bank = Bank({0: randn(1, 40, 16).numpy() * np.linspace(0.2, 1.5, 16)}, "bank", "sha")
    return bank.spectrum


class Net(torch.nn.Module):
    """The exact field as a network that returns velocities."""

    def __init__(self, path):
        super().__init__()
        self.field = mixture(path)

    def forward(self, state, t, cond):
        return self.field.velocity(state, t, cond.clamp(max=1))


def model(path="linear", **settings):
    return FlowModel.from_callable(Net(path), shape=SHAPE, interpolant=path, classes=2, **settings)


STRENGTHS = {
    "epsilon-scaling": ({}, {"constant": 1.01, "slope": -0.02}),
    "score-rescaling": ({}, {"k": 1.1, "width": 0.4}),
    "label-correction": ({}, MAP),
    "label-correction-per-state": ({}, {**MAP, "null": (0.21, 0.6, 1.0), "reliability": (0.1, 0.5, 0.4)}),
    "time-shift": ({}, {"window": 0.1, "until": 0.9, "variances": (0.4, 0.2)}),
    "dcw": ({}, {"strength": 0.01}),
    "churn": ({}, {"amount": 1.0}),
    "restart": ({}, {"again": 2}),
    "heun-equal-calls": ({"on": False}, {"on": True}),
}
VARIANTS = [
    ("time-shift", {"window": 0.1, "until": 0.9, "variant": "label"}),
    ("dcw", {"strength": -0.01, "band": "low", "scaled": True, "weight": "constant"}),
    ("label-correction", {**MAP, "strength": -1.0}),
]
CASES = [(name, active) for name, (_, active) in STRENGTHS.items()] + VARIANTS


def made(name, settings):
    remedy = make(name, settings)
    if isinstance(remedy, LabelCorrectionPerState) and settings:
        return LabelCorrectionPerState(**settings, data="sha", spectrum=spectrum())
    return remedy


def test_every_registered_remedy_is_checked_here():
    assert SAMPLING_REMEDIES.names() == sorted(STRENGTHS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "active"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_remedy_keeps_the_contract(name, active, path):
    # heun's last step on vp is Euler's in any case, so equal calls need an odd number there
    check_sampling_remedy(made(name, STRENGTHS[name][0]), made(name, active), model(path), steps=3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", STRENGTHS)
def test_strength_zero_is_the_exact_field_bit_for_bit(name, path):
    remedy, field, euler = made(name, STRENGTHS[name][0]), mixture(path), sampler("euler")
    start, cond, grid = randn(3, 4, *SHAPE), torch.arange(4) % 2, torch.linspace(0, 1, 6, dtype=DOUBLE)
    method, steps = remedy.solver(euler, 5)
    for (_, ours), (_, theirs) in zip(
        walk(remedy.around(field), method, start, cond, grid), walk(field, euler, start, cond, grid), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert steps == 5


@pytest.mark.parametrize(("name", "active"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_remedy_works_on_a_table_or_says_why_not(name, active):
    levels = Table(torch.cumprod(torch.full((40,), 0.9, dtype=DOUBLE), 0))
    noises = FlowModel.from_callable(
        lambda x, t, c: 0.9 * x, shape=SHAPE, interpolant=levels, prediction="noise", classes=2
    )
    remedy, method = made(name, active), sampler("recombine")
    if name == "heun-equal-calls":
        with pytest.raises(InputError, match="table of noise levels and has no velocity"):
            remedy.check(noises, method)
        return
    check_sampling_remedy(made(name, STRENGTHS[name][0]), remedy, noises, method="recombine", steps=3)


@pytest.mark.parametrize(("name", "active"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_remedy_goes_around_guidance(name, active):
    strong = Guided(model(), 2.0)
    remedy = made(name, active)
    wrapped = remedy.around(strong)
    t, cond = torch.tensor(0.5, dtype=DOUBLE), torch.tensor([0, 1])
    assert wrapped.calls == strong.calls == 2
    assert wrapped.velocity(randn(4, 2, *SHAPE), t, cond).shape == (2, *SHAPE)


def test_the_contract_finds_a_remedy_that_breaks_it():
    @dataclass(frozen=True)
    class Loud(SamplingRemedy):
        strength: float = 0.0
        name: ClassVar[str] = "dcw"

        @property
        def active(self):
            return self.strength != 0

        def around(self, model):
            from slowflow.flow.planted import Scaled

            return Scaled(model, 1.0)

        @classmethod
        def fitted(cls, findings, **settings):
            return Fit(cls(), False, "")

    with pytest.raises(AssertionError, match="broken promise"):
        check_sampling_remedy(Loud(), Loud(0.1), model())


# --- mistakes


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("epsilon-scalin", {}, "unknown sampling remedy 'epsilon-scalin'; did you mean 'epsilon-scaling'"),
        ("dcw", {"strenght": 1}, "the remedy 'dcw' has no setting 'strenght'; did you mean 'strength'"),
        ("dcw", {"strength": "much"}, "'strength' in the remedy 'dcw' is 'much', expected float"),
        ("dcw", {"strength": 2.0}, "strength is 2.0, expected between -0.5 and 0.5"),
        ("dcw", {"band": "high"}, "band is 'high', expected one of pixel, low"),
        ("epsilon-scaling", {"constant": 0.0}, "lambda runs from 0.0 .* to 0.0 .*, expected between 0.5 and 2.0"),
        ("epsilon-scaling", {"constant": 1.0, "slope": 3.0}, "lambda runs from 4.0"),
        ("score-rescaling", {"k": 0.0}, "k is 0.0, expected a ratio between 0.5 and 2"),
        ("label-correction", {"times": (0.1,)}, "1 times and 0 labels were given"),
        ("label-correction", {"times": (0.5, 0.2), "labels": (0.1, 0.2)}, "times of a map must increase"),
        ("label-correction", {"times": (0.2, 0.5), "labels": (0.3, 0.2)}, "labels of a map must not decrease"),
        ("label-correction", {"times": (0.2,), "labels": (1.2,)}, "times between 0 .* and 1"),
        ("label-correction", {"reading": "clock"}, "reading is 'clock', expected one of level"),
        ("time-shift", {"window": 2.0}, "window is 2.0, expected a width in t"),
        ("time-shift", {"variant": "both"}, "variant is 'both', expected one of label, target"),
        ("churn", {"amount": -1.0}, "amount is -1.0, expected a number of at least 0"),
        ("churn", {"start": 0.5, "end": 0.2}, "churn acts from 0.5 to 0.2"),
        ("restart", {"low": 0.5, "high": 0.2}, "restart goes from 0.2 back to 0.5"),
        ("heun-equal-calls", {"on": 1}, "'on' in the remedy 'heun-equal-calls' is 1, expected bool"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make(name, settings)


@pytest.mark.parametrize(
    ("remedy", "shape", "method", "message"),
    [
        (("dcw", {"strength": 0.1, "band": "low"}), (1, 3, 4), "euler", "no Haar low band"),
        (("time-shift", {"window": 0.1}), (1, 1, 1), "euler", "no variance over their pixels"),
        (("time-shift", {"variances": (0.1, 0.2, 0.3)}), SHAPE, "euler", "3 variances .* 2 classes"),
        (("churn", {"amount": 1.0}), SHAPE, "em", "the sampler 'em' already does"),
        (("restart", {"again": 1}), SHAPE, "ancestral", "the sampler 'ancestral' already does"),
        (("heun-equal-calls", {}), SHAPE, "heun", "replaces a deterministic sampler of one call a step"),
        (("label-correction-per-state", STRENGTHS["label-correction-per-state"][1]), SHAPE, "euler", "--fit-from RUN"),
    ],
)
def test_what_a_remedy_cannot_work_with_is_refused(remedy, shape, method, message):
    plain = FlowModel.from_callable(lambda x, t, c: x, shape=shape, classes=2)
    with pytest.raises(InputError, match=message):
        make(*remedy).check(plain, sampler(method))


def test_a_spectrum_of_other_data_is_refused():
    plain = FlowModel.from_callable(lambda x, t, c: x, shape=(1, 2, 2))
    with pytest.raises(InputError, match="16 axes, states of shape"):
        made(*CASES[3]).check(plain, sampler("euler"))


# --- presets


def test_every_preset_makes_its_remedy_and_names_its_source():
    assert len(presets()) > 20
    for one in presets():
        assert make(one.remedy, one.settings).active, one
        assert one.source, one
        assert one.note, one


def test_published_constants_are_as_published():
    assert preset("epsilon-scaling", "cifar10-100").settings == {"constant": 1.017}
    assert preset("epsilon-scaling", "cifar10-edm-heun-21").settings == {"constant": 0.9985}
    linear = make("epsilon-scaling", preset("epsilon-scaling", "cifar10-20-linear").settings)
    # k = 0.0025 a step, from 0 at the data to 19 at the noise
    assert float(linear.scale(torch.tensor(0.0))) == pytest.approx(1.0 + 19 * 0.0025)
    assert preset("time-shift", "cifar10-ddim-100").settings == {"window": 0.005, "until": 0.45, "variant": "target"}


@pytest.mark.parametrize(
    ("remedy", "name", "message"),
    [
        ("epsilon-scaling", "cifar10-10", "no preset 'cifar10-10'; did you mean 'cifar10-1"),
        ("churn", "edm", "'churn' has no presets"),
    ],
)
def test_an_unknown_preset_is_refused(remedy, name, message):
    with pytest.raises(InputError, match=message):
        preset(remedy, name)
