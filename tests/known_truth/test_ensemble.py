"""Networks trained together are the networks trained alone, on the library's own training pairs; runs resume."""

import sys
from pathlib import Path

import pytest
import torch
from knowntruth import arms, ensemble, study
from torch import nn

from slowflow.remedies.mixflow import MixFlow
from slowflow.remedies.plain import Plain

SHAPE = ensemble.Shape(d=5, width=7)
PLAN = study.Plan((0.0, 0.5), (0, 1), 8, {"base": 4}, (2, 3), 1e-3, 1e-3, 0.9, 64, 64, (0.0,))
SETTING = study.Setting(9, "mid", 0.5, 6)


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(n)]


def batches(n: int, steps: int = 4) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(9)
    return [tuple(torch.randn(n, 6, *s, generator=g) for s in ((5,), (), (5,))) for _ in range(steps)]  # type: ignore[misc]


class Alone(nn.Module):
    """The same network in plain torch."""

    def __init__(self, shape: ensemble.Shape, weights: ensemble.Weights) -> None:
        super().__init__()
        self.shape = shape
        self.own = nn.ParameterDict({k: nn.Parameter(v[0].clone()) for k, v in weights.items()})

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        w, own = self.shape.width, self.own
        shift = ensemble.time_features(t) @ own["time"]
        h = nn.functional.silu(x @ own["enter"] + shift[:, :w])
        for k in range(self.shape.layers):
            h = h + nn.functional.silu(h @ own[f"hidden{k}"] + shift[:, (k + 1) * w : (k + 2) * w])
        return h @ own["leave"] + (h @ own["gate"] + shift[:, -1:]) * x


def test_an_ensemble_of_one_is_a_plain_network_trained_by_adam() -> None:
    weights = ensemble.start(SHAPE, generators(1))
    together, alone = ensemble.Trainer(SHAPE, weights, 1e-2, 0.9), Alone(SHAPE, weights)
    adam = torch.optim.Adam(alone.parameters(), lr=1e-2)
    for x, t, target in batches(1):
        loss = together.step(x, t, target)
        own = (alone(x[0], t[0]) - target[0]).square().mean()
        adam.zero_grad()
        own.backward()
        adam.step()
        assert float(loss) == pytest.approx(own.item(), rel=1e-5)
    for name, value in alone.own.items():
        torch.testing.assert_close(together.weights[name][0], value, rtol=1e-4, atol=1e-6)


def test_networks_of_an_ensemble_do_not_see_each_other() -> None:
    weights = ensemble.start(SHAPE, generators(3))
    together = ensemble.Trainer(SHAPE, weights, 1e-2, 0.9)
    alone = ensemble.Trainer(SHAPE, {k: v[1:2] for k, v in weights.items()}, 1e-2, 0.9)
    for x, t, target in batches(3):
        together.step(x, t, target)
        alone.step(x[1:2], t[1:2], target[1:2])
    for name in weights:
        torch.testing.assert_close(together.average[name][1:2], alone.average[name], rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_weights() -> None:
    trainer = ensemble.Trainer(SHAPE, ensemble.start(SHAPE, generators(1)), 1e-2, 0.75)
    before = trainer.average["enter"].clone()
    trainer.step(*batches(1)[0])
    torch.testing.assert_close(trainer.average["enter"], 0.75 * before + 0.25 * trainer.weights["enter"].detach())


def test_a_reader_is_told_the_norm_and_an_ordinary_network_is_not() -> None:
    x, t = torch.randn(1, 4, 5), torch.rand(1, 4)
    for reader in (False, True):
        shape = ensemble.Shape(5, 7, reader=reader)
        weights = ensemble.start(shape, generators(1))
        weights["enter"].zero_()  # what is left of x is its norm, for a network that is told
        weights["time"][..., -1] = 0.0
        weights["leave"].normal_(generator=generators(1)[0])
        said = [ensemble.forward(shape, weights, k * x, t) for k in (1.0, 2.0)]
        assert torch.equal(*said) is not reader


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_arms_are_the_library_remedies(gamma: float) -> None:
    noise, data = torch.randn(2, 1, 50, 3, dtype=torch.float64)
    u, w = (torch.rand(50, dtype=torch.float64, generator=g)[None] for g in [generators(1)[0]] * 2)
    state, label, target = arms.batch([gamma], noise, data, u, w)
    plain, slowed = (r.pair(noise[0], data[0], generators(1)[0]) for r in (Plain(), MixFlow(gamma)))
    for k, pair in enumerate((plain, slowed)):
        torch.testing.assert_close(state[k], pair.state)
        torch.testing.assert_close(label[k], pair.t)
        torch.testing.assert_close(target[k], pair.target)


def test_gamma_zero_is_plain_training_under_the_beta_law() -> None:
    u, w = torch.rand(2, 1, 1000)
    label, m = arms.times([0.0, 0.7], u, w)
    assert torch.equal(label[1], u.sqrt())
    assert torch.equal(m[1], label[1])
    assert torch.equal(label[0], m[0])
    assert bool((m[2] <= label[2]).all())
    assert bool((m[2] >= 0.3 * label[2] - 1e-6).all())


def test_a_run_resumes_and_repeats_itself(tmp_path: Path) -> None:
    study.run(SETTING, PLAN, tmp_path)
    folder = tmp_path / SETTING.name
    first = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    assert set(first) == {
        "setting.json",
        "base.safetensors",
        "measured-base.json",
        "base-base.json",
        "post-base.json",
    }
    (folder / "post-base.json").unlink()
    study.run(SETTING, PLAN, tmp_path)
    for path in folder.iterdir():
        content, written = first[path.name]
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == written) is (path.name != "post-base.json")


def test_the_oracle_is_written_once_a_world(tmp_path: Path) -> None:
    study.oracle(SETTING, PLAN, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["oracle-d9-mid.json"]


def test_the_config_is_read_and_declares_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).resolve().parents[2] / "reports" / "known-truth"
    monkeypatch.delitem(sys.modules, "run", raising=False)
    from run import read  # type: ignore[import-not-found]

    plan, settings = read(here / "config.toml")
    assert 0.0 in plan.gammas
    assert len(plan.seeds) >= 3
    assert plan.lengths[-1] >= max(plan.pretrain.values())
    assert plan.lengths[-1] >= 30 * plan.lengths[0]
    assert {s.d for s in settings} == {16, 64, 256, 1024}
    assert len({s.name for s in settings}) == len(settings)
