"""Measures of the peers: norms, delta and sliced give their closed forms, their nulls, and the sign of planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from slowflow.errors import InputError
from slowflow.flow.exact import ExactMixture, gaussian
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.measuring.peers import MEASURES
from slowflow.measuring.peers.norms import picked
from slowflow.measuring.references import Trajectories

D, S = 16, 0.5
GRID = np.linspace(0.05, 1.0, 20)
LINEAR = interpolant("linear")


def scale(t: np.ndarray) -> np.ndarray:
    """The exact flow of N(0, S^2 I) multiplies its noise by this; a velocity times f multiplies by scale^f."""
    return np.sqrt((1 - t) ** 2 + S**2 * t**2)


def batch(states: np.ndarray, kind: str, grid: np.ndarray = GRID, **known: Any) -> Trajectories:
    unused = np.zeros((len(states), states.shape[2]))
    first = int(known.pop("first", 0))
    return Trajectories(
        states,
        known.pop("noise", unused),
        unused,
        known.pop("labels", np.zeros(len(states), dtype=np.int64)),
        grid,
        known.pop("path", LINEAR),
        np.arange(first, first + len(states)),
        kind=kind,
        datum=known.pop("datum", None),
    )


def pairs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, D)), S * draw.normal(size=(n, D))


def genuine(n: int, seed: int, lag: float = 0.0, path: str = "linear", kind: str = "genuine") -> Trajectories:
    """Interpolations at (1 - lag) times the grid."""
    (noise, data), way, at = pairs(n, seed), interpolant(path), torch.from_numpy((1 - lag) * GRID)
    states = way.alpha(at).numpy()[:, None] * data[:, None] + way.sigma(at).numpy()[:, None] * noise[:, None]
    return batch(states, kind, noise=noise, datum=data, path=way)


def sampled(n: int, seed: int, factor: float = 1.0, kind: str = "model", first: int = 0) -> Trajectories:
    """The flow of `factor` times the exact velocity, from pure noise."""
    start = pairs(n, seed)[0]
    return batch(scale(GRID)[:, None] ** factor * start[:, None], kind, first=first)


def field() -> ExactMixture:
    return gaussian(torch.zeros(D), S)


def stored(name: str, *batches: Trajectories) -> dict[str, dict[str, np.ndarray]]:
    """What the engine keeps: arrays of the batches of each kind, joined along their first axis."""
    kinds: dict[str, list[dict[str, np.ndarray]]] = {}
    for one in batches:
        kinds.setdefault(one.kind, []).append(MEASURES.get(name).observe(one, field()))
    return {kind: {k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for kind, parts in kinds.items()}


def table(name: str, *batches: Trajectories) -> pd.DataFrame:
    return MEASURES.get(name).table(stored(name, *batches), batches[0].path, 0)


def pieces(whole: Trajectories, size: int) -> list[Trajectories]:
    """The same trajectories in batches."""
    names = ("states", "noise", "endpoint", "labels", "ids", "datum")
    arrays = {name: getattr(whole, name) for name in names if getattr(whole, name) is not None}
    return [
        replace(whole, **{name: values[i : i + size] for name, values in arrays.items()})
        for i in range(0, len(whole.states), size)
    ]


def covers(found: pd.DataFrame, column: str, truth: np.ndarray | float) -> np.ndarray:
    return np.asarray((found[f"{column}_low"] <= truth) & (truth <= found[f"{column}_high"]))


# norms ----------------------------------------------------------------------------------------------------------


def test_a_perfect_model_has_norm_ratio_one() -> None:
    found = table("norms", sampled(400, 1), genuine(400, 2), sampled(400, 3, kind="exact"))
    for column in ("velocity_ratio", "noise_ratio", "velocity_ratio_null", "noise_ratio_null"):
        # 55 states a side; a norm in 16 dimensions has a relative sd of 0.18, so a ratio of means has one of 0.034
        np.testing.assert_allclose(found[column], 1.0, rtol=0, atol=0.1)
        assert covers(found, column, 1.0).all()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_scaled_velocity_moves_the_norms_the_right_way(factor: float) -> None:
    """Noise prediction is proportional to the state, and the state to scale^factor: slow states are louder."""
    found = table("norms", sampled(400, 1, factor), genuine(400, 2), sampled(400, 1, kind="exact"))
    truth = scale(found["t"].to_numpy()) ** (factor - 1.0)
    assert ((truth > 1.0) == (factor < 1.0)).all()
    np.testing.assert_allclose(found["lambda"], truth, rtol=1e-9)  # paired by starting noise: no error is left
    np.testing.assert_allclose(found["lambda_high"] - found["lambda_low"], 0.0, atol=1e-9)
    assert covers(found, "noise_ratio", truth).all()
    assert covers(found, "velocity_ratio", truth).all()


def test_norms_are_those_of_the_network_under_the_given_labels(tiny_model: Callable[..., FlowModel]) -> None:
    model, draw = tiny_model(0.9), np.random.default_rng(5)
    one = batch(draw.normal(size=(12, 20, 64)), "model", labels=np.arange(12) % 10)
    found = MEASURES.get("norms").observe(one, model)
    column, rows = int(np.flatnonzero(found["t"][0, 2] == GRID)[0]), picked(one.ids)
    state, t = torch.from_numpy(one.states[rows, column]).reshape(-1, 1, 8, 8), torch.tensor(GRID[column])
    cond = torch.from_numpy(one.labels[rows])
    outputs = {"velocity": model.velocity(state, t, cond), "noise": model.predict(state, t, cond)[1]}
    for what, value in outputs.items():
        np.testing.assert_allclose(found[what][:, 2], value.flatten(1).norm(dim=1) / 8, rtol=1e-12)


def test_norms_do_not_depend_on_the_batch_and_cost_little() -> None:
    whole = sampled(500, 6)
    one, split = stored("norms", whole)["model"], stored("norms", *pieces(whole, 7))["model"]
    for what in ("velocity", "noise", "ids"):
        np.testing.assert_allclose(one[what], split[what], rtol=1e-12)
    assert one["t"].shape == (1, 6)
    assert one["t"].max() < 1.0  # no sampler asks the network at the end
    calls = 3 * one["velocity"].size
    assert calls <= 0.055 * 500 * 50  # three kinds, against 50 Euler steps
    np.testing.assert_array_equal(one["ids"][:8], np.arange(8))


def test_few_and_many_classes_are_all_looked_at() -> None:
    for classes in (2, 3, 10, 100):
        ids = picked(np.arange(4000))
        counts = np.bincount(ids % classes, minlength=classes)
        assert counts.min() > 0.3 * counts.mean()


def test_norms_without_a_null_are_nan_and_without_truth_refused() -> None:
    found = table("norms", sampled(100, 1), genuine(100, 2))
    assert found["noise_ratio"].notna().all()
    assert found[["noise_ratio_null", "velocity_ratio_null_low", "lambda"]].isna().all(axis=None)
    with pytest.raises(InputError, match="'genuine' was not measured"):
        table("norms", sampled(100, 1))


# delta ----------------------------------------------------------------------------------------------------------

BEGIN = 0.05


def late(n: int, seed: int, factor: float = 1.0, kind: str = "model", forget: bool = True) -> Trajectories:
    """From real interpolations at BEGIN: the flow of N(0, S^2 I), or the interpolation itself."""
    noise, data = pairs(n, seed)
    begin, grid = BEGIN * data + (1 - BEGIN) * noise, GRID[1:]
    moved = (scale(grid) / scale(np.array(BEGIN)))[:, None] ** factor * begin[:, None]
    kept = grid[:, None] * data[:, None] + (1 - grid[:, None]) * noise[:, None]
    return batch(moved if forget else kept, kind, grid, datum=data)


def forgotten(t: np.ndarray) -> np.ndarray:
    """Signed root of delta of a perfect model started at BEGIN, in closed form."""
    c = scale(t) / scale(np.array(BEGIN))
    return np.sqrt((c * BEGIN - t) ** 2 * S**2 + c**2 * (1 - BEGIN) ** 2) - (1 - t)


def test_a_perfect_model_has_the_delta_of_forgetting() -> None:
    found = table("delta", *pieces(late(2000, 11), 100), *pieces(late(2000, 12, kind="exact"), 100))
    t = found["t"].to_numpy()
    # a std over 2000 samples has a relative sd of 0.016, its mean over 16 pixels 0.004
    for suffix in ("", "_null"):
        np.testing.assert_allclose(found[f"root{suffix}"], forgotten(t), rtol=0, atol=0.015)
        assert covers(found, f"root{suffix}", forgotten(t)).mean() >= 0.8
    np.testing.assert_allclose(found["delta"], found["root"] ** 2, rtol=1e-12)
    last = found.iloc[-1]
    assert last["delta_null"] == pytest.approx(2 * S**2, rel=0.1)  # 2 Var: the published curves are of this size
    assert last["delta_null_low"] > 0.4
    assert covers(found, "excess", 0.0).all()
    assert (found["shards"] == 20).all()


def test_genuine_states_have_no_delta() -> None:
    found = table("delta", *pieces(late(2000, 3, forget=False), 100))
    np.testing.assert_allclose(found["root"], 0.0, atol=0.015)
    assert (found["delta_low"] == 0.0).mean() >= 0.8  # the root's interval holds 0


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_excess_of_delta_has_the_sign_of_the_fault(factor: float) -> None:
    found = table("delta", *pieces(late(600, 4, factor), 100), *pieces(late(600, 4, kind="exact"), 100))
    middle = found[found["t"].between(0.3, 0.8)]
    # a slow velocity leaves the states louder; both sides share noise and image, so 600 samples are plenty
    signed = middle["excess"] if factor < 1 else -middle["excess"]
    assert (signed > 0).all()
    assert not covers(middle, "excess", 0.0).any()


def test_sums_over_shards_make_one_estimate_with_an_interval_from_four_on() -> None:
    whole = late(300, 5)
    one, three, four = (table("delta", *pieces(whole, size)) for size in (300, 100, 75))
    for found in (three, four):
        np.testing.assert_allclose(found["delta"], one["delta"], rtol=1e-9)
    assert one[["delta_low", "delta_high", "root_low", "root_high"]].isna().all(axis=None)
    assert three["root_low"].isna().all()
    assert (four["root_low"] < four["root"]).all()
    assert one[["delta_null", "root_coarse", "excess"]].isna().all(axis=None)
    kept = stored("delta", *pieces(whole, 75))["model"]["sums"]
    assert kept.shape == (4, 3, 10, D)
    np.testing.assert_array_equal(kept[:, 0], 75.0)


def test_delta_needs_late_starts() -> None:
    assert MEASURES.get("delta").start == "late"
    with pytest.raises(InputError, match="real interpolation"):
        stored("delta", sampled(10, 1))
    with pytest.raises(InputError, match="not measured on the model"):
        table("delta", late(10, 1, kind="exact"))


# sliced ---------------------------------------------------------------------------------------------------------


def test_genuine_laws_are_nearest_at_their_own_time() -> None:
    found = table("sliced", genuine(500, 1, kind="model"), genuine(500, 2))
    # around 0.8, where the energy has its minimum, two times have nearly the same law and m is either
    inside = found[found["t"] < 0.6]
    # 32 directions in 16 dimensions: the energy of 250 states a side, 1.6 % each, gives m to 0.01 or so
    np.testing.assert_allclose(inside["m_null"], inside["t"], rtol=0, atol=0.02)
    np.testing.assert_allclose(inside["m"], inside["t"], rtol=0, atol=0.04)
    assert covers(inside, "excess", 0.0).all()
    np.testing.assert_allclose(found["distance"], found["distance_null"], rtol=0.25)
    assert (found["distance"] > 0).all()  # at finite n even the same law is at a distance


@pytest.mark.parametrize("lag", [0.15, -0.15])
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_a_planted_lag_of_the_law_is_found(lag: float, path: str) -> None:
    found = table("sliced", genuine(500, 3, lag, path, "model"), genuine(500, 4, path=path))
    # later the variance has its minimum on the linear path; on GVP an early lag moves it by less than its error
    sure = found[found["t"].between(0.25, 0.6)]
    np.testing.assert_allclose(sure["excess"], -lag * sure["t"], rtol=0, atol=0.03)
    assert covers(sure, "excess", -lag * sure["t"]).all()
    assert (np.sign(sure["m"] - sure["t"]) == -np.sign(lag)).all()  # m beyond t is found as well
    assert (sure["distance"] <= sure["distance_at_t"]).all()


def test_the_distance_shows_what_no_time_explains() -> None:
    """Data twice as wide along half the pixels: the noise on time, the signal of no time."""
    one = genuine(500, 5, kind="model")
    data = one.datum * np.where(np.arange(D) < D // 2, 2.0, 0.2) if one.datum is not None else None
    assert data is not None
    moved = GRID[:, None] * data[:, None] + (1 - GRID[:, None]) * one.noise[:, None]
    found = table("sliced", batch(moved, "model"), genuine(500, 6))
    late_rows = found[found["t"] > 0.7]
    assert (late_rows["distance_low"] > late_rows["distance_null_high"]).all()


def test_projections_are_the_same_for_every_kind_and_shard() -> None:
    whole = genuine(60, 7)
    one, split = stored("sliced", whole)["genuine"], stored("sliced", *pieces(whole, 7))["genuine"]
    for what, array in one.items():
        assert array.dtype == (np.float64 if what == "t" else np.float32)
        np.testing.assert_allclose(array, split[what][: len(array)], rtol=0, atol=1e-6)
    t = one["t"][0][:, None]
    np.testing.assert_allclose(one["states"], t * one["data"][:, None] + (1 - t) * one["noise"][:, None], atol=1e-5)
    assert one["states"].shape == (60, 8, 32)
    model = stored("sliced", genuine(60, 7, kind="model"))["model"]
    np.testing.assert_array_equal(model["states"], one["states"])
    assert set(model) == {"states", "t"}


def test_an_end_of_time_is_flagged_and_few_states_refused() -> None:
    loud = genuine(100, 8, kind="model")
    found = table("sliced", batch(5 * loud.states, "model"), genuine(100, 9))
    assert found["boundary"].iloc[:5].all()
    assert (found["m"].iloc[:5] == 0.0).all()  # more energy than pure noise
    with pytest.raises(InputError, match="at least 4 model and 4 genuine"):
        table("sliced", genuine(3, 1, kind="model"), genuine(100, 9))


# all ------------------------------------------------------------------------------------------------------------


def test_every_measure_says_what_it_is_and_repeats_itself() -> None:
    assert {"norms", "delta", "sliced"} <= set(MEASURES.names())
    for entry in MEASURES:
        assert entry.summary
        assert entry.source
    one = (sampled(60, 1), genuine(60, 2))
    for name in ("norms", "sliced"):
        pd.testing.assert_frame_equal(table(name, *one), table(name, *one))
