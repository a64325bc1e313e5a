"""Worlds, exact fields, metrics and solvers of the known-truth study against closed forms and the library's own fields."""

import math

import numpy as np
import pytest
import torch
from knowntruth import measurement, metrics, solve, tool
from knowntruth.truth import Optimum
from knowntruth.worlds import WEIGHTS, World, idle_variance, information, log_density, world

from slowflow.data.bank import Bank
from slowflow.flow.mixflow_optimum import MixFlowOptimum
from slowflow.flow.spectral import SpectralMixture


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_in_the_library(one: World) -> SpectralMixture:
    """Unequal weights as repeated centres, axes completed to a basis of the space."""
    repeated = one.centres.repeat_interleave(torch.tensor(WEIGHTS), dim=0) @ one.basis.T
    full = torch.linalg.qr(torch.cat([one.basis, torch.eye(one.d)], dim=1).double())[0]
    full[:, : one.basis.shape[1]] = (
        torch.linalg.qr(one.basis.double())[0] * torch.linalg.qr(one.basis.double())[1].diagonal().sign()
    )
    variances = torch.cat([one.spreads.square(), torch.full((one.rest,), one.idle**2)])
    return SpectralMixture(repeated.double(), torch.zeros(len(repeated), dtype=torch.int64), full, variances.double())


@pytest.mark.parametrize("idle", [0.2, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_reduced_field_is_the_library_field(idle: float, gamma: float) -> None:
    one = world(24, idle, 3)
    data, noise, t = one.draw(40, generator())[0], torch.randn(40, 24, generator=generator(1)), torch.rand(40) * 0.98
    state = noise + 0.8 * t[:, None] * (data - noise)
    exact = MixFlowOptimum(same_in_the_library(one), gamma).velocity(
        state.double(), t.double(), torch.zeros(40, dtype=torch.int64)
    )
    gap = (Optimum(one, gamma)(state, t) - exact).square().mean().sqrt()
    assert float(gap) < 1e-3 * float(exact.square().mean().sqrt())  # single precision, and float32 axes


def test_the_signal_is_the_same_at_every_dimension() -> None:
    small, large = world(16, 0.2, 7), world(256, 1.0, 7)
    assert torch.equal(small.centres, large.centres)
    inside = large.split(large.draw(20_000, generator())[0])[0]
    mean, covariance = large.moments()
    torch.testing.assert_close(inside.mean(0), mean, atol=0.08, rtol=0)  # 4 sd of a mean of 20,000
    torch.testing.assert_close(torch.cov(inside.T), covariance, atol=0.25, rtol=0)


def test_level_information_is_that_of_the_gaussian_and_grows_with_dimension() -> None:
    one = world(64, 0.2, 0)
    m = torch.tensor(0.6)
    total = torch.cat([one.moments()[1].diagonal(), torch.full((one.rest,), one.idle**2)])
    slope = torch.autograd.functional.jacobian(lambda x: ((1 - x) ** 2 + x**2 * total).log(), m)
    assert float(information(one, m)) == pytest.approx(0.5 * float(slope.square().sum()), rel=1e-5)  # type: ignore[union-attr]
    assert information(world(1024, 0.2, 0), m) > 10 * information(one, m)
    white = [float(information(world(d, 1.0, 0), torch.tensor(0.5))) for d in (16, 1024)]
    assert white[0] == pytest.approx(white[1])  # idle axes of unit spread say nothing at m = 1/2


def test_level_meets_the_bound_its_information_sets() -> None:
    one = world(256, 0.2, 1)
    data, noise = one.draw(800, generator())[0], torch.randn(800, 256, generator=generator(1))
    found = measurement.level(one, noise + 0.6 * (data - noise))
    bound = float(information(one, torch.tensor(0.6)).rsqrt())
    assert float(found.mean()) == pytest.approx(0.6, abs=4 * bound / 800**0.5 + 0.002)
    assert 0.8 * bound < float(found.std()) < 1.15 * bound


def test_log_density_integrates_to_one() -> None:
    """Over the energy of the rest, whose law at given m is chi-square: E[p/q] under a wider q."""
    one = world(10, 0.5, 2)
    m, n = torch.tensor(0.4), 200_000
    wide = 1.3 * torch.cat([(1 - m) ** 2 + m**2 * one.moments()[1].diagonal(), idle_variance(one, m).expand(2)]).sqrt()
    draws = torch.randn(n, 10, generator=generator()) * wide
    draws[:, :8] += m * one.moments()[0]
    proposal = torch.distributions.Normal(torch.cat([m * one.moments()[0], torch.zeros(2)]), wide)
    weight = log_density(one, draws[:, :8], draws[:, 8:].square().sum(1), m.expand(n)) - proposal.log_prob(draws).sum(1)
    assert float(weight.exp().mean()) == pytest.approx(1.0, abs=4 * float(weight.exp().std()) / n**0.5)


def test_metrics_of_genuine_samples_are_at_their_zeros() -> None:
    one = world(64, 0.2, 4)
    found = metrics.measured(one, one.draw(4000, generator())[0], metrics.entropy(one, generator(1)))
    assert found["astray"] == pytest.approx(0.01, abs=0.007)
    assert found["idle"] == pytest.approx(1.0, abs=0.01)
    assert found["within"] == pytest.approx(1.0, abs=0.05)
    assert found["frequency"] < 0.03
    assert abs(found["surprise"]) < 0.01
    assert found["fd"] < 0.1


def test_metrics_see_planted_faults() -> None:
    one = world(64, 0.2, 4)
    data, which = one.draw(4000, generator())
    zero = metrics.entropy(one, generator(1))
    good = metrics.measured(one, data, zero)
    dropped = metrics.measured(one, data[which != 0], zero)
    assert dropped["frequency"] == pytest.approx(float(one.weights[0]), abs=0.03)
    centre = one.centres[which] @ one.basis.T
    sharp = metrics.measured(one, centre + 0.5 * (data - centre), zero)
    assert sharp["within"] == pytest.approx(0.25, abs=0.03)
    assert sharp["surprise"] < -0.2 < 0.0 <= good["astray"] - sharp["astray"]
    noisy = metrics.measured(one, data + 0.2 * torch.randn(4000, 64, generator=generator(2)), zero)
    assert noisy["idle"] == pytest.approx(2**0.5, abs=0.02)
    assert noisy["fd"] > good["fd"] + 0.2
    assert noisy["astray"] > 0.05


def test_bures_of_diagonal_covariances() -> None:
    a, b = np.array([1.0, 4.0, 0.25]), np.array([2.25, 1.0, 0.0])
    assert metrics.bures(np.diag(a), np.diag(b)) == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum())


@pytest.mark.parametrize(("solver", "growth"), [("euler10", 1.1**10), ("heun20", (1 + 1 / 20 + 1 / 800) ** 20)])
def test_solvers_on_exponential_growth(solver: str, growth: float) -> None:
    start = torch.ones(3, 2)
    end, kept = solve.solve(lambda x, _: x, start, solver)
    assert float(end[0, 0]) == pytest.approx(growth, rel=1e-5)
    assert list(kept) == list(solve.KEPT)
    assert float(kept[0.4][0, 0]) == pytest.approx(growth**0.4, rel=1e-5)


def test_a_late_start_ends_where_it_is_told() -> None:
    end, _ = solve.solve(lambda x, _: torch.ones_like(x), torch.zeros(1, 1), "heun20", (), 0.4, 0.8)
    assert float(end) == pytest.approx(0.4)


def test_clocks_of_states_with_a_known_lag() -> None:
    one = world(64, 0.2, 5)
    data, noise = one.draw(4000, generator())[0], torch.randn(4000, 64, generator=generator(1))
    zero = {t: measurement.readings(one, x) for t, x in measurement.genuine_states(data, noise).items()}
    slow = {t: noise * (1 - t) * 1.05 + 0.9 * t * data for t in solve.KEPT}
    found = measurement.lags(one, slow, zero)
    assert found["signal"] == pytest.approx(0.1, abs=0.005)
    assert found["noise"] == pytest.approx(0.05, abs=0.005)
    assert found["level"] > 0.02


def test_leaning_of_a_network_that_ignores_its_label_is_zero() -> None:
    data, noise = torch.randn(2, 100, 5, generator=generator())
    u, w = torch.rand(2, 100, generator=generator(1))
    blind = measurement.leaning(lambda x, _: -x, data, noise, u, w, (0.0, 0.4))
    assert blind["mismatch 0.4"] == blind["disagreement 0.4"] == 0.0
    leaning = measurement.leaning(lambda x, t: t[:, None].expand_as(x), data, noise, u, w, (0.4,))
    t = u.sqrt()
    assert leaning["disagreement 0.4"] == pytest.approx(5 * float((0.4 * w * t).square().mean()), rel=1e-4)
    assert math.isfinite(leaning["loss"])


def test_the_library_reads_a_planted_lag_in_these_worlds() -> None:
    """States at 0.8 t under the label t: slack 0.2 over genuine states, scatter near the bound of the information."""
    one = world(64, 0.2, 6)
    bank = Bank({0: one.draw(1000, generator(3))[0].double().numpy()}, "test", "0")
    data, noise = one.draw(400, generator())[0], torch.randn(400, 64, generator=generator(1))
    zero = tool.slack(measurement.genuine_states(data, noise), bank)
    slow = tool.slack({t: noise + 0.8 * t * (data - noise) for t in solve.KEPT}, bank)
    assert slow.mean() - zero.mean() == pytest.approx(0.2, abs=0.02)
    bound = float(information(one, torch.tensor(0.6)).rsqrt() / 0.6)
    assert 0.8 * bound < zero.std(axis=0)[2] < 2.0 * bound
