"""The learned level: calibrated on images it has not seen, right on planted lags, and wary of what it does not know."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError
from slowflow.flow.interpolants import interpolant
from slowflow.measuring.references import REFERENCES, Assigned, Trajectories, learned

LINEAR = interpolant("linear")
TIMES = np.linspace(0.1, 0.9, 9)
REPEATS = 10
"""Each of the 60 held-out images is used with this many noises."""


@pytest.fixture(scope="module")
def bank(images: ImageSet) -> Bank:
    return Bank.of(images.split(0.2)[0], conditional=True)


@pytest.fixture(scope="module")
def heldout(images: ImageSet) -> np.ndarray:
    rows = images.split(0.2)[1].data.flatten(1).to(torch.float64).numpy()
    return np.tile(rows, (REPEATS, 1))


def genuine(data: np.ndarray, lag: float = 0.0, seed: int = 1) -> np.ndarray:
    """Interpolations at (1 - lag) TIMES."""
    m, noise = ((1 - lag) * TIMES)[:, None], np.random.default_rng(seed).normal(size=(len(data), 1, data.shape[1]))
    return m * data[:, None] + (1 - m) * noise


def assigned(states: np.ndarray, bank: Bank) -> Assigned:
    unused, n = np.zeros((len(states), states.shape[2])), len(states)
    batch = Trajectories(states, unused, unused, np.zeros(n, dtype=np.int64), TIMES, LINEAR, np.arange(n))
    return REFERENCES.get("level-learned").assign(batch, bank, "torch")


def test_new_images_are_found_at_their_time_on_average(bank: Bank, heldout: np.ndarray) -> None:
    found = learned.check(bank, heldout, LINEAR)
    # 600 states of sd 0.02 to 0.09: 0.004 at worst
    np.testing.assert_allclose(found["bias"], 0.0, atol=0.01)
    # the curve these states are read by was itself averaged over about as many: the difference scatters by sqrt(2) more
    half = np.sqrt(2.0) * (found["bias_high"] - found["bias_low"]) / 2.0
    assert (found["bias"].abs() <= half).mean() > 0.8
    assert (found["sd"] < 0.11).all()  # t itself, drawn uniformly, has 0.29
    assert found["ood"].mean() == pytest.approx(0.01, abs=0.008)


def test_curved_paths_are_calibrated_where_neighbouring_times_differ(
    bank: Bank, heldout: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "STEPS", 300)  # less precise, as well calibrated
    monkeypatch.setattr(learned, "RATE", 2e-2)
    found = learned.check(bank, heldout, interpolant("vp"), np.array([0.75, 0.8, 0.85, 0.9, 0.95]))
    np.testing.assert_allclose(found["bias"], 0.0, atol=0.015)
    blind = learned.check(bank, heldout, interpolant("vp"), np.array([0.1]))
    assert blind["sd"].iloc[0] > 0.2  # VP at 0.1 holds 1 % of the data: the answer is noise and its spread says so


@pytest.mark.parametrize("lag", [0.1, 0.2, -0.1])
def test_a_planted_lag_is_recovered_in_sign_and_size(bank: Bank, heldout: np.ndarray, lag: float) -> None:
    found, null = (assigned(genuine(heldout, x, seed), bank).m.mean(axis=0) for x, seed in ((lag, 2), (0.0, 3)))
    excess = 1.0 - found / TIMES - (1.0 - null / TIMES)
    late = TIMES > 0.25
    np.testing.assert_allclose(excess[late], lag, rtol=0.25)  # the brief's 25 %
    assert excess[late].mean() == pytest.approx(lag, rel=0.1)


def test_the_null_has_no_excess(bank: Bank, heldout: np.ndarray) -> None:
    half = len(heldout) // 2
    m = assigned(genuine(heldout), bank).m
    error = m.std(axis=0) * np.sqrt(2.0 / half)
    assert (np.abs(m[:half].mean(axis=0) - m[half:].mean(axis=0)) < 4 * error).all()


def test_states_unlike_genuine_ones_are_flagged(bank: Bank, heldout: np.ndarray) -> None:
    states = genuine(heldout)
    usual, loud = assigned(states, bank), assigned(3 * states, bank)
    assert usual.more["ood"].dtype == np.bool_
    assert usual.more["ood"].shape == usual.m.shape
    assert usual.more["ood"].mean() < 0.02
    assert (loud.more["ood"].mean(axis=0) > 0.2).all()
    assert loud.more["ood"].mean() > 0.5
    assert np.median(usual.residual) == pytest.approx(1.0, abs=0.2)
    assert np.median(loud.residual) > 2.0


def test_shuffling_is_flagged_where_the_image_shows(bank: Bank, heldout: np.ndarray) -> None:
    """Exchanging strong and weak axes of a late state leaves its energy and all its numbers, but no image has them."""
    axes = bank.spectrum.axes
    found = assigned((genuine(heldout) @ axes)[..., ::-1] @ axes.T, bank).more["ood"].mean(axis=0)
    assert found[TIMES > 0.75].min() > 0.2
    assert found[0] < 0.1  # nearly white noise is the same in any order


def test_the_answer_does_not_depend_on_the_batch(bank: Bank, heldout: np.ndarray) -> None:
    states = genuine(heldout[:40])
    whole = assigned(states, bank)
    parts = [assigned(states[i : i + 7], bank) for i in range(0, 40, 7)]
    np.testing.assert_allclose(np.concatenate([part.m for part in parts]), whole.m, rtol=0, atol=1e-9)


def test_training_again_gives_the_same_weights_and_touches_nothing(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "STEPS", 60)
    copies = [Bank(dict(bank.shards), bank.name, bank.fingerprint) for _ in range(2)]
    stream, threads = torch.get_rng_state(), torch.get_num_threads()
    one = learned.trained(copies[0], LINEAR)
    assert torch.equal(stream, torch.get_rng_state())
    torch.manual_seed(5)
    torch.set_num_threads(2)
    try:
        again = learned.trained(copies[1], LINEAR)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(stream)
    for a, b in zip(one.weights, again.weights, strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(one.answers, again.answers)


def test_a_bank_is_trained_on_once_and_forgotten_with_it(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Bank(dict(bank.shards), "other", "")
    made = learned.trained(bank, LINEAR)
    monkeypatch.setattr(learned, "_train", lambda *_: made)
    learned.trained(other, LINEAR)
    monkeypatch.setattr(learned, "_train", None)  # a second training would call it
    assert learned.trained(other, LINEAR) is made
    key = (id(other), "linear")
    assert key in learned._TRAINED
    del other
    gc.collect()
    assert key not in learned._TRAINED


def test_the_ends_of_time_are_flagged_and_nothing_is_paired(bank: Bank, heldout: np.ndarray) -> None:
    found = assigned(genuine(heldout), bank)
    np.testing.assert_array_equal(found.boundary, (found.m <= 0.0) | (found.m >= 1.0))
    assert (found.m < 0.0).any()  # a noisy early state: m is not cut off at 0, or its mean would be late
    np.testing.assert_array_equal(found.index, np.full(found.m.shape, -1))
    assert np.isfinite(found.residual).all()


def test_too_few_images_and_too_many_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match="holds 9 images; 'level-learned' needs at least 10"):
        learned.trained(Bank({0: np.ones((9, 4))}, "few", ""), LINEAR)
    with pytest.raises(DataError, match="too large for principal axes"):
        learned.trained(Bank({0: np.zeros((10, 8193))}, "large", ""), LINEAR)
