"""Protocols: the calls they claim are the calls they cost, and they refuse models they are not for."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import slowflow
from slowflow.errors import InputError
from slowflow.flow.model import FlowModel
from slowflow.protocols import PROTOCOLS, calls_of_protocols


class Zero(nn.Module):
    def forward(self, state, label, cond):
        return torch.zeros_like(state)


def model(family, **more):
    return replace(FlowModel.from_callable(Zero(), shape=(4, 2, 2), classes=3), family=family, name="tiny", **more)


CALLS = {
    "sit-paper": (250, 500),
    "sit-script": (498, 996),
    "sit-sde": (250, 500),
    "repa-paper": (250, 422),  # guided where t >= 0.3: from the 79th of 249 steps of 0.96 / 249, and on the last
    "repa-ode": (499, 998),
    "rae-paper": (49, 49),
    "rae-paper-guided": (49, 98),
    "dit-ddim": (250, 500),
    "sd3-default": (28, 56),
}


def test_every_protocol_is_counted_here():
    assert set(CALLS) == set(PROTOCOLS.names())


@pytest.mark.parametrize("name", CALLS)
def test_a_protocol_costs_what_it_says(name):
    protocol = slowflow.protocol(name)
    plain = model(protocol.families[0])
    guide = model(protocol.families[0]) if protocol.autoguided else None
    applied = protocol.applied(plain, guide)
    settings = protocol.settings()
    evaluations, calls = CALLS[name]
    text = protocol.sentence(applied, **settings)
    assert f"{evaluations} evaluations and {calls} network calls a sample" in text
    assert "changed" not in text
    assert protocol.counts in text
    changed = protocol.sentence(applied, **{**settings, "steps": 3})
    assert "changed from the protocol: steps" in changed


@pytest.mark.parametrize("name", CALLS)
def test_protocols_refuse_models_they_are_not_for(name):
    protocol = slowflow.protocol(name)
    with pytest.raises(InputError, match=f"the protocol '{name}' is for {protocol.families[0]}, 'tiny' is 'ddpm'"):
        protocol.applied(model("ddpm"))
    protocol.applied(model("custom"), model("custom") if protocol.autoguided else None)


def test_guides_are_asked_for_and_refused_by_name():
    with pytest.raises(InputError, match="'rae-paper-guided' needs a guide: --guide"):
        slowflow.protocol("rae-paper-guided").applied(model("rae"))
    with pytest.raises(InputError, match="'rae-paper' uses no guide"):
        slowflow.protocol("rae-paper").applied(model("rae"), model("rae"))


def test_a_familys_protocols_are_counted_without_a_guide():
    assert calls_of_protocols(model("rae")) == {"rae-paper": 49, "rae-paper-guided": 98}
    assert calls_of_protocols(model("ddpm")) == {}


def test_unknown_protocols_suggest_one():
    with pytest.raises(InputError, match="did you mean 'sit-paper'"):
        slowflow.protocol("sit-papre")


def test_sd3_settings_are_the_pipelines_defaults():
    diffusers = pytest.importorskip("diffusers")
    import inspect

    defaults = inspect.signature(diffusers.StableDiffusion3Pipeline.__call__).parameters
    settings = slowflow.protocol("sd3-default").settings()
    assert defaults["num_inference_steps"].default == settings["steps"]
    assert defaults["guidance_scale"].default == settings["guidance"]
