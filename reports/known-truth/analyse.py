"""Tables, figures and the rule: PYTHONPATH=. python reports/known-truth/analyse.py --runs DIR."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
from knowntruth import figures, rule, table

HERE = Path(__file__).resolve().parent
KEPT = [
    *table.CELL, "ratio", "steps", "seeds", "level", "signal", "noise", "level_fine", "blur", "mismatch",
    *(f"{m}_{x}" for m in table.METRICS for x in ("effect", "half", "control")),
]  # fmt: skip


def one_score(part: pd.DataFrame, coefficients: np.ndarray) -> dict[str, float]:
    """Score on some clear cells, with an interval over (setting, base)."""
    said, helps = coefficients[0] + rule.matrix(part) @ coefficients[1:] > 0, part.helps.to_numpy()
    low, high = rule.clustered(said == helps, (part.setting + part.base).to_numpy())
    return {**vars(rule.score(said, helps)), "low": low, "high": high, "bases": (part.setting + part.base).nunique()}


def scores(cells: pd.DataFrame, coefficients: np.ndarray, metric: str = "fd") -> pd.DataFrame:
    """How well the rule does on every group of cells."""
    found = []
    clear = rule.clear(cells, metric)
    ordinary = ~clear.reader & (clear.data == 0)
    formed = rule.formed(clear)
    groups = {
        "formed on (d 16, 256)": formed,
        "judged: all others": ordinary & ~formed,
        **{f"judged: d {d}": ordinary & ~formed & (clear.d == d) for d in sorted(clear.d.unique())},
        **{f"judged: {k}": ordinary & ~formed & (clear.kind == k) for k in sorted(clear.kind.unique())},
        **{f"judged: {b} base": ordinary & ~formed & (clear.base == b) for b in sorted(clear.base.unique())},
        **{f"judged: γ {g:g}": ordinary & ~formed & (clear.gamma == g) for g in sorted(clear.gamma.unique())},
        "told the norm (readers)": clear.reader,
        "500 training samples": clear.data > 0,
    }
    for name, rows in groups.items():
        if rows.any():
            found.append({"group": name, **one_score(clear[rows], coefficients)})
    for d in sorted(clear.d.unique()):
        rest = clear[ordinary & (clear.d != d)]
        if rest.helps.nunique() == 2:
            other = rule.fit(rule.matrix(rest), rest.helps.to_numpy())
            found.append(
                {"group": f"d {d} left out, all else formed", **one_score(clear[ordinary & (clear.d == d)], other)}
            )
    return pd.DataFrame(found)


def main() -> None:
    """Read the runs; write table.csv, scores.csv, coefficients and figures beside this file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=Path, required=True)
    given = options.parse_args()
    plan = tomllib.loads((HERE / "config.toml").read_text())["plan"]
    judged, measured = table.rows(given.runs, plan["pretrain"])
    cells = table.cells(judged, measured)
    cells[KEPT].to_csv(HERE / "table.csv", index=False, float_format="%.4g")
    cells = pd.read_csv(HERE / "table.csv")  # what is kept is what is judged
    clear = rule.clear(cells[rule.formed(cells)])
    coefficients = rule.fit(rule.matrix(clear), clear.helps.to_numpy())
    found = scores(cells, coefficients)
    found.to_csv(HERE / "scores.csv", index=False, float_format="%.4g")
    print("coefficients", coefficients.round(3).tolist())
    print(found.round(3).to_string(index=False))
    oracle = table.oracles(given.runs)
    oracle.groupby(["d", "kind", "arm", "solver"], sort=False).mean(numeric_only=True).drop(
        columns="seed"
    ).reset_index().to_csv(HERE / "oracle.csv", index=False, float_format="%.4g")
    figures.effect_by_length(cells, HERE / "effect.png")
    figures.effect_by_length(cells, HERE / "fidelity.png", "astray", "samples astray")
    figures.fidelity_and_coverage(cells, HERE / "fidelity-coverage.png")
    figures.learning_to_read(judged, HERE / "reading.png")
    figures.oracle_and_networks(oracle, cells, HERE / "identifiability.png")
    figures.foretold(found, HERE / "forecast.png")


if __name__ == "__main__":
    main()
