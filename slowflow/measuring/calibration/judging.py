"""From rows to a judgement: which measure may be used here, and why not.

A reading is usable when, in every world, the null is at zero (its interval holds 0, or it is within ZERO of it) and every
known lag comes back with its sign and within TOLERANCE of its size. The other controls are shown and asked as far as their
truth is known, but do not decide: they say how a reading answers to effects that are no lag.

    size    a shift; a fault or noise on the Gaussian world: within TOLERANCE or ZERO of the truth, or an interval that holds it
    sign    a fault or noise on another world, where the Gaussian truth could be seen at this n
    still   a swap under a reading that pairs states with nothing: it must not move

detectable = (1.96 + 0.84) x standard error of the null: the smallest excess seen in 80 % of measurements at this n.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from slowflow.config import canonical
from slowflow.measuring.calibration.controls import CONTROLS
from slowflow.measuring.references import REFERENCES
from slowflow.measuring.verdict import ZERO_ERROR
from slowflow.records import Estimate

ZERO = ZERO_ERROR
TOLERANCE = 0.25
POWER = 1.96 + 0.84
"""Two-sided 5 % and power 80 %, in standard errors."""
RATIO_AT = "lag 0.5"
"""The lag whose recovery is quoted."""
NOTHING_MOVED = 1e-9
COARSE = 0.2
"""Detectable excess from which a usable reading is called coarse: it needs more samples."""
SORTS = {control.name: control.sort for control in CONTROLS}


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `asked` (zero, lag, size, sign, still or empty) and `ok` (None where nothing was asked)."""
    gaussian = rows[rows["field"] == "gaussian"].set_index(["reading", "control"])["truth"]
    nulls = rows[rows["control"] == "null"].set_index(["reading", "field"])["error"]
    asked, ok = [], []
    for row in rows.to_dict("records"):
        near = float(gaussian[row["reading"], row["control"]])
        question = _question(row, near, POWER * float(nulls[row["reading"], row["field"]]))
        asked.append(question)
        ok.append(_answer(question, row, near))
    return rows.assign(asked=asked, ok=pd.Series(ok, dtype=object, index=rows.index))


def _question(row: dict[Any, Any], near: float, visible: float) -> str:
    """What can be asked of a row; near: the truth on the Gaussian world, visible: the detectable excess."""
    sort = SORTS[row["control"]]
    if sort in ("zero", "lag"):
        return sort
    if sort == "swap":
        return "" if REFERENCES.get(row["reference"]).shares_noise else "still"
    if math.isnan(near):
        return ""
    if sort == "shift" or row["field"] == "gaussian":
        return "size"
    return "sign" if abs(near) > max(ZERO, visible) else ""


def _answer(question: str, row: dict[Any, Any], near: float) -> bool | None:
    found, truth = row["found"], row["truth"]
    if question == "":
        return None
    if question == "zero":
        return bool(row["low"] <= 0.0 <= row["high"] or abs(found) <= ZERO)
    if question == "lag":
        return bool(abs(found - truth) <= TOLERANCE * truth)
    if question == "size":
        held = row["low"] <= truth <= row["high"]
        return bool(held or abs(found - truth) <= max(TOLERANCE * abs(truth), ZERO))
    return bool(found * near > 0) if question == "sign" else bool(abs(found) <= NOTHING_MOVED)


def by_reading(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """reading -> usable, null_bias, recovered, detectable, swap, planted, reason; estimates are the worst of all worlds."""
    return {str(name): _one(own) for name, own in rows.groupby("reading", sort=False)}


def _one(own: pd.DataFrame) -> dict[str, Any]:
    nulls, halves = own[own["control"] == "null"], own[own["control"] == RATIO_AT]
    deciding = own[own["asked"].isin(["zero", "lag"])]
    failed = deciding[~deciding["ok"].astype(bool)]
    ratio = halves.iloc[_worst(halves["found"] / halves["truth"] - 1.0)]
    bias = nulls.iloc[_worst(nulls["found"])]
    planted = own[own["asked"].isin(["size", "sign"])]
    swaps = {what: own[own["control"] == f"{what} swap"]["found"] for what in ("endpoint", "noise")}
    found = {
        "reference": str(own["reference"].iloc[0]),
        "usable": failed.empty,
        "null_bias": canonical(_estimate(bias)),
        "recovered": canonical(_estimate(ratio, float(ratio["truth"]))),
        "detectable": float(POWER * nulls["error"].max()),
        "swap": {what: float(moved.iloc[_worst(moved)]) for what, moved in swaps.items()},
        "planted": {"ok": int(planted["ok"].astype(bool).sum()), "asked": len(planted)},
    }
    return {**found, "reason": _reason(own, failed, found["detectable"])}


def _worst(values: pd.Series) -> int:
    """Position of the value furthest from 0; one that is missing is worse than any."""
    return int(values.abs().fillna(math.inf).to_numpy().argmax())


def _estimate(row: pd.Series, unit: float = 1.0) -> Estimate:
    return Estimate(float(row["found"]) / unit, float(row["low"]) / unit, float(row["high"]) / unit, int(row["n"]))


def _reason(own: pd.DataFrame, failed: pd.DataFrame, detectable: float) -> str:
    """One sentence: the first control that failed, the nulls first, or that all is well."""
    if failed.empty:
        lags = own[own["asked"] == "lag"]
        ratios = lags["found"] / lags["truth"]
        coarse = ", but coarse" if detectable > COARSE else ""
        return (
            f"usable here{coarse}: a perfect model is at zero, known lags come back at {ratios.min():.2f} to "
            f"{ratios.max():.2f} of their size, and an excess gamma from {detectable:.3f} on would be seen"
        )
    first = failed.sort_values("asked", ascending=False, kind="stable").iloc[0]
    read = f"{_estimate(first)} in the {first['field']} world"
    if first["asked"] == "zero":
        return f"not usable here: a perfect model reads gamma {read}, not 0"
    return f"not usable here: a known lag of gamma {first['truth']:.1f} reads {read}"
