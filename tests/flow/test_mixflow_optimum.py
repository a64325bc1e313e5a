"""The optimum of MixFlow's loss: against brute force, against the loss it minimises, and at its limits."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from slowflow.errors import InputError
from slowflow.flow.exact import gaussian
from slowflow.flow.mixflow_optimum import MixFlowOptimum, level_scores
from slowflow.flow.spectral import SpectralMixture, draw
from slowflow.remedies.mixflow import MixFlow

DOUBLE = torch.float64


def mixture(d: int, spread: float = 0.3, path: str = "linear", classes: int = 2) -> SpectralMixture:
    draws = np.random.default_rng(d)
    axes = np.linalg.qr(draws.normal(size=(d, d)))[0]
    return SpectralMixture(
        torch.from_numpy(draws.normal(size=(2 * classes, d))),
        torch.arange(2 * classes) % classes,
        torch.from_numpy(axes),
        torch.full((d,), spread**2, dtype=DOUBLE),
        path,
    )


def slowed(field: SpectralMixture, gamma: float, n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """States, labels, targets and conditions of MixFlow's own law."""
    labels = torch.arange(n) % field.classes
    draws = np.random.default_rng(seed)
    data, noise = draw(field, labels, draws), torch.from_numpy(draws.normal(size=(n, *field.shape)))
    pair = MixFlow(gamma, interpolant=field.interpolant).pair(noise, data, torch.Generator().manual_seed(seed))
    return *pair, labels


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_gamma_zero_is_the_exact_field(path: str) -> None:
    field = mixture(5, path=path)
    state, t, _, cond = slowed(field, 0.5, 20)
    assert torch.equal(MixFlowOptimum(field, 0.0).velocity(state, t, cond), field.velocity(state, t, cond))


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_brute_force_in_one_dimension(path: str) -> None:
    """N(1, 0.5^2): integrate v*(x, m) p(x | m) over m, v* and p written out anew."""
    mean, s, gamma, t, x = 1.0, 0.5, 0.7, 0.6, 0.8
    field = SpectralMixture(
        torch.full((1, 1), mean, dtype=DOUBLE), torch.zeros(1, dtype=torch.int64), torch.eye(1, dtype=DOUBLE),
        torch.tensor([s**2], dtype=DOUBLE), path,
    )  # fmt: skip
    exact = gaussian(torch.tensor([mean]), s, path)

    def density(m: float) -> float:
        at = torch.tensor(m, dtype=DOUBLE)
        alpha, sigma = float(exact.interpolant.alpha(at)), float(exact.interpolant.sigma(at))
        v = alpha**2 * s**2 + sigma**2
        return float(np.exp(-0.5 * (x - alpha * mean) ** 2 / v) / np.sqrt(v))

    def moving(m: float) -> float:
        at = torch.tensor([[x]], dtype=DOUBLE), torch.tensor(m, dtype=DOUBLE), torch.zeros(1, dtype=torch.int64)
        return density(m) * float(exact.velocity(*at))

    wanted = quad(moving, (1 - gamma) * t, t)[0] / quad(density, (1 - gamma) * t, t)[0]
    found = MixFlowOptimum(field, gamma, nodes=65).velocity(
        torch.tensor([[x]], dtype=DOUBLE), torch.tensor(t, dtype=DOUBLE), torch.zeros(1, dtype=torch.int64)
    )
    assert float(found) == pytest.approx(wanted, rel=2e-4)  # midpoints: error falls as 1 / nodes^2


@pytest.mark.parametrize("d", [2, 64])
def test_two_passes_agree_with_many_nodes(d: int) -> None:
    field = mixture(d)
    state, t, _, cond = slowed(field, 0.8, 50)
    coarse, fine = (MixFlowOptimum(field, 0.8, nodes=n).velocity(state, t, cond) for n in (33, 501))
    assert float((coarse - fine).square().mean().sqrt()) < 3e-3 * float(fine.square().mean().sqrt())


def test_it_minimises_the_loss_that_is_trained() -> None:
    """What is left of the target is uncorrelated with any function of (state, label): here four of them."""
    field = mixture(4)
    state, t, target, cond = slowed(field, 0.8, 6000)
    optimum = MixFlowOptimum(field, 0.8)
    said = optimum.velocity(state, t, cond)
    left = target - said
    for other in (said, field.velocity(state, t, cond), state, state * t[:, None]):
        product = (left * other).sum(1)
        assert abs(float(product.mean())) < 4 * float(product.std()) / len(product) ** 0.5
    trusting = (target - field.velocity(state, t, cond)).square().sum(1) - left.square().sum(1)
    assert float(trusting.mean()) > 4 * float(trusting.std()) / len(trusting) ** 0.5


def test_in_high_dimension_it_reads_the_level_off_the_state() -> None:
    """The label says 0.9, the state is at 0.5: the posterior closes on 0.5 and the answer is v* there."""
    wide, narrow = mixture(400, 0.2, classes=1), mixture(2, 0.2, classes=1)
    errors = {}
    for field in (wide, narrow):
        cond = torch.zeros(64, dtype=torch.int64)
        draws = np.random.default_rng(3)
        data, noise = draw(field, cond, draws), torch.from_numpy(draws.normal(size=(64, *field.shape)))
        state, t = (data + noise) / 2, torch.full((64,), 0.9, dtype=DOUBLE)
        at, label = (field.velocity(state, torch.tensor(m, dtype=DOUBLE), cond) for m in (0.5, 0.9))
        said = MixFlowOptimum(field, 1.0).velocity(state, t, cond)
        errors[field] = float((said - at).square().mean() / (label - at).square().mean())
    assert errors[wide] < 0.01 < errors[narrow]


def test_scores_are_the_log_density() -> None:
    """Differences over m against the sum over centres written out."""
    field = mixture(3)
    state, _, _, cond = slowed(field, 0.5, 10)
    own = field.centres[None].expand(len(state), -1, -1)
    same = (field.labels[None] == cond[:, None]).double()

    def written(m: float) -> torch.Tensor:
        v = (1 - m) ** 2 + (m * 0.3) ** 2
        near = torch.exp(-0.5 * (state[:, None] - m * own).square().sum(2) / v) * same
        return near.sum(1).log() - 1.5 * np.log(v)

    a, b = (level_scores(field, state, torch.full((len(state),), m), cond) for m in (0.3, 0.6))
    torch.testing.assert_close(a - b, written(0.3) - written(0.6), rtol=1e-6, atol=1e-6)


def test_bad_input_is_refused() -> None:
    field = mixture(2)
    for gamma, nodes, found in ((1.5, 33, "gamma is 1.5"), (0.5, 2, "2 nodes")):
        with pytest.raises(InputError, match=found):
            MixFlowOptimum(field, gamma, nodes)
