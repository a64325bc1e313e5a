"""A study folder with planted numbers: what the engine writes, without training anything."""

import io

import numpy as np

from slowflow.io import atomic
from slowflow.io.run import RunFolder
from slowflow.sweep.folder import DRAWS, cell_folder, draw_key

LENGTHS, BUDGETS, SEEDS = (100, 300, 1000, 3000), (5, 10, 20, 50), (0, 1, 2)
GAMMAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def protocol(**changes):
    return {
        "name": "planted",
        "data": "nothing",
        "features": "fd-planted",
        "lengths": list(LENGTHS),
        "seeds": list(SEEDS),
        "sampling": {"steps": list(BUDGETS), "samples": 500},
        "probe": {"steps": [50], "samples": 100},
        **changes,
    }


def fd(arm, gamma, length, budget):
    """Planted truth: fewer calls are worse; gamma hurts after short training and helps at 0.4 after long."""
    start = 60.0 + 150.0 / budget
    if arm == "base":
        return start
    gain = 10.0 * np.log10(length / 100.0)
    if gamma is None:
        return start - 0.3 * gain
    return start - gain + 30.0 * (gamma - 0.15 * np.log10(length)) ** 2


def planted(
    path,
    truth=fd,
    *,
    gammas=GAMMAS,
    noise=1.5,
    inside=1.0,
    seeds=SEEDS,
    other=protocol(),  # noqa: B008
    data="d",
    more=(),
    lag_change=0.0,
    band=None,
):
    """Write the folder; `noise` is the spread over seeds, `inside` the bootstrap's.

    `more` are further arms (name, group, gamma), whose truth is asked for by name; `lag_change` is what every trained arm did
    to the lag and to the band of the base; `band` is the gamma that the base's measurement suggests.
    """
    RunFolder(path, "study", other)
    arms = [("base", "base", None), ("plain", "plain", None), *((f"mixflow-{g:g}", "mixflow", g) for g in gammas)]
    arms += [("heun", "heun", None), *more]
    for number, (arm, group, gamma) in enumerate(arms):
        for seed in seeds:
            draw = np.random.default_rng([number, seed])
            rows, draws = [], {}
            for length in (0,) if arm in ("base", "heun") else LENGTHS:
                for budget in BUDGETS:
                    true = truth(arm if arm != "heun" else "base", gamma, length, budget)
                    values = {"fd": true + noise * draw.normal()}
                    values["coverage"] = 0.9 - values["fd"] / 400 + 0.01 * draw.normal()
                    for metric, scale in (("fd", inside), ("coverage", 0.008)):
                        value = values[metric]
                        draws[draw_key(metric, length, budget)] = value + scale * draw.normal(size=100)
                        rows.append(
                            {
                                "length": length, "budget": budget, "steps": budget, "nfe": budget, "metric": metric,
                                "value": value, "low": value - 2 * scale, "high": value + 2 * scale, "n": 500,
                            }
                        )  # fmt: skip
            lag = 0.05 if gamma is None else 0.05 * (1 - gamma)
            readings = {
                name: {"value": lag + 0.01 * draw.normal(), "low": lag - 0.02, "high": lag + 0.02, "n": 100}
                for name in ("excess_exact", "signal_exact", "noise_exact")
            }
            if band is not None:
                wide = band + (lag_change if max(r["length"] for r in rows) else 0.0)
                readings["band"] = {"value": wide, "low": wide - 0.01, "high": wide + 0.01, "n": 100}
            moved = {"value": lag_change, "low": lag_change - 0.01, "high": lag_change + 0.01, "n": 100}
            length = max(r["length"] for r in rows)
            change = dict.fromkeys(("level", "signal clock", "noise clock"), moved) if length else {}
            found = {} if arm == "heun" else {"length": length, "estimates": readings, "change": change}
            folder = RunFolder(
                cell_folder(path, arm, seed),
                "arm",
                {"model": {"w": 1}, "data_sha256": data, "features_sha256": "f", "arm": arm, "seed": seed},
            )
            buffer = io.BytesIO()
            np.savez(buffer, **draws)
            atomic.write_bytes(folder.path / DRAWS, buffer.getvalue())
            about = {"arm": arm, "group": group, "gamma": gamma, "seed": seed, "failed": None, "train": {}}
            folder.finish([DRAWS], {**about, "rows": rows, "lag": found, "memorisation": {}})
    atomic.write_json(path / "plan.json", [[arm, seed] for arm, _, _ in arms for seed in seeds])
    return path
