"""References against their closed forms: what each shows when nothing is wrong, and what it shows of a planted lag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.errors import DataError, InputError
from slowflow.flow.exact import gaussian
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import Interpolant, interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.spectral import SpectralMixture, solve_gaussian
from slowflow.measuring.engine import measure, resolved
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.references import REFERENCES, Assigned, ClockReference, Reference, Trajectories
from slowflow.measuring.references.clocks import inverse, readout
from slowflow.measuring.slack import Clock, everyone
from slowflow.records import Probe

T = np.linspace(0.1, 1.0, 10)


def batch_of(
    states: np.ndarray, noise: np.ndarray, data: np.ndarray, t: np.ndarray = T, path: str = "linear", **more: object
) -> Trajectories:
    n = len(states)
    labels, ids = np.zeros(n, dtype=np.int64), np.arange(n)
    return Trajectories(states, noise, data, labels, t, interpolant(path), ids, **more)  # type: ignore[arg-type]


def assigned(name: str, batch: Trajectories, bank: Bank) -> Assigned:
    reference = REFERENCES.get(name)
    assert isinstance(reference, Reference)
    return reference.assign(batch, bank, "torch")


def clocks_of(batch: Trajectories, bank: Bank) -> dict[str, Clock]:
    reference = REFERENCES.get("clocks")
    assert isinstance(reference, ClockReference)
    return reference.clocks(reference.observe(batch, bank), batch.grid, batch.path)


PER_SAMPLE = ("states", "noise", "endpoint", "labels", "ids")


def bank_of(rows: np.ndarray) -> Bank:
    return Bank({0: rows}, "rows", "0")


def mixed(noise: np.ndarray, data: np.ndarray, t: np.ndarray = T, path: Interpolant | None = None) -> np.ndarray:
    times = torch.from_numpy(t)
    path = path or interpolant("linear")
    alpha, sigma = path.alpha(times).numpy(), path.sigma(times).numpy()
    return alpha[None, :, None] * data[:, None] + sigma[None, :, None] * noise[:, None]


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("name", ["own", "paired-late", "inverted"])
def test_a_pair_that_belongs_to_the_state_gives_its_time(name: str, path: str) -> None:
    draw = np.random.default_rng(0)
    noise, data = draw.normal(size=(6, 64)), 0.5 * draw.normal(size=(6, 64))
    batch = batch_of(mixed(noise, data, path=interpolant(path)), noise, data, path=path, kind="genuine", datum=data)
    found = assigned(name, batch, bank_of(data))
    np.testing.assert_allclose(found.m, np.broadcast_to(T, found.m.shape), rtol=0, atol=1e-9)  # algebra
    assert not found.boundary[:, :-1].any()


@pytest.mark.parametrize("d", [64, 1024, 4096])
@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
def test_shared_noise_against_other_data_gives_a_straight_fan(s: float, d: int) -> None:
    """m/t = (1 + c s^2)/(1 + s^2) at every t, with c the correlation of the two images, here by construction."""
    draw = np.random.default_rng(d)
    n, c = 400, 0.4
    noise, data, other = (draw.normal(size=(n, d)) for _ in range(3))
    data, other = s * data, s * (c * data + np.sqrt(1 - c**2) * other)
    batch = batch_of(mixed(noise, data), noise, data)
    rows = Bank({0: other}, "other", "0")
    found = np.stack(
        [assigned("paired", part, Bank({0: other[i : i + 1]}, "one", "0")).m[0] for i, part in each(batch)]
    )
    slope = found.mean(axis=0) / T
    # m is a ratio of means over d coordinates and 400 states: its error is of order 1/sqrt(400 d), its bias 1/d
    np.testing.assert_allclose(slope, (1 + c * s**2) / (1 + s**2), rtol=0, atol=4 / np.sqrt(n * d) + 2 / d)
    np.testing.assert_allclose(slope, slope[0], rtol=0, atol=1e-9)  # the same at every t
    assert assigned("paired", batch, rows).m.shape == (n, len(T))


def each(batch: Trajectories) -> list[tuple[int, Trajectories]]:
    """Every sample as a batch of its own."""
    return [
        (i, replace(batch.head(i + 1), **{k: getattr(batch, k)[i : i + 1] for k in PER_SAMPLE}))
        for i in range(len(batch.states))
    ]


@pytest.mark.parametrize("d", [64, 4096])
@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
def test_fresh_noise_is_pulled_to_the_least_norm(s: float, d: int) -> None:
    """m = (1 + c t s^2)/(1 + s^2) against an image of correlation c: c = 0 says the same whatever t is."""
    draw = np.random.default_rng(d)
    n, c = 300, 0.5
    noise, data, other = (draw.normal(size=(n, d)) for _ in range(3))
    data, other = s * data, s * (c * data + np.sqrt(1 - c**2) * other)
    batch = batch_of(mixed(noise, data), noise, data)
    found = np.stack([assigned("fresh", part, Bank({0: other[i : i + 1]}, "one", "0")).m[0] for i, part in each(batch)])
    expected = (1 + c * T * s**2) / (1 + s**2)
    # a ratio of means over d coordinates and 300 states: sampling error and a bias of order 1/d
    np.testing.assert_allclose(found.mean(axis=0), expected, rtol=0, atol=4 * max(1.0, s) / np.sqrt(n * d) + 4 / d)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_exact_gaussian_flow_bends_on_its_own_chord_and_the_inverted_one(s: float) -> None:
    """Closed form m = (sqrt((1-t)^2 + s^2 t^2) - 1)/(s - 1); the inverted pair is the same chord."""
    field = gaussian(torch.zeros(16, dtype=torch.float64), s)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 16)))
    scale = np.sqrt((1 - T) ** 2 + s**2 * T**2)
    states = noise.numpy()[:, None] * scale[None, :, None]
    batch = batch_of(states, noise.numpy(), s * noise.numpy(), datum=s * noise.numpy())
    for name in ("own", "inverted"):
        found = assigned(name, batch, bank_of(noise.numpy())).m
        np.testing.assert_allclose(found, np.broadcast_to((scale - 1) / (s - 1), found.shape), rtol=0, atol=1e-9)
    assert field.t_max == 1.0


# ------------------------------------------------------------------------------------------------------------ clocks


def spectral(d: int = 128, seed: int = 0, path: str = "linear") -> SpectralMixture:
    """One Gaussian with a 1/k spectrum and a mean."""
    draw = np.random.default_rng(seed)
    axes = np.linalg.qr(draw.normal(size=(d, d)))[0]
    variances = 1.0 / np.arange(1, d + 1)
    centre = axes @ (0.5 * np.sqrt(variances) * draw.normal(size=d))
    return SpectralMixture(
        torch.from_numpy(centre)[None],
        torch.zeros(1, dtype=torch.int64),
        torch.from_numpy(axes),
        torch.from_numpy(variances / variances.mean()),
        path,
    )


def draws(field: SpectralMixture, n: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    along = draw.normal(size=(n, field.axes.shape[0])) * field.variances.sqrt().numpy()
    return field.centres[0].numpy() + along @ field.axes.numpy().T


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_clocks_read_genuine_states_and_the_exact_flow_on_schedule(path: str) -> None:
    field = spectral(path=path)
    bank = bank_of(draws(field, 4000, 1))
    n = 2000
    noise, data = np.random.default_rng(2).normal(size=(n, 128)), draws(field, n, 3)
    t = T[1:-1]
    zeros = torch.zeros(n, dtype=torch.int64)
    flow = [solve_gaussian(field, torch.from_numpy(noise), torch.tensor(float(x)), zeros).numpy() for x in t]
    for states in (mixed(noise, data, t, interpolant(path)), np.stack(flow, axis=1)):
        found = clocks_of(batch_of(states, noise, data, t, path), bank)
        alpha, sigma = (f(torch.from_numpy(t)).numpy() for f in (field.interpolant.alpha, field.interpolant.sigma))
        one = everyone(found["signal clock"])
        late = alpha > 0.2  # below, a^2 is lost in the noise's own energy
        # 2,000 states, some 30 axes that carry signal, and a bank of 4,000: about 1.5 % of a
        np.testing.assert_allclose(found["signal clock"].coefficient(one)[0][late], alpha[late], rtol=0.05)
        # b^2 is what is left of the energy of the weakest axes, known to a few per cent
        least = alpha**2 * float(field.variances.min()) + sigma**2
        error = np.abs(found["noise clock"].coefficient(one)[0] ** 2 - sigma**2)
        assert (error < 0.05 * least).all()


def test_the_first_euler_step_takes_noise_out_on_schedule_and_brings_no_signal() -> None:
    """The signal lags by about a step from then on, the noise by nothing (10 steps, t = 0.5)."""
    field, n = spectral(), 2000
    bank = bank_of(draws(field, 4000, 1))
    noise = np.random.default_rng(2).normal(size=(n, 128))
    grid, zeros = uniform_grid(10), torch.zeros(n, dtype=torch.int64)
    steps = [x for k, x in walk(field, sampler("euler"), torch.from_numpy(noise), zeros, grid) if k]
    states = np.stack([x.numpy() for x in steps], axis=1)
    found = clocks_of(batch_of(states, noise, states[:, -1], grid.numpy()[1:]), bank)
    one = everyone(found["signal clock"])
    a, b = (found[f"{name} clock"].coefficient(one)[0] for name in ("signal", "noise"))
    assert a[0] < 0.04  # t = 0.1: nothing yet but the error of 2,000 states
    assert 0.5 - a[4] == pytest.approx(
        0.079, abs=0.02
    )  # 0.6 to 1.0 h, here by the closed form of Euler on this spectrum
    assert b[4] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.4, 0.5), (0.5, 0.6), (0.6, 0.4)])
def test_clocks_tell_signal_and_noise_apart(a: float, b: float) -> None:
    field, n = spectral(), 4000
    noise, data = np.random.default_rng(2).normal(size=(n, 128)), draws(field, n, 3)
    states = (a * data + b * noise)[:, None]
    found = clocks_of(batch_of(states, noise, data, np.array([0.5])), bank_of(draws(field, 4000, 1)))
    one = everyone(found["signal clock"])
    assert found["signal clock"].coefficient(one)[0, 0] == pytest.approx(a, rel=0.03)
    assert found["noise clock"].coefficient(one)[0, 0] == pytest.approx(b, rel=0.01)
    assert found["signal clock"].mean_slack(one)[0, 0] == pytest.approx((0.5 - a) / 0.5, abs=0.04)
    assert found["noise clock"].mean_slack(one)[0, 0] == pytest.approx((b - 0.5) / 0.5, abs=0.02)


def test_a_lagging_class_mean_does_not_leak_into_the_clocks() -> None:
    """A mean ten times stronger than the spread, 20 % behind, moves neither clock."""
    field, n = spectral(), 4000
    shift = 10.0 * (field.axes[:, 3] + field.axes[:, 90]).numpy()
    noise, data = np.random.default_rng(2).normal(size=(n, 128)), draws(field, n, 3)
    states = (0.5 * data + 0.5 * noise + 0.4 * shift)[:, None]
    bank = bank_of(draws(field, 4000, 1) + shift)
    found = clocks_of(batch_of(states, noise, data, np.array([0.5])), bank)
    one = everyone(found["signal clock"])
    assert found["signal clock"].coefficient(one)[0, 0] == pytest.approx(0.5, rel=0.03)
    assert found["noise clock"].coefficient(one)[0, 0] == pytest.approx(0.5, rel=0.02)


def test_a_lag_that_differs_from_state_to_state_is_read_as_a_root_mean_square() -> None:
    """Strong class means included: what their lag adds is taken out state by state, not by its mean."""
    field, n = spectral(), 4000
    shift = 6.0 * (field.axes[:, 3] + field.axes[:, 40] + field.axes[:, 90]).numpy()
    noise, data = np.random.default_rng(2).normal(size=(n, 128)), draws(field, n, 3) + shift
    m = 0.8 * (1.0 - 0.5 * np.random.default_rng(4).uniform(size=n))[:, None]
    states = (m * data + (1.0 - m) * noise)[:, None]
    found = clocks_of(batch_of(states, noise, data, np.array([0.8])), bank_of(draws(field, 4000, 1) + shift))
    one = everyone(found["signal clock"])
    assert found["signal clock"].coefficient(one)[0, 0] == pytest.approx(np.sqrt(np.mean(m**2)), rel=0.04)
    assert found["noise clock"].coefficient(one)[0, 0] == pytest.approx(np.sqrt(np.mean((1 - m) ** 2)), rel=0.04)


def test_a_flat_spectrum_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="nearly the same variance along every axis"):
        readout(np.full(64, 0.7), 0.5, 0.5)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_times_of_coefficients_invert_the_path(path: str) -> None:
    t = np.linspace(0.02, 0.98, 25)
    curve = interpolant(path)
    for of in (curve.alpha, curve.sigma):
        back = inverse(of, curve.straight)(of(torch.from_numpy(t)).numpy())
        np.testing.assert_allclose(back, t, rtol=0, atol=2e-4)  # a table of 4,001 times, worst where sigma is flat


# -------------------------------------------------------------------------------------- protocols and starting points

Factory = Callable[..., FlowModel]


def test_late_and_inverted_trajectories_begin_where_they_say(
    tmp_path: object, tiny_model: Factory, images: ImageSet
) -> None:
    probe = Probe(
        samples=40, steps=20, references=("paired-late", "inverted", "level"), nulls=("genuine", "exact"), shard=40
    )
    found = measure(tiny_model(), images, probe, str(tmp_path) + "/run", heldout=0.5)
    late = found.slack("paired-late")
    assert late["model"].t[0] == pytest.approx(0.1)  # the grid's first time after 0.05
    np.testing.assert_allclose(late["genuine"].r, 0.0, atol=1e-9)
    # one step after it started in the pair, a trajectory is still close to it; at the end it has forgotten the image
    assert abs(late["model"].r[:, 0]).mean() < 0.5 * late["model"].r[:, -1].mean()
    inverted = found.slack("inverted")
    assert set(inverted) == {"model", "genuine", "exact"}
    # sampling from the inverted noise comes back to the image: m near 1 at the end, up to the step size
    assert inverted["model"].m[:, -1] == pytest.approx(np.ones(len(inverted["model"].m)), abs=0.15)
    assert isinstance(found, Measurement)


@pytest.mark.parametrize("name", ["own", "paired", "nearest", "paired-late", "inverted"])
def test_a_stochastic_sampler_refuses_references_that_need_the_starting_noise(name: str, tiny_model: Factory) -> None:
    with pytest.raises(InputError, match=f"'{name}' compares a state with the noise it started from"):
        resolved(Probe(sampler="em", references=(name, "level")), tiny_model())


def test_a_stochastic_sampler_is_measured_by_what_needs_no_pair(tiny_model: Factory) -> None:
    assert resolved(Probe(sampler="em"), tiny_model()).names == ("level", "clocks")


def test_guided_sampling_is_measured_beside_unguided(tiny_model: Factory) -> None:
    assert "unguided" in resolved(Probe(guidance=2.0), tiny_model()).nulls
    assert "unguided" not in resolved(Probe(), tiny_model()).nulls


def test_clocks_alone_are_refused_because_they_have_no_band(tiny_model: Factory) -> None:
    with pytest.raises(InputError, match="gives no band"):
        resolved(Probe(references=("clocks",)), tiny_model())
