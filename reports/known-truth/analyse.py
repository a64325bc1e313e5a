"""Tables, figures and the rule: PYTHONPATH=. python reports/known-truth/analyse.py --runs DIR."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from knowntruth import figures, findings, probes, rule, table, tool
from run import read

from slowflow.measuring.forecast import SMALLEST_LEVEL

HERE = Path(__file__).resolve().parent
READ = ("level", "signal", "noise", "blur")
KEPT = [
    *table.METRICS, *table.CELL, "ratio", "steps", "seeds", *READ, *(f"tool_{x}" for x in READ), "mismatch",
    *(f"{m}_{x}" for m in table.METRICS for x in ("effect", "half", "control")),
]  # fmt: skip


def one_score(part: pd.DataFrame, coefficients: np.ndarray, reading: str = rule.TOOL) -> dict[str, float]:
    """Score on some clear cells, with an interval over (setting, base)."""
    said, helps = coefficients[0] + rule.matrix(part, reading) @ coefficients[1:] > 0, part.helps.to_numpy()
    low, high = rule.clustered(said == helps, (part.setting + part.base).to_numpy())
    return {**vars(rule.score(said, helps)), "low": low, "high": high, "bases": (part.setting + part.base).nunique()}


def fitted(part: pd.DataFrame, reading: str = rule.TOOL) -> np.ndarray:
    """Coefficients formed on clear cells."""
    return rule.fit(rule.matrix(part, reading), part.helps.to_numpy())


def scores(clear: pd.DataFrame) -> pd.DataFrame:
    """How well the rule does on every group of clear cells."""
    ordinary, formed = ~clear.reader & (clear.data == 0), rule.formed(clear)
    held, own = ordinary & ~formed, fitted(clear[formed])
    beyond = pd.Series([one.extrapolated for one in rule.outlooks(clear)], index=clear.index)
    groups = {"formed on (d 16, 256)": formed, "judged: all others": held}
    groups |= {"judged: inside the formed ranges": held & ~beyond, "judged: extrapolated": held & beyond}
    lag = clear.tool_level >= SMALLEST_LEVEL
    groups |= {"judged: a lag is read": held & lag, "judged: no lag is read": held & ~lag}
    for column, name in (("d", "d"), ("kind", "kind"), ("base", "base"), ("solver", "solver"), ("gamma", "γ")):
        groups |= {f"judged: {name} {x}": held & (clear[column] == x) for x in sorted(clear[column].unique())}
    groups |= {"told the norm (readers)": clear.reader, "500 training samples": clear.data > 0}
    found = [{"group": name, **one_score(clear[rows], own)} for name, rows in groups.items() if rows.any()]
    exact = fitted(clear[formed], rule.EXACT)
    found.append({"group": "judged, level read by the exact density", **one_score(clear[held], exact, rule.EXACT)})
    for column in ("d", "kind"):
        for x in sorted(clear[column].unique()):
            inside, outside = ordinary & (clear[column] == x), ordinary & (clear[column] != x)
            if inside.any() and clear[outside].helps.nunique() == 2:
                name = f"left out: {column} {x}"
                found.append({"group": name, **one_score(clear[inside], fitted(clear[outside]))})
    return pd.DataFrame(found)


def main() -> None:
    """Read the runs; write table.csv, scores.csv, coefficients and figures beside this file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=Path, required=True)
    given = options.parse_args()
    plan, settings = read(HERE / "config.toml")
    tool.collect(settings, plan, given.runs)
    judged, measured = table.rows(given.runs, plan.pretrain)
    cells = table.cells(judged, measured, table.tool(given.runs))
    cells[KEPT].to_csv(HERE / "table.csv", index=False, float_format="%.4g")
    cells = pd.read_csv(HERE / "table.csv")  # what is kept is what is judged
    clear = rule.clear(cells)
    found = scores(clear)
    found.to_csv(HERE / "scores.csv", index=False, float_format="%.4g")
    print("coefficients", fitted(clear[rule.formed(clear)]).round(3).tolist())
    print(found.round(3).to_string(index=False))
    oracle = table.oracles(given.runs)
    oracle.groupby(["d", "kind", "arm", "solver"], sort=False).mean(numeric_only=True).drop(
        columns="seed"
    ).reset_index().to_csv(HERE / "oracle.csv", index=False, float_format="%.4g")
    (HERE / "tables.md").write_text(findings.report(judged, cells, oracle), encoding="utf-8")
    figures.effect_by_length(cells, HERE / "effect.png")
    figures.effect_by_length(cells, HERE / "fidelity.png", "astray", "samples astray")
    figures.fidelity_and_coverage(cells, HERE / "fidelity-coverage.png")
    ideal = {
        d: probes.ideal_read(d, 0.2, (0.2, 0.4, 0.8), plan.seeds, plan.probe) for d in sorted(cells.d.unique().tolist())
    }
    figures.learning_to_read(judged, ideal, HERE / "reading.png")
    figures.oracle_and_networks(oracle, cells, HERE / "identifiability.png")
    figures.foretold(found, HERE / "forecast.png")


if __name__ == "__main__":
    main()
