"""What studies have measured about the choice of gamma: read from `evidence.json`, said by `suggest`.

`reports/studies/decide.py` writes the file from study folders by the rule of `slowflow.sweep.choice`; nothing in it is set by
hand. A gamma in it is that of one base on one data set: what carries over to another model is which estimator was good.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from slowflow.records import BEST_AFTER, Estimate, change_word

FILE = "evidence.json"


@cache
def stored() -> dict[str, Any]:
    """The file: `method`, `why`, `studies` (a list of `name, seeds, planned, gammas, length, rows`), `forecast`."""
    found: dict[str, Any] = json.loads((resources.files("slowflow.measuring") / FILE).read_text(encoding="utf-8"))
    return found


def words(found: dict[str, Any] | None = None) -> str:
    """Why `auto` takes what it takes, and what that cost in the studies so far.

    A pilot trains, so a measurement alone cannot give its gamma: then what the pilot cost is followed by what the band, which the
    measurement gives instead, cost in the same studies.
    """
    found = stored() if found is None else found
    said = [f"auto takes {found['why']}", *_costs(found, found["method"])]
    if found["method"].startswith(BEST_AFTER):
        said.append("a pilot trains (suggest --method pilot), so this measurement alone gives the band")
        said += _costs(found, "band")
    return "; ".join(said)


def _costs(found: dict[str, Any], method: str) -> list[str]:
    """A sentence a study that has the method, and in how many of them it was better or worse than no correction."""
    said, beside = [], []
    for study in found["studies"]:
        rows = {row["method"]: row for row in study["rows"]}
        if method in rows:
            said.append(_cost(study, rows, method))
            beside += [_word(rows[method])] if _beside_plain(rows[method]) else []
    if beside:
        better, worse = beside.count("better"), beside.count("worse")
        said.append(
            "against plain training of the same length, so no correction at all, it was clearly better in "
            f"{better} and clearly worse in {worse} of {len(beside)}"
        )
    return said


def _beside_plain(row: dict[str, Any]) -> bool:
    return row.get("over_plain") is not None


def _word(row: dict[str, Any]) -> str:
    """Of the distance against plain training."""
    found = Estimate(row["over_plain"], row["over_plain_low"], row["over_plain_high"], 0)
    return change_word("fd", found)


def _cost(study: dict[str, Any], rows: dict[str, Any], method: str) -> str:
    """One study: the regret of what auto takes and of the best fixed gamma of the paper, and what it is against plain training."""
    mine = rows[method]
    fixed = min(
        (row for name, row in rows.items() if name.startswith("fixed")), key=lambda row: row["regret"], default=None
    )
    seeds = f"{study['seeds']} of {study['planned']} seeds" + (", so provisional" if study["seeds"] == 1 else "")
    within = "within the sweep's noise" if mine["within_noise"] else "more than the sweep's noise"
    text = (
        f"on {study['name']} ({seeds}, {study['budget']} steps) it gave gamma {mine['gamma']:.2f} and cost "
        f"{_regret(mine)} of {mine['at_best']:.1f} in FD, {within}"
    )
    if fixed is not None and fixed["method"] != method:
        text += f" (the paper's {fixed['gamma']:g} cost {fixed['regret']:.1f})"
    if _beside_plain(mine):
        value, low, high = (f"{mine[key]:+.1f}" for key in ("over_plain", "over_plain_low", "over_plain_high"))
        text += f", and against plain training of the same length {value} [{low}, {high}], {_word(mine)}"
    return text


def _regret(row: dict[str, Any]) -> str:
    return f"{row['regret']:.1f} [{row['regret_low']:.1f}, {row['regret_high']:.1f}]"


def pilots(found: dict[str, Any] | None = None) -> str:
    """What the gamma that was best after a shorter training cost in the studies after the longest; empty where none says."""
    found = stored() if found is None else found
    said = []
    for study in found["studies"]:
        early = [row for row in study["rows"] if row["method"].startswith(BEST_AFTER)]
        costs = [f"{_regret(row)} after {row['method'][len(BEST_AFTER) :]}" for row in early]
        if costs:
            said.append(f"on {study['name']} it cost {', '.join(costs)} of {study['length']} steps")
    if not said:
        return ""
    return f"what is best after a short training need not be after a long one: in FD, {'; '.join(said)}"


def outlook(formula: str, found: dict[str, Any] | None = None) -> str:
    """What is foretold of MixFlow's effect: the formula where it carried to image models, else that nothing is, and why.

    Args:
        formula: what `forecast.words` says.
        found: the evidence; the stored one when None.
    """
    seen = (stored() if found is None else found).get("forecast") or {}
    if not seen.get("cells"):
        return ""
    moved = "lowered" if seen["commoner"] == "helps" else "raised"
    where = f"{seen['cells']} settings with a clear effect on image models ({', '.join(seen['studies'])})"
    if seen["right"] > seen["constant"]:
        return f"{formula} In {where} its sign was right in {seen['right']}, the commoner one in {seen['constant']}."
    return (
        f"Whether MixFlow will help is not foretold: the formula formed on mixtures had the sign right in {seen['right']} of "
        f"{where}, and in {seen['constant']} of them MixFlow {moved} the Frechet distance against "
        "plain post-training of the same length. Train a plain control arm beside it."
    )
