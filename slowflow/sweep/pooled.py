"""Tables of a study over its seeds: numbers, and differences against one arm on the same seeds and sample ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from slowflow.errors import InputError
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.intervals import pooled

WHERE = ["length", "budget", "metric"]
ABOUT = ["arm", "group", "gamma"]


def over_seeds(result: StudyResult) -> pd.DataFrame:
    """One row an arm, length, budget and metric: value, low, high, n, seeds, steps, nfe, and the arm's `longest` length."""
    rows = []
    for (arm, length, budget, metric), group in result.rows.groupby(["arm", *WHERE], sort=False):
        seeds = group["seed"].tolist()
        draws = np.stack([result.draws(arm, seed, metric, length, budget) for seed in seeds])
        found = pooled(group["value"].to_numpy(), draws, int(group["n"].iloc[0]))
        rows.append(_row(group, found, len(seeds)))
    table = pd.DataFrame(rows)
    return table.assign(longest=table.groupby("arm")["length"].transform("max"))


def differences(result: StudyResult, against: str = "plain") -> pd.DataFrame:
    """Every arm minus the arm `against`, on the seeds both have, paired by seed and sample id.

    A number at a length is compared with `against` at the same length; an untrained arm has one length, 0, which every
    length is compared with.

    Raises:
        InputError: the study has no such arm.
    """
    if against not in result.arms:
        raise InputError(f"{result.path} has no finished arm '{against}' (it has {', '.join(result.arms)})")
    base = result.rows[result.rows["arm"] == against].set_index(["seed", *WHERE])
    fixed = set(base.index.get_level_values("length")) == {0}
    rows = []
    for (arm, length, budget, metric), group in result.rows.groupby(["arm", *WHERE], sort=False):
        at = 0 if fixed else length
        both = [s for s in group["seed"] if (s, at, budget, metric) in base.index]
        if arm == against or not both:
            continue
        group = group[group["seed"].isin(both)]
        other = base.loc[[(seed, at, budget, metric) for seed in both], "value"].to_numpy()
        draws = np.stack(
            [
                result.draws(arm, seed, metric, length, budget) - result.draws(against, seed, metric, at, budget)
                for seed in both
            ]
        )
        found = pooled(group["value"].to_numpy() - other, draws, int(group["n"].iloc[0]))
        rows.append({**_row(group, found, len(both)), "against": against})
    return pd.DataFrame(rows, columns=[*ABOUT, *WHERE, "steps", "nfe", "seeds", "value", "low", "high", "n", "against"])


def _row(group: pd.DataFrame, found: Any, seeds: int) -> dict[str, Any]:
    first = group.iloc[0]
    kept = {key: first[key] for key in (*ABOUT, *WHERE, "steps", "nfe")}
    return {**kept, "seeds": seeds, "value": found.value, "low": found.low, "high": found.high, "n": found.n}
