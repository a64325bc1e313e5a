"""Every training remedy: the public contract, strength 0, and states, labels and targets by hand."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from byhand import coefficients
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from slowflow.data.images import ImageSet
from slowflow.errors import InputError, NonFiniteError
from slowflow.flow.grids import unwarp, warp
from slowflow.flow.habits import Training
from slowflow.flow.interpolants import interpolant
from slowflow.flow.model import FlowModel
from slowflow.flow.table import Table
from slowflow.remedies import REMEDIES, make
from slowflow.remedies.base import TrainingRemedy
from slowflow.remedies.mixflow import LAWS, ORDERS, MixFlow
from slowflow.remedies.plain import Plain
from slowflow.testing import check_training_remedy
from slowflow.train.loop import TrainConfig, in_parts, train

DOUBLE = torch.float64
PATHS = ("linear", "gvp", "vp")
SHAPE = (1, 4, 4)
N = 6
T = (0.25, 0.5, 1.0)
MEASURED = {
    "empirical": {"t": T, "u": (0.1, 0.9), "m": ((0.1, 0.3, 0.7), (0.25, 0.45, 0.9))},
    "two-clock": {"t": T, "a": ((0.25, 0.5, 1.0), (0.2, 0.4, 0.9)), "b": ((0.75, 0.5, 0.0), (0.8, 0.5, 0.1))},
}
NONE = {
    "empirical": {"strength": 0.0},
    "input-perturbation": {"gamma": 0.0},
    "jitter": {"gamma": 0.0},
    "mixflow": {"gamma": 0.0},
    "noise-blind": {"share": 0.0},
    "plain": {},
    "plain-beta": {},
    "reflexflow": {"share": 0.0},
    "same-marginal": {"gamma": 0.0},
    "self-forcing": {"rollout": 0},
    "soar": {"share": 0.0},
    "two-clock": {"strength": 0.0},
}
"""Strength 0 of every remedy."""
ALSO_NONE = [
    ("jitter", {"gamma": 0.0, "form": "centred"}),
    ("mixflow", {"gamma": 0.0, "m_law": "both"}),
    ("mixflow", {"gamma": 0.0, "target_at": "t", "order": "paper"}),
    ("self-forcing", {"share": 0.0}),
    ("two-clock", {"strength": 0.0, "target": "data"}),
    ("empirical", {"strength": 0.0, "target_at": "t"}),
]
"""The same of variants."""
VARIANTS = [
    ("mixflow", {"m_law": "both"}),
    ("mixflow", {"m_law": "far"}),
    ("jitter", {"form": "centred"}),
    ("self-forcing", {"target": "path", "share": 0.5}),
    ("soar", {"guidance": 2.0}),
    ("reflexflow", {"target": "data", "share": 1.0}),
    ("two-clock", {"target": "data"}),
    *((name, {}) for name in NONE),
]


def remedy(name, **settings):
    return make(name, {**MEASURED.get(name, {}), **settings})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(seed=0, n=N, dtype=DOUBLE):
    draw = seeded(seed)
    return tuple(torch.randn((n, *SHAPE), generator=draw, dtype=DOUBLE).to(dtype) for _ in range(2))


class Net(nn.Module):
    """Answers by state, time and class, with weights, a buffer and dropout-like modes to be left alone."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-0.5, 0.5, 16, dtype=dtype).view(SHAPE))
        self.norm = nn.BatchNorm2d(1, dtype=dtype)
        self.seen = 0

    def forward(self, state, label, cond):
        self.seen += len(state)
        time = label.to(state).view(-1, 1, 1, 1)
        return self.norm(state * self.scale + 0.3 * time + 0.1 * cond.view(-1, 1, 1, 1))


def model(path="linear", prediction="velocity", classes=3, dtype=torch.float32, **more):
    made = FlowModel.from_callable(Net(dtype), shape=SHAPE, interpolant=path, prediction=prediction, classes=classes)
    return replace(made, **more)


def images(n=12):
    labels = torch.arange(n) % 3
    return ImageSet("blobs", torch.randn((n, *SHAPE), generator=seeded(9)), labels, 3)


# --- the public contract


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=lambda value: str(value))
@pytest.mark.parametrize("path", PATHS)
def test_every_remedy_keeps_the_contract(name, settings, path):
    check_training_remedy(remedy(name, **settings), model(path))


@pytest.mark.parametrize("name", NONE)
def test_every_remedy_keeps_the_contract_on_an_unconditional_shifted_model(name):
    shifted = model("linear", classes=0, shift=3.0, training=Training("logit-normal", (0.001, 1.0)))
    check_training_remedy(remedy(name), shifted)


@pytest.mark.parametrize("prediction", ["noise", "data", "v"])
@pytest.mark.parametrize("name", sorted(NONE.keys() - {"reflexflow"}))
def test_every_remedy_keeps_the_contract_on_a_table_of_noise_levels(name, prediction):
    table = Table()
    on_table = model(table, prediction, label=table.label, training=Training(levels=table.levels))
    check_training_remedy(remedy(name), on_table)
    bound = remedy(name).bound(on_table)
    levels = bound.pair(*pair(), seeded(), torch.zeros(N, dtype=torch.int64)).t * table.levels
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", ["noise", "data", "score", "v"])
@pytest.mark.parametrize("name", sorted(NONE.keys() - {"reflexflow"}))
def test_every_remedy_keeps_the_contract_for_every_prediction(name, prediction):
    # off both ends, as SiT trains noise and score networks
    check_training_remedy(remedy(name), model("gvp", prediction, training=Training("uniform", (0.001, 0.999))))


@given(
    gamma=st.floats(0.0, 1.0),
    shift=st.floats(0.2, 20.0),
    low=st.floats(0.0, 0.4),
    seed=st.integers(0, 1000),
    order=st.sampled_from(ORDERS),
)
@limits(max_examples=25, deadline=None, derandomize=True)
def test_times_and_labels_stay_on_the_path(gamma, shift, low, seed, order):
    shared = {"shift": shift, "support": (low, 1.0)}
    width = {"gamma": gamma, "order": order, **shared}
    for made in (
        *(remedy("mixflow", m_law=law, **width) for law in LAWS),
        *(remedy("jitter", form=form, **width) for form in ("mirrored", "centred")),
        remedy("same-marginal", **width),
        remedy("noise-blind", share=gamma, **shared),
        remedy("empirical", strength=gamma, **shared),
    ):
        for part in made.times(50, seeded(seed)):
            assert bool(((part >= 0) & (part <= 1)).all()), made


def test_every_remedy_has_its_place_in_the_docs():
    text = (Path(__file__).resolve().parents[2] / "docs" / "remedies.md").read_text(encoding="utf-8")
    for name in REMEDIES.names():
        assert f"| `{name}`" in text or f", `{name}`" in text, name
        assert f"## {name}\n" in text or f"**{name}**" in text, name
        own = set(REMEDIES.get(name).settings()) - set(Plain.settings())
        unnamed = [setting for setting in own if f"`{setting}`" not in text]
        assert unnamed == [], name


def test_every_registered_remedy_is_checked_here():
    assert sorted(NONE) == REMEDIES.names()


class Careless(TrainingRemedy):
    """Breaks one promise at a time."""

    fault = ""

    def times(self, n, generator):
        t = torch.rand(n, dtype=DOUBLE) if self.fault == "stream" else self.labels(n, generator)
        return (t + 1, t, t) if self.fault == "label" else (t, t, t)

    def pair(self, noise, data, generator=None, cond=None):
        found = super().pair(noise, data, generator)
        if self.fault == "calls":
            self.model.predict(data, found.t, cond)
        if self.fault == "inputs":
            noise.mul_(2)
        if self.fault == "weights":
            next(self.model.net.parameters()).data.add_(1)
        if self.fault == "gradient":
            found = found._replace(target=self.model.raw(data, found.t, cond))
        return found._replace(state=found.state.double()) if self.fault == "dtype" else found


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("stream", "same generator"),
        ("label", r"labels lie in \[0, 1\]"),
        ("calls", r"calls\(8\) says 0 network calls, 8 were made"),
        ("inputs", "noise, data and conditions are not changed"),
        ("weights", "keeps its weights"),
        ("dtype", "the state is torch.float64"),
        ("gradient", "calls"),
    ],
)
def test_the_contract_names_what_is_broken(fault, says, monkeypatch):
    check_training_remedy(Careless(), model())
    monkeypatch.setattr(Careless, "fault", fault)
    with pytest.raises(AssertionError, match=says):
        check_training_remedy(Careless(), model())


# --- strength 0


@pytest.mark.parametrize("path", PATHS)
def test_strength_zero_of_every_remedy_is_plain_training_bit_for_bit(path, tmp_path):
    config = TrainConfig(steps=3, batch_size=8, lr=1e-2, lr_final=1e-2, warmup=0, ema_decay=0.5, valid_every=0)
    ends = {}
    for name, settings in (*NONE.items(), *ALSO_NONE):
        for law in ("uniform", "beta21"):
            trained, file = model(path), tmp_path / f"{name}-{settings}-{law}"
            train(trained, images(), remedy(name, time_law=law, **settings), config, file)
            ends[name, str(settings), law] = file.read_bytes()
    differing = [key for key, end in ends.items() if end != ends["plain", "{}", key[2]]]
    assert differing == []
    assert ends["plain", "{}", "uniform"] != ends["plain", "{}", "beta21"]


@pytest.mark.parametrize("order", ORDERS)
def test_strength_zero_is_plain_under_a_shift_in_either_order(order):
    noise, data = pair(dtype=torch.float32)
    shifted = model("gvp", shift=3.0, training=Training("logit-normal", (0.001, 1.0)))
    cond = torch.zeros(N, dtype=torch.int64)
    plain = Plain(time_law="uniform").bound(shifted).pair(noise, data, seeded(), cond)
    for name, settings in (*NONE.items(), *ALSO_NONE):
        own = {"order": order} if "order" in REMEDIES.get(name).settings() else {}
        bound = remedy(name, **{"time_law": "uniform", **settings, **own}).bound(shifted)
        got = bound.pair(noise, data, seeded(), cond)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, plain, strict=True)), (name, settings)


@pytest.mark.parametrize("name", sorted(NONE.keys() - {"plain", "plain-beta"}))
def test_a_remedy_with_strength_is_not_plain_training(name):
    """The control of the test above: with its default strength every remedy does change the pair."""
    noise, data = pair()
    bound = remedy(name, time_law="uniform").bound(model())
    got = bound.pair(noise, data, seeded(), torch.zeros(N, dtype=torch.int64))
    plain = Plain().pair(noise, data, seeded())
    assert not all(torch.equal(ours, theirs) for ours, theirs in zip(got, plain, strict=True))


# --- laws of the times


def law_of(name, n=20_000, **settings):
    return remedy(name, **settings).times(n, seeded(1))


def test_the_ablation_laws_are_uniform_on_their_intervals():
    for m_law, gamma, low, high in (
        ("slowed", 1.0, lambda t: 0 * t, lambda t: t),
        ("both", 1.0, lambda t: 0 * t, lambda t: 0 * t + 1),
        ("both", 0.4, lambda t: 0.6 * t, lambda t: t + 0.4 * (1 - t)),
        ("far", 0.8, lambda t: 0 * t, lambda t: 0.2 * t),
    ):
        t, m, _ = law_of("mixflow", m_law=m_law, gamma=gamma)
        place = ((m - low(t)) / (high(t) - low(t))).numpy()
        # the seed is fixed; a correct law fails once in a thousand seeds
        assert stats.kstest(place, "uniform").pvalue > 1e-3
        assert abs(stats.spearmanr(place, t.numpy()).statistic) < 0.03  # four standard errors of 20,000 pairs


@pytest.mark.parametrize("gamma", [0.3, 0.8, 1.0])
def test_the_marginal_control_has_the_inputs_of_mixflow_and_their_formula(gamma):
    label, m, at = law_of("same-marginal", gamma=gamma)
    assert torch.equal(label, m)
    assert torch.equal(at, m)
    assert torch.equal(m, MixFlow(gamma).times(20_000, seeded(1))[1])

    def below(x):  # integral of 2 / gamma (min(1, m / (1-gamma)) - m)
        knee = 1.0 - gamma
        first = np.minimum(x, knee) ** 2 * (1 / max(knee, 1e-12) - 1) / 2
        late = np.maximum(x, knee)
        return 2 / gamma * (first + (late - late**2 / 2) - (knee - knee**2 / 2))

    assert stats.kstest(m.numpy(), below).pvalue > 1e-3


def test_mirrored_jitter_keeps_the_gaps_of_mixflow_and_gives_them_either_sign():
    label, m, _ = law_of("jitter", gamma=0.6)
    t, slowed, _ = MixFlow(0.6).times(20_000, seeded(1))
    assert torch.equal((label - m).abs(), t - slowed)
    # five standard errors of a fair coin
    assert float((label > m).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(20_000))
    assert stats.ks_2samp(label.numpy(), m.numpy()).pvalue > 1e-3


def test_centred_jitter_is_symmetric_about_the_label_and_narrows_at_the_end():
    t, m, _ = law_of("jitter", gamma=0.6, form="centred")
    half = torch.minimum(0.3 * t, 1 - t)
    place = ((m - t) / half).numpy()
    assert stats.kstest(place, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert torch.equal(t, MixFlow(0.6).times(20_000, seeded(1))[0])
    paper = law_of("jitter", gamma=0.6, form="centred", order="paper", shift=3.0)
    torch.testing.assert_close(unwarp(paper[1], 3.0), m, rtol=0, atol=1e-12)
    released = law_of("jitter", gamma=0.6, form="centred", shift=3.0)
    assert torch.equal(released[0], paper[0])
    assert not torch.equal(released[1], paper[1])


def test_noise_blind_labels_are_independent_of_plain_inputs():
    label, m, at = law_of("noise-blind")
    assert torch.equal(m, Plain().times(20_000, seeded(1))[0])
    assert torch.equal(at, m)
    counts, _, _ = np.histogram2d(label.numpy(), m.numpy(), bins=8, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    kept, _, _ = law_of("noise-blind", share=0.25)
    # five standard errors of a share of a quarter
    assert float((kept != m).double().mean()) == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / 20_000))


def test_the_empirical_law_contains_mixflow():
    steps = torch.linspace(0.05, 1, 20, dtype=DOUBLE).tolist()
    gamma, u = 0.7, (0.0, 1.0)
    rows = tuple(tuple(t * (1 - gamma * (1 - level)) for t in steps) for level in u)
    ours = make("empirical", {"t": steps, "u": u, "m": rows}).times(500, seeded(2))
    t, m, _ = MixFlow(gamma).times(500, seeded(2))
    draw = (1 - m / t) / gamma
    assert torch.equal(ours[0], t)
    # level u of the quantiles is slack at 1 - u
    torch.testing.assert_close(ours[1], t * (1 - gamma * (1 - draw)), rtol=0, atol=1e-12)


def test_the_empirical_law_has_the_measured_quantiles():
    found = remedy("empirical")
    at_half = replace(found, support=(0.5, 0.5 + 1e-9)).times(40_000, seeded(3))[1].numpy()
    # outer levels 0.1 and 0.9 are held: a tenth of the draws on each; between them m is uniform on [0.3, 0.45]
    assert np.mean(np.isclose(at_half, 0.3, atol=1e-6)) == pytest.approx(0.1, abs=0.01)
    assert np.mean(np.isclose(at_half, 0.45, atol=1e-6)) == pytest.approx(0.1, abs=0.01)
    inner = at_half[(at_half > 0.3001) & (at_half < 0.4499)]
    assert stats.kstest(inner, stats.uniform(0.3, 0.15).cdf).pvalue > 1e-3


def test_the_empirical_law_starts_at_the_noise_and_is_held_after_the_last_time():
    short = make("empirical", {"t": (0.4, 0.8), "u": (0.5,), "m": ((0.2, 0.7),)})
    t = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], dtype=DOUBLE)
    m = t + short.surface.at(t, torch.full_like(t, 0.3))
    torch.testing.assert_close(m, torch.tensor([0.0, 0.1, 0.2, 0.45, 0.7, 0.9], dtype=DOUBLE), rtol=0, atol=1e-12)


def test_half_the_strength_is_half_the_slack():
    t, whole, _ = remedy("empirical").times(100, seeded(4))
    half = remedy("empirical", strength=0.5).times(100, seeded(4))[1]
    torch.testing.assert_close(t - half, (t - whole) / 2, rtol=0, atol=1e-12)


# --- states, labels and targets by hand


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "settings"), [("mixflow", {"gamma": 1.0, "m_law": "both"}), ("jitter", {"gamma": 1.0, "form": "centred"})]
)
def test_no_input_lies_nearer_to_the_data_than_the_training_times(name, settings, order):
    """At the data end of VP a target is ten times what plain training ever shows, so no control may go there."""
    remedy = make(name, {**settings, "order": order, "shift": 3.0, "support": (0.01, 0.9)})
    _, m, _ = remedy.times(4096, torch.Generator().manual_seed(0))
    end = float(warp(torch.tensor(0.9, dtype=torch.float64), 3.0))
    assert float(m.max()) <= end + 1e-12
    assert float(m.max()) > 0.95 * end  # it is reached
    assert float(m.min()) >= 0.0


@pytest.mark.parametrize("path", PATHS)
def test_input_perturbation_by_hand(path):
    noise, data = pair()
    got = remedy("input-perturbation", gamma=0.2, interpolant=path).pair(noise, data, seeded(1))
    draw = seeded(1)
    t = torch.rand(N, dtype=DOUBLE, generator=draw)
    extra = torch.randn((N, *SHAPE), generator=draw).double()
    assert torch.equal(got.t, t)
    for i in range(N):
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, float(t[i]))
        expected = alpha * data[i] + sigma * (noise[i] + 0.2 * extra[i])
        torch.testing.assert_close(got.state[i], expected, rtol=0, atol=1e-12)
        # sigma' of vp reaches ten near the data end
        torch.testing.assert_close(got.target[i], alpha_dot * data[i] + sigma_dot * noise[i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["jitter", "same-marginal", "noise-blind", "empirical"])
def test_point_remedies_by_hand(name, path):
    noise, data = pair()
    made = remedy(name, interpolant=path)
    label, m, at = made.times(N, seeded(2))
    got = made.pair(noise, data, seeded(2))
    assert torch.equal(got.t, label)
    assert torch.equal(at, m)
    for i in range(N):
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, float(m[i]))
        torch.testing.assert_close(got.state[i], alpha * data[i] + sigma * noise[i], rtol=0, atol=1e-12)
        torch.testing.assert_close(got.target[i], alpha_dot * data[i] + sigma_dot * noise[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", ["path", "data"])
def test_two_clock_by_hand(path, target):
    noise, data = pair()
    t0, floor = (0.5, 0.8), 0.05
    nominal = [coefficients(path, t)[:2] for t in t0]
    a = tuple(tuple(alpha - k * lag for (alpha, _), lag in zip(nominal, (0.1, 0.04), strict=True)) for k in (0, 1))
    b = tuple(tuple(sigma + k * 0.02 for _, sigma in nominal) for k in (0, 1))
    made = make("two-clock", {"t": t0, "a": a, "b": b, "interpolant": path, "target": target, "support": (0.5, 0.8)})
    got = made.pair(noise, data, seeded(3))
    draw = seeded(3)
    t = 0.5 + 0.3 * torch.rand(N, dtype=DOUBLE, generator=draw)
    u = torch.rand(N, dtype=DOUBLE, generator=draw)
    for i in range(N):
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, float(t[i]))
        share = (float(t[i]) - 0.5) / 0.3
        signal, noisy = alpha - u[i] * (0.1 * (1 - share) + 0.04 * share), sigma + u[i] * 0.02
        state = signal * data[i] + noisy * noise[i]
        torch.testing.assert_close(got.state[i], state, rtol=0, atol=1e-12)
        left = noise[i] if target == "path" else (state - alpha * data[i]) / max(sigma, floor)
        torch.testing.assert_close(got.target[i], alpha_dot * data[i] + sigma_dot * left, rtol=1e-9, atol=1e-9)


def test_the_target_of_an_off_path_state_leads_to_the_datum_on_the_linear_path():
    noise, data = pair()
    made = remedy("two-clock", target="data", support=(0.0, 0.9))
    state, t, target = made.pair(noise, data, seeded(4))
    rest = (1 - t).view(-1, 1, 1, 1)
    torch.testing.assert_close(state + rest * target, data, rtol=0, atol=1e-12)


def test_mixflow_is_a_line_of_the_two_clock_mixture():
    noise, data = pair()
    gamma, t = 0.8, (0.0, 1.0)
    line = make(
        "two-clock", {"t": t, "a": (t, (0.0, 1 - gamma)), "b": ((1.0, 0.0), (1.0, gamma)), "time_law": "beta21"}
    )
    for ours, theirs in zip(
        line.pair(noise, data, seeded(5)), MixFlow(gamma).pair(noise, data, seeded(5)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_states_of_input_perturbation_are_a_point_of_the_two_clock_mixture():
    n, gamma, t = 100_000, 0.5, 0.3
    noise, data = (torch.randn(n, 1, generator=seeded(k), dtype=DOUBLE) for k in (1, 2))
    at = {"support": (t, t + 1e-12)}
    point = make("two-clock", {"t": (t,), "a": ((t,),), "b": (((1 - t) * math.sqrt(1 + gamma**2),),), **at})
    ours, theirs = (
        point.pair(noise, data, seeded(3)),
        remedy("input-perturbation", gamma=gamma, **at).pair(noise, data, seeded(3)),
    )
    for state in (ours.state, theirs.state):
        rest = state - t * data
        # variance (1-t)^2 (1 + gamma^2) = 0.6125; five standard errors, sqrt(2 / n) each
        assert float(rest.var()) == pytest.approx(0.6125, rel=5 * math.sqrt(2 / n))
        assert abs(float((rest * data).mean())) < 5 * math.sqrt(0.6125 / n)
    # what the law of the states does not say: the noise that is added is not the pair's, so the targets have another mean
    slope = [float(((pair.state - t * data) * noise).mean()) for pair in (ours, theirs)]
    assert slope == pytest.approx([0.7 * math.sqrt(1.25), 0.7], abs=0.02)


# --- rollouts


class Double(nn.Module):
    """A function as a network in float64, so that answers can be compared closely."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, state, t, cond):
        return self.function(state, t, cond)


def linear_field(path):
    """A model whose answers are known: the velocity of data_hat = 0.9 state, noise_hat = state."""

    def net(state, t, cond):
        return interpolant(path).velocity(state, 0.9 * state, t)

    return FlowModel.from_callable(Double(net), shape=SHAPE, interpolant=path)


def known(state, path, t, s):
    """One model step of that field by hand: data and noise from its velocity, then mixed at s."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients(path, t)
    velocity = (alpha_dot * 0.9 + sigma_dot) * state
    wronskian = alpha * sigma_dot - sigma * alpha_dot
    data = (sigma_dot * state - sigma * velocity) / wronskian
    noise = (alpha * velocity - alpha_dot * state) / wronskian
    there = coefficients(path, s)
    return there[0] * data + there[1] * noise


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", ["path", "data"])
def test_self_forcing_by_hand(path, target):
    noise, data = pair()
    made = remedy("self-forcing", rollout=3, steps=10, target=target, support=(0.35, 0.85)).bound(linear_field(path))
    got = made.pair(noise, data, seeded(6))
    t = 0.35 + 0.5 * torch.rand(N, dtype=DOUBLE, generator=seeded(6))
    torch.testing.assert_close(got.t, t, rtol=0, atol=0)
    last = coefficients(path, 0.9)[1]
    for i in range(N):
        end = float(t[i])
        nodes = [max(end - 0.3, 0.35) + k / 3 * (end - max(end - 0.3, 0.35)) for k in range(4)]
        alpha, sigma, *_ = coefficients(path, nodes[0])
        state = alpha * data[i] + sigma * noise[i]
        for a, b in pairwise(nodes):
            state = known(state, path, a, b)
        torch.testing.assert_close(got.state[i], state, rtol=1e-9, atol=1e-9)
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, end)
        left = (
            noise[i] + (state - alpha * data[i] - sigma * noise[i]) / max(sigma, last) if target == "data" else noise[i]
        )
        torch.testing.assert_close(got.target[i], alpha_dot * data[i] + sigma_dot * left, rtol=1e-8, atol=1e-8)


def test_a_model_step_on_the_linear_path_is_one_of_euler():
    noise, data = pair()
    field = linear_field("linear")
    made = remedy("self-forcing", rollout=1, steps=10, support=(0.2, 1.0)).bound(field)
    got = made.pair(noise, data, seeded(7))
    start = (got.t - 0.1).clamp(min=0.2)
    state = interpolant("linear").state(noise, data, start)
    euler = state + (got.t - start).view(-1, 1, 1, 1) * field.velocity(state, start, torch.zeros(N, dtype=torch.int64))
    torch.testing.assert_close(got.state, euler, rtol=0, atol=1e-12)


def test_steps_of_a_rollout_are_equal_before_the_warp():
    shifted = replace(linear_field("linear"), shift=3.0)
    made = remedy("self-forcing", rollout=4, steps=8).bound(shifted)
    t = warp(torch.tensor([0.5, 0.9, 0.2], dtype=DOUBLE), 3.0)
    nodes = made.nodes(made.after(t, -4), t)
    expected = torch.stack(
        [torch.linspace(low, high, 5, dtype=DOUBLE) for low, high in ((0, 0.5), (0.4, 0.9), (0, 0.2))]
    )
    torch.testing.assert_close(nodes.T, warp(expected, 3.0), rtol=0, atol=1e-12)


def test_a_perfect_model_of_one_datum_leaves_the_path_nowhere():
    """Where all data are one point, model steps stay on the path and every target is the plain one."""
    noise, _ = pair()
    data = torch.full_like(noise, 0.7)

    def net(state, t, cond):
        t = t.to(state).view(-1, 1, 1, 1)
        return (0.7 - state) / (1 - t)

    perfect = FlowModel.from_callable(Double(net), shape=SHAPE)
    for name in ("self-forcing", "soar", "reflexflow"):
        state, t, target = remedy(name, share=1.0, support=(0.0, 0.9)).bound(perfect).pair(noise, data, seeded(8))
        genuine = interpolant("linear").state(noise, data, t)
        torch.testing.assert_close(state, genuine, rtol=0, atol=1e-9)
        torch.testing.assert_close(target, data - noise, rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_soar_by_hand(path):
    noise, data = pair()
    made = remedy("soar", share=1.0, steps=10, back=0.5, support=(0.2, 0.8)).bound(linear_field(path))
    got = made.pair(noise, data, seeded(9))
    draw = seeded(9)
    t0 = 0.2 + 0.6 * torch.rand(N, dtype=DOUBLE, generator=draw)
    order = torch.randperm(N, generator=draw)
    u = torch.empty(N, dtype=DOUBLE)
    u[order] = torch.rand(N, dtype=DOUBLE, generator=draw)
    last = coefficients(path, 0.9)[1]
    for i in range(N):
        start = float(t0[i])
        end, low = min(start + 0.1, 0.8), max(start - 0.5 * (1 - start), 0.2)
        label = low + (end - low) * float(u[i])
        assert float(got.t[i]) == pytest.approx(label, abs=1e-12)
        alpha, sigma, *_ = coefficients(path, start)
        reached = known(alpha * data[i] + sigma * noise[i], path, start, end)
        (alpha1, sigma1, *_), (alpha, sigma, alpha_dot, sigma_dot) = coefficients(path, end), coefficients(path, label)
        state = alpha / alpha1 * reached + (sigma - alpha * sigma1 / alpha1) * noise[i]
        torch.testing.assert_close(got.state[i], state, rtol=1e-9, atol=1e-9)
        left = noise[i] + (state - alpha * data[i] - sigma * noise[i]) / max(sigma, last)
        torch.testing.assert_close(got.target[i], alpha_dot * data[i] + sigma_dot * left, rtol=1e-8, atol=1e-8)


def test_soar_on_the_linear_path_has_the_published_noise_levels_and_target():
    noise, data = pair(n=400)
    made = remedy("soar", share=1.0, steps=20).bound(linear_field("linear"))
    got = made.pair(noise, data, seeded(10))
    before = 1 - torch.rand(400, dtype=DOUBLE, generator=seeded(10))
    after = (before - 0.05).clamp(min=0)
    level = 1 - got.t
    assert bool((level >= after - 1e-12).all())
    assert bool((level <= (1.5 * before).clamp(max=1) + 1e-12).all())
    late = level > 0.05  # below it the divisor is held
    towards_noise = (got.state - data) / level.view(-1, 1, 1, 1)
    torch.testing.assert_close(-got.target[late], towards_noise[late], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["self-forcing", "soar", "reflexflow"])
def test_labels_of_rollouts_keep_to_the_times_of_training(name):
    noise, data = pair(n=500)
    trained = replace(linear_field("vp"), training=Training("uniform", (0.1, 0.95)), shift=2.0)
    got = remedy(name, share=1.0).bound(trained).pair(noise, data, seeded())
    low, high = (float(warp(torch.tensor(t, dtype=DOUBLE), 2.0)) for t in (0.1, 0.95))
    assert low <= float(got.t.min()) < float(got.t.max()) <= high


def test_a_guided_step_of_soar_is_guided_and_costs_two_calls():
    noise, data = pair()
    classes = torch.arange(N) % 2

    def net(state, t, cond):
        return torch.where((cond == 2).view(-1, 1, 1, 1), 0.0, 1.0) * torch.ones_like(state)

    made = remedy("soar", share=1.0, guidance=3.0, steps=10, back=0.0, support=(0.2, 0.5)).bound(
        FlowModel.from_callable(Double(net), shape=SHAPE, classes=2)
    )
    got = made.pair(noise, data, seeded(11), classes)
    t0 = 0.2 + 0.3 * torch.rand(N, dtype=DOUBLE, generator=seeded(11))
    end = (t0 + 0.1).clamp(max=0.5)
    step, scale = (end - t0).view(-1, 1, 1, 1), (got.t / end).view(-1, 1, 1, 1)
    reached = interpolant("linear").state(noise, data, t0) + step * 3.0  # guided velocity 0 + 3 (1 - 0)
    rest = (1 - got.t).view(-1, 1, 1, 1) - scale * (1 - end).view(-1, 1, 1, 1)
    torch.testing.assert_close(got.state, scale * reached + rest * noise, rtol=0, atol=1e-9)
    assert made.calls(N) == 2 * N
    with pytest.raises(InputError, match="no null condition"):
        remedy("soar", guidance=2.0).bound(model(classes=0))


@pytest.mark.parametrize("path", PATHS)
def test_reflexflow_by_hand(path):
    noise, data = pair()
    made = remedy("reflexflow", share=1.0, support=(0.2, 0.6)).bound(linear_field(path))
    got = made.pair(noise, data, seeded(12))
    draw = seeded(12)
    t0 = 0.2 + 0.4 * torch.rand(N, dtype=DOUBLE, generator=draw)
    order = torch.randperm(N, generator=draw)
    u = torch.empty(N, dtype=DOUBLE)
    u[order] = torch.rand(N, dtype=DOUBLE, generator=draw)
    for i in range(N):
        start = float(t0[i])
        label = start + (0.6 - start) * float(u[i])
        assert float(got.t[i]) == pytest.approx(label, abs=1e-12)
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, start)
        state = alpha * data[i] + sigma * noise[i]
        state = state + (label - start) * (0.9 * alpha_dot + sigma_dot) * state
        torch.testing.assert_close(got.state[i], state, rtol=1e-9, atol=1e-9)
        alpha, sigma, alpha_dot, sigma_dot = coefficients(path, label)
        wanted = alpha_dot * data[i] + sigma_dot * (state - alpha * data[i]) / sigma
        if path == "linear":
            torch.testing.assert_close(wanted, (data[i] - state) / (1 - label), rtol=1e-9, atol=1e-9)
        speed = (alpha_dot * data[i] + sigma_dot * noise[i]).norm()
        torch.testing.assert_close(got.target[i], wanted / wanted.norm() * speed, rtol=1e-7, atol=1e-7)


def test_only_the_share_is_rolled_out_and_the_rest_is_plain():
    noise, data = pair(n=10)
    made = remedy("self-forcing", share=0.3).bound(linear_field("linear"))
    got, plain = made.pair(noise, data, seeded(13)), Plain().pair(noise, data, seeded(13))
    same = [all(torch.equal(a[i], b[i]) for a, b in zip(got, plain, strict=True)) for i in range(10)]
    assert sum(same) == 7
    assert made.calls(10) == 3 * 2
    others = made.pair(noise, data, seeded(14)), Plain().pair(noise, data, seeded(14))
    again = [torch.equal(others[0].state[i], others[1].state[i]) for i in range(10)]
    assert again != same


def test_rollouts_use_the_class_that_the_step_is_told(tmp_path):
    told = []

    class Listening(Net):
        def forward(self, state, label, cond):
            told.append(cond.clone())
            return super().forward(state, label, cond)

    heard = model().with_net(Listening())
    config = TrainConfig(steps=1, batch_size=8, warmup=0, label_dropout=0.5, valid_every=0)
    train(heard, images(), remedy("self-forcing", rollout=1), config, tmp_path / "state")
    rolled, trained = told
    assert sorted(rolled.tolist()) == sorted(trained.tolist())
    assert 3 in rolled.tolist()


def test_rollouts_respect_the_micro_batch(tmp_path):
    sizes = []

    class Listening(Net):
        def forward(self, state, label, cond):
            sizes.append(len(state))
            return super().forward(state, label, cond)

    heard = model().with_net(Listening())
    config = TrainConfig(steps=1, batch_size=10, warmup=0, micro_batch=4, valid_every=0)
    train(heard, images(), remedy("self-forcing"), config, tmp_path / "state")
    assert max(sizes) == 4
    noise, data = pair(dtype=torch.float32)
    whole = model()
    whole.net.eval()
    pairs = [
        remedy("self-forcing").bound(part).pair(noise, data, seeded(), torch.zeros(N, dtype=torch.int64))
        for part in (whole, in_parts(whole, 4))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


def test_a_diverging_rollout_keeps_the_last_good_state(tmp_path):
    class Growing(Net):
        def forward(self, state, label, cond):
            return super().forward(state, label, cond) * (float("nan") if self.seen > 40 else 1.0)

    config = TrainConfig(steps=9, batch_size=8, warmup=0, save_every=1, valid_every=0)
    with pytest.raises(NonFiniteError, match=r"the loss became nan at step 1; the last good state is kept"):
        train(model().with_net(Growing()), images(), remedy("self-forcing"), config, tmp_path / "state")


# --- mistakes


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        *(
            (name, {"gamma": bad}, f"gamma is {bad}, expected a share")
            for name in ("mixflow", "jitter", "same-marginal", "input-perturbation")
            for bad in (-0.1, 1.5)
        ),
        ("mixflow", {"m_law": "unit"}, "m_law is 'unit', expected one of slowed, both, far"),
        ("jitter", {"form": "x"}, "form is 'x', expected 'mirrored' or 'centred'"),
        ("jitter", {"order": "x"}, "order is 'x'"),
        ("same-marginal", {"order": "x"}, "order is 'x'"),
        ("noise-blind", {"share": 1.2}, "share is 1.2"),
        ("soar", {"share": -1.0}, "share is -1.0"),
        ("soar", {"back": -1.0}, "back is -1.0"),
        ("soar", {"guidance": -1.0}, "guidance is -1.0"),
        ("self-forcing", {"steps": 0}, "steps is 0"),
        ("self-forcing", {"rollout": 21}, "rollout is 21, expected 0 to 20"),
        ("self-forcing", {"target": "x"}, "target is 'x', expected 'data' or 'path'"),
        ("reflexflow", {"target": "path"}, "target is 'path'"),
        ("empirical", {"strength": 2.0}, "strength is 2.0"),
        ("empirical", {"target_at": "x"}, "target_at is 'x'"),
        ("empirical", {"t": (0.5, 0.25, 1.0)}, "t holds 3 values, expected at least one, rising"),
        ("empirical", {"t": (0.5, 0.75, 1.5)}, "t holds 3 values"),
        ("empirical", {"t": (), "u": (), "m": ()}, "t holds 0 values"),
        ("empirical", {"t": (0.0,), "u": (0.5,), "m": ((0.0,),)}, "t holds 0 alone"),
        ("empirical", {"u": (0.5,)}, r"m has 2 rows of \[3\] values, expected 1 rows of 3"),
        ("empirical", {"m": ((0.1, 0.3, 0.7), (0.25, 0.2, 0.9))}, "m falls with the level"),
        ("two-clock", {"a": ((0.2, 0.4),)}, r"a has 1 rows of \[2\] values, expected 1 rows of 3"),
        ("two-clock", {"b": ((0.2, 0.4, 0.1),)}, r"b has 1 rows of \[3\] values, expected 2 rows"),
        ("two-clock", {"floor": 0.0}, "floor is 0.0"),
        ("two-clock", {"target": "x"}, "target is 'x', expected 'path' or 'data'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(name, settings, says):
    with pytest.raises(InputError, match=says):
        remedy(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("mixflow", {"gamma": "x"}, "'gamma' in the remedy 'mixflow' is 'x', expected float"),
        ("self-forcing", {"rollout": 1.5}, "'rollout' in the remedy 'self-forcing' is 1.5, expected int"),
        ("soar", {"shar": 0.5}, "the remedy 'soar' has no setting 'shar'; did you mean 'share'"),
        ("plain", {"model": None}, "the remedy 'plain' has no setting 'model'"),
        ("empirical", {"u": (0.5,)}, "the remedy 'empirical' needs t, m, measured as `law`"),
        ("two-clock", {}, "the remedy 'two-clock' needs t, a, b, measured as `clocks`"),
        ("sore", {}, "did you mean 'soar'"),
    ],
)
def test_what_a_remedy_cannot_be_made_of_is_named(name, settings, says):
    with pytest.raises(InputError, match=says):
        make(name, settings)


def test_arrays_may_come_as_numpy_or_lists():
    as_arrays = {key: np.array(value) for key, value in MEASURED["empirical"].items()}
    as_lists = {key: np.array(value).tolist() for key, value in MEASURED["empirical"].items()}
    assert make("empirical", as_arrays) == make("empirical", as_lists) == remedy("empirical")


def test_values_that_are_not_finite_are_refused():
    values = ((0.1, float("nan"), 0.7),)
    with pytest.raises(InputError, match="finite"):
        type(remedy("two-clock"))(T, values, values)


@pytest.mark.parametrize("prediction", ["noise", "data", "score"])
def test_reflexflow_refuses_a_model_that_predicts_no_velocity(prediction):
    with pytest.raises(InputError, match=f"directions of velocities, and this model predicts {prediction}; soar and"):
        remedy("reflexflow").bound(model("gvp", prediction))


@pytest.mark.parametrize("name", ["self-forcing", "soar", "reflexflow"])
def test_a_rollout_needs_a_model_and_its_conditions(name):
    noise, data = pair()
    with pytest.raises(InputError, match=r"has none; say remedy = remedy\.bound\(model\) first"):
        remedy(name).pair(noise, data, seeded())
    with pytest.raises(InputError, match="the model knows classes: a rollout needs `cond`"):
        remedy(name).bound(model()).pair(noise, data, seeded())


def test_the_network_keeps_the_mode_of_every_part():
    held = model()
    held.net.train()
    held.net.norm.eval()
    remedy("self-forcing").bound(held).pair(*pair(), seeded(), torch.zeros(N, dtype=torch.int64))
    assert held.net.training
    assert not held.net.norm.training
