"""Measures of the peers, each beside its own null: norms of Epsilon Scaling, its delta, sliced distances."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.style import INK, KIND, KIND_LINE, KIND_NAME, head, legend_below
from slowflow.results import RunResult

NULL = {"norms": "exact", "delta": "exact", "sliced": "genuine"}
SHOWN: dict[str, dict[str, tuple[str, str, float | None]]] = {
    "norms": {
        "velocity_ratio": ("norm of the velocity", "on sampled over genuine states", 1.0),
        "noise_ratio": ("norm of the noise prediction", "on sampled over genuine states", 1.0),
        "lambda": ("lambda of Epsilon Scaling", "noise norm over that of a perfect model", 1.0),
    },
    "delta": {"root": ("signed root of delta", "spread about the start image, less sigma", 0.0)},
    "sliced": {
        "excess": ("sliced: m − m of genuine", "time whose law is nearest; below 0: slow", 0.0),
        "distance": ("sliced: distance left", "what no m explains", None),
    },
}
"""measure -> column of its table -> (name, meaning, what would be no effect)."""


def data(result: RunResult) -> pd.DataFrame:
    """measure, quantity, kind, t, value, low, high; ends of an interval are empty where too few shards were measured."""
    found = result.measured
    frames = []
    for measure in [measure for measure in found.measures if measure in SHOWN]:
        table = found.measure(measure)
        for quantity in SHOWN[measure]:
            for kind, suffix in (("model", ""), (NULL[measure], "_null")):
                name = f"{quantity}{suffix}"
                if name in table and table[name].notna().any():
                    ends = {"value": table[name], "low": table[f"{name}_low"], "high": table[f"{name}_high"]}
                    same = {"measure": measure, "quantity": quantity, "kind": kind, "t": table["t"]}
                    frames.append(pd.DataFrame({**same, **ends}))
    if not frames:
        raise InputError(f"{found.path} holds no measure of peers; measure again with --measure norms")
    return pd.concat(frames, ignore_index=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a quantity, the model in orange and its null beside it."""
    groups = table.groupby(["measure", "quantity"], sort=False)
    for panel, ((measure, quantity), group) in zip(axes, groups, strict=True):
        name, meaning, zero = SHOWN[str(measure)][str(quantity)]
        if zero is not None:
            panel.axhline(zero, color=INK, linewidth=1.0)
        for kind, part in group.groupby("kind", sort=False):
            colour, line = KIND[str(kind)], KIND_LINE[str(kind)]
            panel.fill_between(part["t"], part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
            panel.plot(
                part["t"],
                part["value"],
                color=colour,
                linestyle=line,
                marker="o",
                markersize=3.5,
                label=KIND_NAME[str(kind)],
            )
        head(panel, name, meaning)
        panel.set(xlim=(0, 1.02), xlabel="sampling time t")
    legend_below(axes)


def alt(table: pd.DataFrame) -> str:
    """Every quantity at its last time."""
    last = table[table["t"] == table.groupby(["measure", "quantity"])["t"].transform("max")]
    parts = [
        f"{SHOWN[r['measure']][r['quantity']][0]}, {KIND_NAME[r['kind']]} {r['value']:.3f}"
        for r in last.to_dict("records")
    ]
    return "Measures of the peers beside their nulls, at the last time: " + "; ".join(parts) + "."


FIGURES.register(
    "peers",
    summary="norms, delta and sliced distances beside their nulls",
    source="Epsilon Scaling (2308.15321); Rabin 2011",
)(
    Figure(
        title="What do the peers' measures say?",
        caption=(
            "Measures that other papers use, with the null that they were published without: dashed blue is a perfect model "
            "through the same code, grey genuine states. Bands are 95 % intervals. Only the gap between orange and its null "
            "speaks of this model; the gap to the black line, where there is one, a perfect model may have too."
        ),
        data=data,
        draw=draw,
        panels=lambda table: Panels(len(table[["measure", "quantity"]].drop_duplicates()), 4.2, 3.7, columns=3),
        alt=alt,
    )
)
