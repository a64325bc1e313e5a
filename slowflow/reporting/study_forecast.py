"""Does the forecast of MixFlow's sign, formed on mixtures, carry to the models of a study? Counted on every clear effect.

A setting is (gamma above 0, length, step count); its effect is the Frechet distance minus that of plain post-training of the same
length, and it counts where the effect's 95 % interval excludes zero. Settings share runs: they are counted, not tested.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from slowflow.measuring import forecast
from slowflow.measuring.slack import Slack
from slowflow.reporting.study_parts import base_measured
from slowflow.sweep.folder import CONTROL, SWEPT, StudyResult
from slowflow.sweep.pooled import differences

COLUMNS = ["study", "gamma", "length", "budget", "value", "low", "high", "chance", "beyond", "helps"]


def foretold(study: StudyResult) -> pd.DataFrame:
    """One row a setting: its effect, what was foretold, and what lies beyond the studied range.

    Empty where the base was not measured by `level`, its pretraining is not known, or no arm can be compared with plain.
    """
    measured, base = base_measured(study), study.protocol.get("base")
    if measured is None or not base or CONTROL not in study.arms:
        return pd.DataFrame(columns=COLUMNS)
    kinds = measured.readings().get("level", {})
    model, genuine = kinds.get("model"), kinds.get("genuine")
    if not isinstance(model, Slack) or not isinstance(genuine, Slack):
        return pd.DataFrame(columns=COLUMNS)
    seen = float(base["train"]["steps"]) * base["train"]["batch_size"]
    changed = differences(study, CONTROL)
    changed = changed[(changed["metric"] == "fd") & (changed["group"] == SWEPT) & (changed["gamma"] > 0.0)]
    rows = []
    for one in changed.to_dict("records"):
        length = one["length"] * study.protocol["train"]["batch_size"] / seen
        known = forecast.outlook(model, genuine, float(one["gamma"]), length)
        kept = {key: one[key] for key in ("gamma", "length", "budget", "value", "low", "high")}
        rows.append(
            {
                "study": study.protocol["name"],
                **kept,
                "chance": forecast.chance(known),
                "beyond": " and ".join(known.beyond),
                "helps": one["value"] < 0.0,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def score(table: pd.DataFrame) -> dict[str, Any]:
    """cells with a clear effect, how many signs were right, the commoner sign and how often it is right, and how many of
    the cells the forecast declines to answer because they lie beyond what it was formed on."""
    clear = table[(table["low"] > 0.0) | (table["high"] < 0.0)]
    helps = int(clear["helps"].sum())
    return {
        "studies": [str(name) for name in clear["study"].unique()],
        "cells": len(clear),
        "right": int(((clear["chance"] > 0.5) == clear["helps"]).sum()),
        "commoner": "helps" if 2 * helps > len(clear) else "hurts",
        "constant": max(helps, len(clear) - helps),
        "declined": int((clear["beyond"] != "").sum()),
    }
