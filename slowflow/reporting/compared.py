"""Runs side by side in lines of text, as the command line and a notebook print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from slowflow.records import Estimate, change_word
from slowflow.sweep.pooled import at_longest

CLEAR = "better, worse, slower, faster: 95 % interval clear of zero; one in 20 by chance"


def difference_lines(table: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """A block for every metric and arm, or for every step count where there are many arms; arms of a study at their longest.

    Args:
        table: the differences of a comparison.
        labels: metric -> printed name.
    """
    shown = at_longest(table) if "length" in table else table
    lines = []
    for keys, group in shown.groupby(["against", "metric"], sort=False):
        other, metric = map(str, keys)
        name = labels.get(metric, metric).replace("lag (", "lag in units of gamma (")
        lines += _block(name, other, metric, group)
    return lines


def regret_lines(table: pd.DataFrame | None, name: str) -> list[str]:
    """What a suggested gamma, and no correction, cost against the best of the sweep after the longest training.

    Args:
        table: the regret of a comparison.
        name: of the metric, printed.
    """
    if table is None:
        return []
    lines = []
    last = table[(table["length"] == table["length"].max()) & (table["metric"] == "fd")]
    for keys, rows in last.groupby(["study", "budget"], sort=False):
        study, steps = map(str, keys)
        of = f"{study}: " if last["study"].nunique() > 1 else ""
        lines += ["", f"{of}regret in {name} at {steps} steps (best of the sweep: gamma {rows['best'].iloc[0]:g})"]
        for row in rows.to_dict("records"):
            gamma = " " * 11 if pd.isna(row["gamma"]) else f"gamma {row['gamma']:.3f}"
            word = "within the sweep's noise" if row["within_noise"] else "more than the sweep's noise"
            word = "better than the best gamma" if row["high"] < 0.0 else word
            lines.append(f"  {row['method']:<13} {gamma}  {_signed(row)}  {word}")
    return lines


def after(row: Mapping[Any, Any]) -> str:
    """The length of training behind a number; nothing for an arm without one."""
    return f"  after {row['length']:,} steps" if row.get("length") else ""


def _block(name: str, other: str, metric: str, table: pd.DataFrame) -> list[str]:
    """One metric of one or several arms, minus that of another: a block for all step counts, or one each for many arms."""
    lines = []
    alone, column = table["arm"].nunique() == 1, "budget" if "budget" in table else "steps"
    for steps, rows in [(0, table)] if alone else table.groupby(column, sort=False):
        where = f" of {table['arm'].iloc[0]}" if alone else f" at {int(str(steps))} steps"
        lines += ["", f"{name}{where}, minus that of {other}"]
        for row in rows.to_dict("records"):
            of = f"{row[column]:>5} steps" if alone else f"{row['arm']:<28}"
            lines.append(f"  {of} {_signed(row)}{after(row)}{_word(metric, row)}")
    return lines


def _signed(row: Mapping[Any, Any]) -> str:
    return f"{row['value']:+9.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _word(metric: str, row: Mapping[Any, Any]) -> str:
    """What a difference clear of zero means; nothing for one that is not clear."""
    found = Estimate(row["value"], row["low"], row["high"], row["n"])
    if not found.excludes(0.0):
        return ""
    if metric.startswith("lag"):
        return "  slower" if found.value > 0 else "  faster"
    return f"  {change_word(metric, found)}"
