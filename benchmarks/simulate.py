"""Does the instrument keep its promises? Known truth, many repetitions, counted. Run: `make simulate`.

Writes reports/simulations.json and prints every figure beside its bar; a missed bar is printed, not hidden.

    coverage    exact field, fine solver: 95 % intervals of the excess hold zero in 92 to 97 % of repetitions; how often
                the verdict is `none detectable`; the same intervals by resampling points, which must fail
    velocity    x0.95 and x1.05: right sign in every repetition at n = 1,000, size within 25 % of the closed form
    lag         m uniform on [(1-g) t, t]: g recovered inside its interval for 0.2, 0.5, 0.8; at most 0.02 for 0
    causes      exact field under 10 Euler steps, an over-smoothed denoiser under fine steps, and both together: the right
                cause, shares within 15 points of the truth
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from slowflow.data.bank import Bank
from slowflow.data.fields import synthetic
from slowflow.flow.grids import uniform_grid
from slowflow.flow.linear_truth import Rate, euler_variances, planted_variances, rate_exact, rate_smoothed
from slowflow.flow.model import FlowModel, Predictor
from slowflow.flow.planted import Scaled, Smoothed
from slowflow.flow.samplers import walk
from slowflow.flow.samplers.heun import Heun
from slowflow.flow.spectral import SpectralMixture, draw
from slowflow.io import atomic
from slowflow.io.run import environment
from slowflow.measuring import gamma
from slowflow.measuring.bootstrap import interval
from slowflow.measuring.causes.bands import Bands, Node
from slowflow.measuring.causes.nodes import nodes_of
from slowflow.measuring.causes.probing import Causes
from slowflow.measuring.causes.shares import PARTS, Division, Energies, divided
from slowflow.measuring.estimators import Draws, mean_curves
from slowflow.measuring.references import REFERENCES, Reference, Trajectories
from slowflow.measuring.slack import Reading, Slack
from slowflow.measuring.trajectories import Source
from slowflow.records import Probe

OUT = Path(__file__).resolve().parent.parent / "reports" / "simulations.json"
TIMES = 10
READINGS = ("level", "signal clock", "noise clock")
NULLS = ("genuine", "exact")
Result = dict[str, object]


def field_of(d: int, components: int, seed: int, scale: float = 1.0) -> SpectralMixture:
    """Data with a 1/k spectrum of mean variance `scale`^2, in lumps as strong as the spread along each axis."""
    draws = np.random.default_rng(seed)
    axes = np.linalg.qr(draws.normal(size=(d, d)))[0]
    variances = 1.0 / np.arange(1, d + 1)
    variances *= scale**2 / variances.mean()
    lumps = draws.normal(size=(components, d)) * np.sqrt(variances) if components > 1 else np.zeros((1, d))
    spread = variances / 2 if components > 1 else variances
    return SpectralMixture(
        torch.from_numpy(lumps / np.sqrt(2) @ axes.T).reshape(-1, 1, 1, d),
        torch.zeros(components, dtype=torch.int64),
        torch.from_numpy(axes),
        torch.from_numpy(spread),
    )


def data_of(field: SpectralMixture, n: int, key: int) -> torch.Tensor:
    """n draws of the field."""
    return draw(field, torch.zeros(n, dtype=torch.int64), np.random.default_rng(key))


def bank_of(field: SpectralMixture, n: int, key: int) -> Bank:
    return Bank({0: data_of(field, n, key).flatten(1).numpy()}, "simulated", str(key))


def batch(states: torch.Tensor, noise: torch.Tensor, data: torch.Tensor, t: torch.Tensor, path: object) -> Trajectories:
    n = len(states)
    flat = (states.flatten(2).numpy(), noise.flatten(1).numpy(), data.flatten(1).numpy())
    return Trajectories(*flat, np.zeros(n, dtype=np.int64), t.numpy(), path, np.arange(n))  # type: ignore[arg-type]


def sampled(field: Predictor, noise: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(states at TIMES times, the times) of a fine Heun run."""
    grid, every = uniform_grid(steps), steps // TIMES
    cond = torch.zeros(len(noise), dtype=torch.int64)
    states = [x for k, x in walk(field, Heun(last_euler=True), noise, cond, grid) if k and k % every == 0]
    return torch.stack(states, dim=1), grid[::every][1:]


def readings(kinds: dict[str, Trajectories], bank: Bank) -> dict[str, dict[str, Reading]]:
    """reading -> kind -> slack or clock."""
    found: dict[str, dict[str, Reading]] = {}
    for kind, one in kinds.items():
        level, clocks = REFERENCES.get("level"), REFERENCES.get("clocks")
        assert isinstance(level, Reference)
        assert not isinstance(clocks, Reference)
        said = level.assign(one, bank, "torch")
        found.setdefault("level", {})[kind] = Slack(said.m, one.grid, said.residual)
        for name, clock in clocks.clocks(clocks.observe(one, bank), one.grid, one.path).items():
            found.setdefault(name, {})[kind] = clock
    return found


def genuine_of(
    field: SpectralMixture, n: int, key: int, t: torch.Tensor, slow: np.ndarray | None = None
) -> Trajectories:
    """Real states; `slow` [n] puts each at (1 - slow) t under the label t."""
    data, noise = (
        data_of(field, n, 2 * key),
        torch.from_numpy(np.random.default_rng(2 * key + 1).normal(size=(n, *field.shape))),
    )
    share = torch.zeros(n, dtype=torch.float64) if slow is None else torch.from_numpy(slow)
    states = torch.stack([field.interpolant.state(noise, data, (1.0 - share) * x) for x in t], dim=1)
    return batch(states, noise, data, t, field.interpolant)


def points_interval(model: Slack, null: Slack, weight: np.ndarray, kept: np.ndarray, seed: int) -> tuple[float, float]:
    """The wrong way: states are resampled as if they were independent."""
    draws, found = np.random.default_rng(seed), []
    ours, theirs = model.r[:, kept], null.r[:, kept]
    for _ in range(200):
        a, b = (x.ravel()[draws.integers(x.size, size=x.size)] for x in (ours, theirs))
        wa, wb = (np.broadcast_to(weight, x.shape).ravel() for x in (ours, theirs))
        found.append(2.0 * (np.average(a, weights=wa) - np.average(b, weights=wb)))
    low, high = interval(np.array(found))
    return float(low), float(high)


def coverage(repetitions: int, n: int = 200) -> Result:
    """Exact fields, fine solver."""
    found: Result = {"repetitions": repetitions, "n": n}
    for name, components in (("gaussian", 1), ("mixture", 10)):
        field = field_of(64, components, 1)
        hits = {reading: 0 for reading in READINGS}
        at_times = {reading: np.zeros((2, TIMES)) for reading in READINGS}  # covered, read at all
        verdicts: dict[str, int] = {}
        points, worst = 0, {reading: 0.0 for reading in READINGS}
        for k in range(repetitions):
            bank = bank_of(field, 2000, 10_000 + k // 20)
            noise = torch.from_numpy(np.random.default_rng(20_000 + k).normal(size=(n, *field.shape)))
            fine, t = sampled(field, noise, 50)
            finer, _ = sampled(field, noise, 100)
            kinds = {
                "model": batch(fine, noise, fine[:, -1], t, field.interpolant),
                "genuine": genuine_of(field, n, 30_000 + k, t),
                "exact": batch(finer, noise, finer[:, -1], t, field.interpolant),
            }
            said = readings(kinds, bank)
            draws = Draws(k)
            for reading in READINGS:
                curves = mean_curves(reading, said[reading], draws)
                excess = curves.excess("model", "genuine")
                hits[reading] += not excess.excludes(0.0)
                worst[reading] = max(worst[reading], abs(excess.value))
                free = curves.free("model", "genuine")
                at_times[reading][:, curves.kept] += [[not e.excludes(0.0) for e in free], [True] * len(free)]
                if reading == "level":
                    model, null = said[reading]["model"], said[reading]["genuine"]
                    assert isinstance(model, Slack)
                    assert isinstance(null, Slack)
                    low, high = points_interval(model, null, curves.weight, curves.kept, k)
                    points += low <= 0.0 <= high
            verdict = gamma.fit(said, band_reference="level", excess_reference="level", seed=k).verdict
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
        found[name] = {
            "covered": {reading: count / repetitions for reading, count in hits.items()},
            "covered_at_times": {r: _by_time(*counts) for r, counts in at_times.items()},
            "largest_excess": worst,
            "verdicts": verdicts,
            "covered_by_points": points / repetitions,
        }
    return found


def _by_time(covered: np.ndarray, read: np.ndarray) -> dict[str, float]:
    """t -> share of the repetitions that read this time in which zero was covered."""
    return {
        f"{t:.1f}": round(c / n, 3) for t, c, n in zip(np.linspace(0.1, 1.0, TIMES), covered, read, strict=True) if n
    }


def velocity(repetitions: int, n: int = 1000) -> Result:
    """Scaled velocities on Gaussian data, over both nulls, against the exact law of such a field.

    That law is Gaussian with closed-form variances; its readings are taken from 8,000 states drawn from it, on the same
    noise as the states of a perfect model, so the truth has no solver in it and next to no sampling error.
    """
    found: Result = {"repetitions": repetitions, "n": n}
    t = uniform_grid(TIMES)[1:]
    for scale in (0.5, 1.0):
        field, bank = field_of(256, 1, 2, scale), bank_of(field_of(256, 1, 2, scale), 4000, 40_000)
        for factor in (0.95, 1.05):
            many = torch.from_numpy(np.random.default_rng(45_000).normal(size=(8000, *field.shape)))
            laws = {"model": _law(field, many, factor), "exact": _law(field, many, 1.0)}
            exact = readings({k: batch(x, many, x[:, -1], t, field.interpolant) for k, x in laws.items()}, bank)
            rows: dict[str, list[tuple[float, float]]] = {f"{r}, over {k}": [] for r in READINGS for k in NULLS}
            for k in range(repetitions):
                noise = torch.from_numpy(np.random.default_rng(50_000 + k).normal(size=(n, *field.shape)))
                kinds = {"genuine": genuine_of(field, n, 60_000 + k, t)}
                for kind, one in (("model", Scaled(field, factor)), ("exact", field)):
                    states, _ = sampled(one, noise, 100)
                    kinds[kind] = batch(states, noise, states[:, -1], t, field.interpolant)
                said = readings(kinds, bank)
                for reading in READINGS:
                    curves = mean_curves(reading, said[reading], Draws(k))
                    slack = [exact[reading][kind].mean_slack(np.ones((1, 8000)))[0] for kind in ("model", "exact")]
                    true = float(2.0 * (slack[0] - slack[1])[curves.kept] @ curves.weight)
                    for null in NULLS:
                        rows[f"{reading}, over {null}"].append((curves.excess("model", null).value, true))
            found[f"x{factor}, data of scale {scale}"] = {name: _against(np.array(row)) for name, row in rows.items()}
    return found


def _law(field: SpectralMixture, noise: torch.Tensor, factor: float) -> torch.Tensor:
    """States of the velocity times `factor`, in closed form: each axis by itself, log-amplitude (f/2) log v(t)."""
    z = noise.flatten(1) @ field.axes
    t = uniform_grid(TIMES)[1:, None]
    variance = t**2 * field.variances + (1.0 - t) ** 2
    return (z[:, None] * variance ** (factor / 2.0) @ field.axes.T).reshape(len(noise), TIMES, *field.shape)


def _against(row: np.ndarray) -> Result:
    value, true = row.T
    return {
        "truth": float(true.mean()),
        "mean": float(value.mean()),
        "sd": float(value.std()),
        "right_sign": float(np.mean(np.sign(value) == np.sign(true))),
        "within_25_per_cent": float(np.mean(np.abs(value - true) <= 0.25 * np.abs(true))),
    }


def lag(repetitions: int, n: int = 400) -> Result:
    """Genuine states of an earlier time: one slack a trajectory, uniform on [0, g]."""
    field, found = field_of(256, 10, 3), {"repetitions": repetitions, "n": n}
    t = uniform_grid(TIMES)[1:]
    bank = bank_of(field, 4000, 70_000)
    for size in (0.0, 0.2, 0.5, 0.8):
        names = ("excess_genuine", "edge", "spread", "signal_genuine", "noise_genuine", "q90")
        inside, values = {name: 0 for name in names}, {name: [] for name in names}
        for k in range(repetitions):
            slow = size * np.random.default_rng(80_000 + k).uniform(size=n)
            kinds = {"model": genuine_of(field, n, 90_000 + k, t, slow), "genuine": genuine_of(field, n, 95_000 + k, t)}
            fit = gamma.fit(readings(kinds, bank), band_reference="level", excess_reference="level", seed=k)
            for name in names:
                inside[name] += not fit.estimates[name].excludes(size)
                values[name].append(fit.estimates[name].value)
        found[f"g = {size}"] = {
            name: {
                "inside": inside[name] / repetitions,
                "mean": float(np.mean(values[name])),
                "largest_error": float(np.max(np.abs(np.array(values[name]) - size))),
            }
            for name in names
        }
    return found


def causes(repetitions: int, n: int = 1000) -> Result:
    """Shares of the signal clock's lag on Gaussian data, where the law of every linear field is known in closed form."""
    field, found = field_of(128, 1, 4), {"repetitions": repetitions, "n": n}
    exact, smoothed = (
        rate_exact(field.variances.numpy(), "linear"),
        rate_smoothed(field.variances.numpy(), "linear", 0.05),
    )
    cases: dict[str, tuple[Predictor, Rate, str, tuple[int, ...]]] = {
        "exact field, 10 Euler steps": (field, exact, "euler", (10, 20, 40)),
        "over-smoothed 5 %, 25 Heun steps": (Smoothed(field, 0.05), smoothed, "heun", (25, 50, 100)),
        "over-smoothed 5 %, 20 Euler steps": (Smoothed(field, 0.05), smoothed, "euler", (20, 40, 80)),
    }
    for name, (faulty, rate, method, counts) in cases.items():
        right, within, shares, truths = 0, 0, [], []
        for k in range(repetitions):
            said, nodes, bands = _divided(field, faulty, method, counts, n, k)
            best = max((d for d in said.values() if d.clear), key=lambda d: abs(d.lag.value))
            truth = _true_shares(field, rate, method, counts[0], nodes, bands, said["signal clock"].weight)
            top = max(best.parts, key=lambda part: best.parts[part].value)
            right += top == max(truth, key=lambda part: truth[part])
            own = said["signal clock"].shares
            shares.append([own[part].value for part in truth])
            truths.append(list(truth.values()))
            within += all(abs(own[part].value - truth[part]) <= 0.15 for part in truth)
        found[name] = {
            "truth": dict(zip(PARTS, np.mean(truths, axis=0).round(3).tolist(), strict=True)),
            "mean_shares": dict(zip(PARTS, np.mean(shares, axis=0).round(3).tolist(), strict=True)),
            "sd_shares": dict(zip(PARTS, np.std(shares, axis=0).round(3).tolist(), strict=True)),
            "right_cause": right / repetitions,
            "all_shares_within_15_points": within / repetitions,
        }
    return found


def _divided(
    field: SpectralMixture, faulty: Predictor, method: str, counts: tuple[int, ...], n: int, key: int
) -> tuple[dict[str, Division], list[Node], Bands]:
    images = synthetic(field, 2 * n, key, "simulated")
    bank_set, held = images.split(0.5, seed=key)
    probe = Probe(samples=n, steps=counts[:1], sampler=method, seed=key)
    model = FlowModel.from_callable(lambda state, t, cond: state, shape=field.shape)
    source = Source(model, held, bank_set, probe)
    bands = Bands.of(Bank.of(bank_set, conditional=False))
    task = Causes(source, faulty, bands, counts)
    found = task.probe(source.ids("genuine"))
    nodes = nodes_of(bands, field.interpolant, task.nodes[1:])
    shared = (found["genuine"], bands.mean_energy, found["noise"])
    runs = [Energies(c, found[f"own-{c}"], found[f"forced-{c}"], *shared) for c in counts]
    return divided(runs, nodes, 2 if method == "heun" else 1, key), nodes, bands


def _true_shares(
    field: SpectralMixture, rate: Rate, method: str, steps: int, nodes: list[Node], bands: Bands, weight: np.ndarray
) -> dict[str, float]:
    """Steps: the closed-form lag under these Euler steps less that of the exact solution. A linear fault is all local.

    The axes of the bank are not quite those of the field: variances along them follow from both.
    """
    t = np.array([0.0, *(node.t for node in nodes)])
    grid = uniform_grid(steps).numpy()
    at = [int(np.argmin(np.abs(grid - x))) - 1 for x in t[1:]]
    fine = planted_variances(t, rate)
    coarse = euler_variances(grid, rate)[at] if method == "euler" else fine
    turned = np.square(bands.axes.T @ field.axes.numpy())
    variances = field.variances.numpy()
    lags = []
    for found in (coarse, fine):
        slack = []
        for node, v in zip(nodes, found, strict=True):
            genuine = node.t**2 * variances + (1.0 - node.t) ** 2
            ours, theirs = (np.add.reduceat(turned @ x, bands.first) for x in (v, genuine))
            slack.append(float(node.lags(ours / theirs)[0]))
        lags.append(float(np.array(slack) @ weight))
    share = 1.0 - lags[1] / lags[0]
    return {"steps": share, "local": 1.0 - share, "accumulation": 0.0}


SIMULATIONS: dict[str, tuple[Callable[[int], Result], int]] = {
    "coverage": (coverage, 400),
    "causes": (causes, 8),
    "lag": (lag, 60),
    "velocity": (velocity, 12),
}


def main() -> None:
    """Run what is asked for, merge into the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", choices=[[], *SIMULATIONS], help="all of them by default")
    parser.add_argument("--repetitions", type=int, default=0, help="fewer, to try it out; the file is then left alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import json

    stored = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for name in options.names or SIMULATIONS:
        function, repetitions = SIMULATIONS[name]
        began = time.perf_counter()
        stored[name] = function(options.repetitions or repetitions)
        print(f"== {name}, {time.perf_counter() - began:.0f} s")
        print(json.dumps(stored[name], indent=1, default=float))
        if not options.repetitions:
            atomic.write_json(OUT, {**stored, "environment": environment()})


if __name__ == "__main__":
    main()
