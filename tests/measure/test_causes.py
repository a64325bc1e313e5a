"""Causes of a lag: readings of band energies, extrapolation, shares on fields whose causes are known, and the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowflow.data.bank import Bank
from slowflow.data.fields import synthetic
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.flow.grids import uniform_grid
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel, Predictor
from slowflow.flow.planted import Scaled, Smoothed
from slowflow.flow.spectral import SpectralMixture, solve_gaussian
from slowflow.measuring.causes.bands import Bands
from slowflow.measuring.causes.diagnosing import diagnose
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.causes.nodes import nodes_of
from slowflow.measuring.causes.probing import Causes, node_times, step_counts
from slowflow.measuring.causes.shares import PARTS, Division, Energies, divided, off_path, richardson
from slowflow.measuring.engine import measure
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

Factory = Callable[..., FlowModel]
D = 96


def field_of(components: int = 1) -> SpectralMixture:
    """1/k spectrum; several lumps carry half of the variance."""
    draw = np.random.default_rng(0)
    axes = np.linalg.qr(draw.normal(size=(D, D)))[0]
    variances = D / np.arange(1, D + 1) / np.log(D)
    lumps = draw.normal(size=(components, D)) * np.sqrt(variances / 2) if components > 1 else np.zeros((1, D))
    return SpectralMixture(
        torch.from_numpy(lumps @ axes.T).reshape(-1, 1, 8, 12),
        torch.zeros(components, dtype=torch.int64),
        torch.from_numpy(axes),
        torch.from_numpy(variances / 2 if components > 1 else variances),
    )


def bands_of(field: SpectralMixture, n: int = 2000) -> Bands:
    return Bands.of(Bank.of(synthetic(field, n, 5, "bank"), conditional=False))


def probed(
    field: SpectralMixture, faulty: Predictor, method: str, counts: tuple[int, ...], n: int = 600
) -> tuple[dict[str, Division], dict[str, np.ndarray]]:
    seen, held = synthetic(field, 3 * n, 1, "simulated").split(1 / 3)
    model = FlowModel.from_callable(lambda state, t, cond: state, shape=field.shape)
    source = Source(model, held, seen, Probe(samples=n, steps=counts[:1], sampler=method))
    bands = Bands.of(Bank.of(seen, conditional=False))
    task = Causes(source, faulty, bands, counts)
    found = task.probe(source.ids("genuine"))
    nodes = nodes_of(bands, field.interpolant, task.nodes[1:])
    shared = (found["genuine"], bands.mean_energy, found["noise"])
    runs = [Energies(c, found[f"own-{c}"], found[f"forced-{c}"], *shared) for c in counts]
    found["off path"] = np.array([e.value for e in off_path(runs[0], nodes, 0)])
    return divided(runs, nodes, 2 if method == "heun" else 1, 0), found


# ---------------------------------------------------------------------------------------------------------- readings


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_energies_of_an_earlier_time_read_as_that_time(path: str) -> None:
    bands, curve = bands_of(field_of()), interpolant(path)
    t, m = 0.6, np.array([0.45, 0.6, 0.7])
    node = nodes_of(bands, curve, [t])[0]
    alpha, sigma = (f(torch.from_numpy(m)).numpy() for f in (curve.alpha, curve.sigma))
    lags = node.lags(bands.expected(alpha, sigma) / node.own)
    np.testing.assert_allclose(
        t * (1 - lags), np.repeat(m[:, None], 3, axis=1), rtol=0, atol=2e-3
    )  # a grid of 801 levels
    misfit = node.misfit(bands.expected(alpha, sigma) / node.own)
    assert (misfit[:, 1] < 1e-3 * np.maximum(misfit[:, 0], 1)).all()  # on the path nothing is left at the best m


def test_signal_and_noise_clock_are_read_apart() -> None:
    bands, node = bands_of(field_of()), nodes_of(bands_of(field_of()), interpolant("linear"), [0.5])[0]
    lags = node.lags(bands.expected(np.array(0.4), np.array(0.5)) / node.own)
    assert lags[0] == pytest.approx(0.2, abs=0.01)  # a = 0.4 at t = 0.5
    assert lags[1] == pytest.approx(0.0, abs=0.01)
    at_t, at_best = node.misfit(bands.expected(np.array(0.4), np.array(0.5)) / node.own)
    assert at_best > 0.1 * at_t  # no m explains a lag of the signal alone


def test_a_mean_that_lags_leaves_the_energies_alone() -> None:
    rows = np.random.default_rng(2).normal(size=(4000, D)) * np.linspace(0.3, 1.5, D)
    shift = 5.0 * np.random.default_rng(3).normal(size=D)
    bands = Bands.of(Bank({0: rows + shift}, "shifted", "0"))
    states = 0.5 * rows[:2000] + 0.4 * shift
    energy = bands.energies(states, np.zeros(2000, dtype=np.int64), 0.5)
    mean = energy.mean(axis=0)
    np.testing.assert_allclose(mean[1], -0.1, atol=0.02)  # c - alpha, in every group
    variance = mean[0] - mean[1] ** 2 * bands.mean_energy
    np.testing.assert_allclose(variance, 0.25 * bands.variance, rtol=0.1)


# ------------------------------------------------------------------------------------------------------ extrapolation


@pytest.mark.parametrize(("order", "powers"), [(1, (1, 2)), (2, (2, 3))])
def test_three_step_counts_remove_two_orders_exactly(order: int, powers: tuple[int, int]) -> None:
    steps = (20, 10, 40)
    h = np.array([1 / n for n in steps])
    values = 0.7 + 3.0 * h ** powers[0] - 5.0 * h ** powers[1]
    weights = richardson(steps, order)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ values == pytest.approx(0.7, abs=1e-10)


def test_one_step_count_cannot_be_extrapolated() -> None:
    with pytest.raises(ValueError, match="cannot be extrapolated"):
        richardson((20,), 1)


@pytest.mark.parametrize(
    ("steps", "counts"), [(10, (10, 20, 40)), (50, (50, 20, 10)), (30, (30, 60, 120)), (100, (100, 50, 25))]
)
def test_other_step_counts_are_coarser_where_that_is_fine_enough(steps: int, counts: tuple[int, ...]) -> None:
    assert step_counts(steps) == counts


@pytest.mark.parametrize("counts", [(10, 20, 40), (100, 50, 25), (7, 14, 28), (2, 4, 8), (3, 6, 9)])
def test_nodes_lie_on_every_grid_and_leave_out_the_end(counts: tuple[int, ...]) -> None:
    nodes = node_times(uniform_grid(min(counts)).numpy())
    assert nodes[0] == 0.0
    assert nodes[-1] < 1.0
    for count in counts:
        np.testing.assert_allclose(nodes * count, np.round(nodes * count), atol=1e-9)


# ------------------------------------------------------------------------------------------------------------- shares


def test_an_exact_field_under_few_steps_lags_by_its_steps() -> None:
    said, found = probed(field_of(6), field_of(6), "euler", (10, 20, 40))
    signal = said["signal clock"]
    assert signal.clear
    assert signal.lag.value > 0.1
    assert signal.shares["steps"].value == pytest.approx(1.0, abs=0.15)
    assert sum(signal.parts[p].value for p in PARTS) == pytest.approx(signal.lag.value, abs=1e-9)
    assert found["off path"][0] > 0.5  # the noise is on schedule, so no single m fits


@pytest.mark.parametrize("components", [1, 6])
def test_an_over_smoothed_denoiser_is_local_error_however_far_it_has_come(components: int) -> None:
    field = field_of(components)
    said, _ = probed(field, Smoothed(field, 0.05), "heun", (25, 50, 100))
    signal = said["signal clock"]
    assert signal.clear
    assert signal.shares["local"].value == pytest.approx(1.0, abs=0.15)
    assert abs(signal.shares["accumulation"].value) < 0.15


@pytest.mark.parametrize(("factor", "sign"), [(0.95, 1), (1.05, -1)])
def test_a_wrong_scale_of_the_velocity_is_local_and_has_its_sign(factor: float, sign: int) -> None:
    field = field_of()
    said, _ = probed(field, Scaled(field, factor), "heun", (16, 32, 64))
    noise = said["noise clock"]
    assert np.sign(noise.lag.value) == sign
    assert noise.clear
    assert noise.shares["local"].value == pytest.approx(1.0, abs=0.15)


class _Echo:
    """An exact field that, from t = 0.3 on, adds back a share of how far the energy of its own states is off.

    On real states, whose energy is right up to sampling error, it is the exact field; what it adds is its own doing.
    """

    def __init__(self, field: SpectralMixture, gain: float, planted: float) -> None:
        self.field, self.gain, self.planted = field, gain, planted
        self.interpolant, self.shape, self.classes = field.interpolant, field.shape, field.classes
        self.calls, self.t_max = 1, 1.0

    def velocity(self, state: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        velocity = self.field.velocity(state, t, cond)
        alpha, sigma = float(self.interpolant.alpha(t)), float(self.interpolant.sigma(t))
        expected = alpha**2 * self.field.variances.mean() + sigma**2
        off = 1.0 - state.flatten(1).square().mean() / expected
        return velocity - (self.gain * off + (self.planted if float(t) < 0.1 else 0.0)) * state

    def predict(self, state: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def test_a_fault_that_feeds_on_its_own_output_is_accumulation() -> None:
    """A small planted kick before t = 0.1 is local; what a feedback makes of it later is accumulation."""
    field = field_of()
    said, _ = probed(field, _Echo(field, 1.0, 0.4), "heun", (40, 80, 160), n=400)
    without, _ = probed(field, _Echo(field, 0.0, 0.4), "heun", (40, 80, 160), n=400)
    signal, kick = said["signal clock"], without["signal clock"]
    assert abs(kick.parts["accumulation"].value) < 0.02
    assert signal.parts["local"].value == pytest.approx(kick.parts["local"].value, abs=0.02)  # the same kick
    true = 1.0 - kick.lag.value / signal.lag.value
    assert true > 0.5
    assert signal.shares["accumulation"].value == pytest.approx(true, abs=0.15)


def test_round_trips_measure_steps_alone_and_inverted_noise_the_model_alone() -> None:
    field = field_of()
    _, exact = probed(field, field, "euler", (10, 20, 40), n=200)
    trips = [exact[f"roundtrip-{n}"].mean() for n in (10, 20, 40)]
    assert trips[0] > trips[1] > trips[2]
    assert trips[0] / trips[1] == pytest.approx(2.0, rel=0.2)  # Euler is of order 1
    assert exact["inverted"].mean(axis=0).mean() == pytest.approx(1.0, abs=0.05)
    assert exact["inverted-fourth"].mean() == pytest.approx(3.0, abs=0.15)
    _, smooth = probed(field, Smoothed(field, 0.05), "euler", (10, 20, 40), n=200)
    assert smooth["inverted"].mean(axis=0).mean() > 1.2  # too much noise is found behind real images


def test_growth_of_a_small_push_is_that_of_the_exact_flow() -> None:
    field = field_of()
    _, found = probed(field, field, "heun", (20, 40, 80), n=100)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(100, 1, 8, 12)))
    zeros = torch.zeros(100, dtype=torch.int64)
    v = lambda t: t**2 * field.variances + (1 - t) ** 2  # noqa: E731
    start, end = 0.0, 0.1
    ratio = float((v(end) / v(start)).mean().sqrt())
    assert found["growth-random"][:, 0].mean() == pytest.approx(ratio, rel=0.02)
    moved = solve_gaussian(field, noise, torch.tensor(0.1, dtype=torch.float64), zeros)
    assert moved.shape == noise.shape


def test_a_path_of_one_point_is_straight() -> None:
    rows = torch.zeros(1, 1, 8, 12, dtype=torch.float64)
    field = SpectralMixture(
        rows + 0.5,
        torch.zeros(1, dtype=torch.int64),
        torch.eye(D, dtype=torch.float64),
        torch.full((D,), 1e-6, dtype=torch.float64),
    )
    model = FlowModel.from_callable(lambda state, t, cond: state, shape=field.shape)
    data = synthetic(field_of(), 80, 1, "simulated")
    seen, held = data.split(0.5)
    task = Causes(
        Source(model, held, seen, Probe(samples=20, steps=8)), field, Bands.of(Bank.of(seen, False)), (8, 16, 32)
    )
    bend = task._bend(torch.from_numpy(np.random.default_rng(0).normal(size=(20, 1, 8, 12))), np.arange(20), 16)
    assert abs(bend).max() < 0.05  # the last Euler step towards a point of width 0.001


# ---------------------------------------------------------------------------------------------------------- run folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Factory, images: ImageSet) -> Measurement:
    probe = Probe(samples=80, steps=10, references=("level", "clocks"), nulls=("genuine", "exact"), shard=40)
    return measure(tiny_model(0.9), images, probe, tmp_path_factory.mktemp("causes") / "run", heldout=0.5)


def test_a_diagnosis_is_a_run_folder(measured: Measurement, tiny_model: Factory, images: ImageSet) -> None:
    found = measured.diagnose(tiny_model(0.9), images)
    assert found.path == measured.path / "diagnosis"
    answer = found.result()
    assert set(answer["shares"]) == {*PARTS, "off_path"}
    assert answer["verdict"] in ("none detectable", "detected", "steps dominate", "off path", "fast")
    assert answer["advice"]
    assert set(answer["readings"]) == {"signal clock", "noise clock", "level"}
    again = Diagnosis.load(found.path)
    assert again.result() == answer
    assert len(again.growth()) == len(again.facts["nodes"]) - 1
    before = {p: p.read_bytes() for p in found.path.rglob("*") if p.is_file()}
    assert diagnose(measured, tiny_model(0.9), images).path == found.path
    assert {p: p.read_bytes() for p in found.path.rglob("*") if p.is_file()} == before


def test_shards_change_no_number(measured: Measurement, tiny_model: Factory, images: ImageSet, tmp_path: Path) -> None:
    small = diagnose(measured, tiny_model(0.9), images, tmp_path / "a", samples=40)
    assert small.facts["samples"] == 40
    large = diagnose(measured, tiny_model(0.9), images, tmp_path / "b", samples=80)
    np.testing.assert_allclose(small.arrays["own-10"], large.arrays["own-10"][:40], rtol=0, atol=1e-9)


def test_another_model_other_data_and_guidance_are_refused(
    measured: Measurement, tiny_model: Factory, images: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is not the data"):
        diagnose(measured, tiny_model(0.9), images.take(np.arange(200), "part"), tmp_path / "a")
    with pytest.raises(InputError, match="cannot be extrapolated"):
        diagnose(measured, tiny_model(0.9), images, tmp_path / "b", steps=(10, 20))
    with pytest.raises(InputError, match="cannot be extrapolated"):
        diagnose(measured, tiny_model(0.9), images, tmp_path / "c", steps=(10, 20, 30, 15))
    with pytest.raises(InputError, match="does not know where its model is"):
        measured.diagnose()


def test_a_perfect_model_has_no_parts_but_its_steps(
    measured: Measurement, images: ImageSet, tiny_model: Factory, tmp_path: Path
) -> None:
    """Probed in the model's place, the null is taken off itself: local and accumulation are zero to rounding."""
    held = images.split(0.5)[1]
    perfect = Source(tiny_model(0.9), held, held, Probe(samples=2)).perfect()
    found = diagnose(measured, tiny_model(0.9), images, tmp_path / "null", samples=40, field=perfect)
    for division in found.divisions.values():
        assert division.parts["local"].value == pytest.approx(0.0, abs=1e-9)
        assert division.parts["accumulation"].value == pytest.approx(0.0, abs=1e-9)
        assert division.parts["steps"].value == pytest.approx(division.lag.value, abs=1e-9)
