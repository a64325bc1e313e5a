"""From a folder of runs to one row a cell: what MixFlow did against its control, and what was known beforehand.

A cell is (setting, base, length, solver, gamma). Its effect on a metric is the mean over seeds of log(metric of MixFlow /
metric of plain post-training of the same length); below 0 MixFlow helps. Both arms of a seed share world, base, data,
noise and starting noise, so the seeds' effects are paired, and their scatter holds everything that chance does. The
interval is Student's at two degrees of freedom (three seeds), 4.30 standard errors wide to each side.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from knowntruth.arms import PLAIN
from knowntruth.worlds import information, world

METRICS = ("fd", "astray", "frequency")
"""Judged by effect: all of it, fidelity, coverage; smaller is better."""
SETTING = ["setting", "d", "kind", "spread", "width", "reader", "data", "parameters"]
CELL = [*SETTING, "base", "pretrained", "length", "solver", "gamma"]
TIMES = (0.2, 0.4, 0.6, 0.8)
SMALLEST = 1e-3
"""Added to shares before the logarithm: half a sample of 512."""


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def rows(out: Path, plan: dict[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(every judged network, every measured base) of the finished phases of a folder."""
    judged, measured = [], []
    for path in sorted(out.glob("*/setting.json")):
        setting, folder = read(path), path.parent
        about = {k: setting["idle" if k == "spread" else k] for k in SETTING[1:]} | {"setting": folder.name}
        for base, pretrained in (setting["pretrain"] or plan).items():
            post = folder / f"post-{base}.json"
            if not post.exists():
                continue
            here = about | {"base": base, "pretrained": pretrained}
            start = [
                {**r, "arm": "base", "length": 0} for r in read(folder / f"base-{base}.json") if r["arm"] == "base"
            ]
            judged += [{**here, **r} for r in [*read(post), *start]]
            measured += [{**here, **r} for r in read(folder / f"measured-{base}.json")]
    return pd.DataFrame(judged), pd.DataFrame(measured)


def tool(out: Path) -> pd.DataFrame:
    """What the library's own `level` says of each base, means over seeds."""
    found = [{"setting": path.parent.name, **r} for path in sorted(out.glob("*/tool.json")) for r in read(path)]
    means = pd.DataFrame(found).groupby(["setting", "base", "solver"], sort=False)
    return means[["tool_level", "tool_signal", "tool_noise", "tool_blur"]].mean().reset_index()


def oracles(out: Path) -> pd.DataFrame:
    """Metrics of exact optima and of genuine samples."""
    found = []
    for path in sorted(out.glob("oracle-*.json")):
        _, d, kind = path.stem.split("-")
        found += [{"d": int(d[1:]), "kind": kind, **r} for r in read(path)]
    return pd.DataFrame(found)


def effects(judged: pd.DataFrame, control: str = PLAIN) -> pd.DataFrame:
    """One row a cell: for each metric its effect over `control`, half-width, and both arms' means."""
    seen = judged[(judged.solver != "probe") & (judged.arm != "base")]
    keys = ["setting", "base", "length", "solver", "seed"]
    against = seen[seen.arm == control].set_index(keys)[list(METRICS)]
    own = seen[~seen.arm.isin([PLAIN, "0"])].copy()
    own["gamma"] = own.arm.astype(float)
    other = against.reindex(pd.MultiIndex.from_frame(own[keys]))
    for metric in METRICS:
        own[f"{metric}_effect"] = np.log((own[metric] + SMALLEST) / (other[metric].to_numpy() + SMALLEST))
        own[f"{metric}_control"] = other[metric].to_numpy()
    groups = own.groupby(CELL, sort=False)
    seeds = groups.size()
    found = groups[[*METRICS, *(f"{m}_{x}" for m in METRICS for x in ("effect", "control"))]].mean()
    for metric in METRICS:
        spread = groups[f"{metric}_effect"].std(ddof=1)
        found[f"{metric}_half"] = student.ppf(0.975, seeds - 1) * spread / np.sqrt(seeds)
    return found.assign(seeds=seeds).reset_index()


def over(judged: pd.DataFrame, arm: str, control: str) -> pd.DataFrame:
    """Effect of one arm over another on `fd`, per base, length and solver; control `base`: the untouched network."""
    seen = judged[(judged.solver != "probe") & ~judged.reader & (judged.data == 0)]
    keys = (
        ["setting", "base", "solver", "seed"] if control == "base" else ["setting", "base", "length", "solver", "seed"]
    )
    own = seen[seen.arm == arm]
    other = seen[seen.arm == control].set_index(keys).fd.reindex(pd.MultiIndex.from_frame(own[keys]))
    effect = np.log((own.fd + SMALLEST) / (other.to_numpy() + SMALLEST))
    groups = effect.groupby([own[c] for c in ("setting", "base", "length", "solver")], sort=False)
    found = pd.DataFrame(
        {"fd_effect": groups.mean(), "spread": groups.std(ddof=1), "seeds": groups.size()}
    ).reset_index()
    return found.assign(fd_half=student.ppf(0.975, found.seeds - 1) * found.spread / np.sqrt(found.seeds))


def known(measured: pd.DataFrame) -> pd.DataFrame:
    """Per (setting, base, solver): what a measurement of the base says, means over seeds."""
    lag = measured[measured.solver.str.match("euler|heun")]
    found = lag.groupby(["setting", "base", "solver"], sort=False)[["level", "signal", "noise"]].mean().reset_index()
    fine = found[found.solver == "heun20"].set_index(["setting", "base"])
    at = pd.MultiIndex.from_frame(found[["setting", "base"]])
    for name in ("level", "signal", "noise"):
        found[f"{name}_fine"] = fine[name].reindex(at).to_numpy()
    leaning = measured[measured.solver == "leaning"].groupby(["setting", "base"], sort=False).mean(numeric_only=True)
    for name in ("loss", "loss_exact"):
        found[name] = leaning[name].reindex(at).to_numpy()
    return found


def leaning(measured: pd.DataFrame) -> pd.DataFrame:
    """mismatch and disagreement per (setting, base, gamma), means over seeds."""
    seen = measured[measured.solver == "leaning"].groupby(["setting", "base"], sort=False).mean(numeric_only=True)
    parts = []
    for name in ("mismatch", "disagreement"):
        wide = seen[[c for c in seen if str(c).startswith(f"{name} ")]]
        long = wide.rename(columns=lambda c: float(str(c).split()[1])).stack().rename(name)
        parts.append(long.rename_axis(["setting", "base", "gamma"]))
    return pd.concat(parts, axis=1).reset_index()


def blur(d: int, idle: float, seeds: tuple[int, ...] = (10, 11, 12)) -> float:
    """Scatter of the level read off one state, 1 / (t sqrt(I)): its median over times, mean over worlds."""
    t = torch.tensor(TIMES)
    found = [(information(world(d, idle, s), t).rsqrt() / t).median() for s in seeds]
    return float(torch.stack(found).mean())


def cells(judged: pd.DataFrame, measured: pd.DataFrame, said: pd.DataFrame, control: str = PLAIN) -> pd.DataFrame:
    """Effects with what was known beforehand; said: by the library's `level`."""
    found = effects(judged, control).merge(known(measured), on=["setting", "base", "solver"])
    found = found.merge(said, on=["setting", "base", "solver"])
    found = found.merge(leaning(measured), on=["setting", "base", "gamma"])
    worlds = {(d, s): blur(d, s) for d, s in found[["d", "spread"]].drop_duplicates().itertuples(index=False)}
    found["blur"] = [worlds[(d, s)] for d, s in found[["d", "spread"]].itertuples(index=False)]
    found["ratio"] = found.length / found.pretrained
    found["steps"] = found.solver.str.extract(r"(\d+)").astype(int)
    return found


def sure(table: pd.DataFrame, metric: str = "fd") -> pd.Series:
    """Cells whose effect is outside its interval."""
    return table[f"{metric}_effect"].abs() > table[f"{metric}_half"]
