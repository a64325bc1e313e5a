"""What a sample is does not depend on who is computed beside it: batches, shards, threads (R13).

PyTorch does not promise equal bits for unequal batches, hence the tolerance of 1e-6 in m; the noise is bit-equal.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slowflow import rng
from slowflow.families.open import open_model
from slowflow.flow.generate import final_states, noise_of
from slowflow.measuring.engine import measure
from slowflow.records import Probe

pytestmark = pytest.mark.full
BATCHES = (1, 3, 8, 17, 32, 64)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_noise_is_bit_equal_for_any_batch():
    whole = noise_of(0, np.arange(64), (1, 8, 8))
    for size in BATCHES:
        parts = [noise_of(0, np.arange(i, min(i + size, 64)), (1, 8, 8)) for i in range(0, 64, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert np.array_equal(rng.normal(0, "noise", [63], (1, 8, 8))[0], whole[63].numpy())


@pytest.mark.parametrize("sampler", ["euler", "heun", "em"])
def test_samples_of_a_transformer_are_equal_for_any_batch_and_thread_count(sampler):
    model = open_model("digits-sit").model
    found = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        for size in BATCHES if count == 1 else (17, 64):
            found[count, size] = final_states(model, np.arange(40), steps=3, method=sampler, batch_size=size)
    first = found[1, 64]
    for key, states in found.items():
        assert torch.allclose(states, first, rtol=0, atol=1e-5), key  # states are of size one, the network is float32


def arrays(found):
    return {
        (name, kind, what): found.array(what, kind, reference=name)
        for name in ("own", "nearest")
        for kind in ("model", "genuine", "exact")
        for what in ("m", "residual")
    }


@pytest.mark.parametrize("shard", BATCHES[:-1])
def test_m_and_gamma_are_equal_for_any_shard(tmp_path, tiny_model, images, whole, shard):
    probe = Probe(samples=40, steps=(3,), shard=shard, nulls=("genuine", "exact"))
    found = measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5)
    for key, values in arrays(whole).items():
        assert np.abs(arrays(found)[key] - values).max() <= 1e-6, key
    assert np.array_equal(found.array("ids"), np.arange(40))
    one, other = found.suggest(), whole.suggest()
    assert one.verdict == other.verdict
    for name, estimate in other.estimates.items():
        assert one.estimates[name].value == pytest.approx(estimate.value, abs=1e-6), name
        assert np.sign(one.estimates[name].value) == np.sign(estimate.value) or abs(estimate.value) < 1e-6


def test_m_is_equal_for_any_number_of_threads(tmp_path, tiny_model, images, whole):
    torch.set_num_threads(2)
    probe = Probe(samples=40, steps=(3,), shard=64, nulls=("genuine", "exact"))
    found = measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5)
    for key, values in arrays(whole).items():
        assert np.abs(arrays(found)[key] - values).max() <= 1e-6, key


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model, images):
    torch.set_num_threads(1)
    probe = Probe(samples=40, steps=(3,), shard=64, nulls=("genuine", "exact"))
    return measure(tiny_model(), images, probe, tmp_path_factory.mktemp("independence") / "run", heldout=0.5)
