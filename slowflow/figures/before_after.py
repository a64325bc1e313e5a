"""The excess before and after post-training under every reading of the verdict, one curve an arm."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import shade_unused, signed_scale
from slowflow.figures.style import INK, KIND_NAME, ROLE, head, legend_below
from slowflow.results import RunResult

NULLS = ("genuine", "exact")


def data(result: RunResult) -> pd.DataFrame:
    """reading, null, arm, title, role, t, excess, low, high, used (whether this time enters a gamma)."""
    if len(result.measurements) < 2:
        raise InputError("before and after need at least two measurements")
    arms = [arm for arm in result.arms if arm.name in result.measurements]
    frames = []
    for reading in result.heard:
        measured = [arm for arm in arms if reading in result.measurements[arm.name].readings()]
        tables = {arm.name: result.measurements[arm.name].summary(reading) for arm in measured}
        for null in NULLS:
            columns = {f"excess_{null}": "excess", f"excess_{null}_low": "low", f"excess_{null}_high": "high"}
            for arm in [arm for arm in measured if f"excess_{null}" in tables[arm.name]]:
                names = {"reading": reading, "null": null, "arm": arm.name, "title": arm.title, "role": arm.role}
                part = tables[arm.name][["t", *columns]].rename(columns=columns)
                used = np.isin(part["t"], result.curves[reading].t)
                frames.append(part.assign(used=used, **names)[[*names, "t", "excess", "low", "high", "used"]])
    if not frames:
        raise InputError(f"{result.path} was measured without nulls, so there is no excess")
    return pd.concat(frames, ignore_index=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A row a reading, a panel a null; the longest post-training of a role is solid, shorter ones are dashed."""
    reach = {str(r): g[g["used"]][["low", "high"]].to_numpy().ravel() for r, g in table.groupby("reading", sort=False)}
    pairs = table.groupby(["reading", "null"], sort=False)
    for panel, ((reading, null), group) in zip(axes, pairs, strict=True):
        signed_scale(panel, reach[str(reading)], above="fast", below="slow")
        seen: set[str] = set()
        for arm, part in group.groupby("arm", sort=False):
            role, again = str(part["role"].iloc[0]), str(part["role"].iloc[0]) in seen
            seen.add(role)
            style = "--" if again else "-"
            panel.fill_between(part["t"], part["low"], part["high"], color=ROLE.get(role, INK), alpha=0.15, linewidth=0)
            label = part["title"].iloc[0] if str(arm) else ""
            panel.plot(part["t"], part["excess"], color=ROLE.get(role, INK), linestyle=style, label=label)
        first = group[group["arm"] == group["arm"].iloc[0]]
        shade_unused(panel, first["t"].to_numpy(), first["used"].to_numpy())
        head(panel, str(reading), f"above {KIND_NAME[str(null)]}")
        panel.set(xlabel="sampling time t", ylabel="m(arm) − m(null)")
    legend_below(axes)


def alt(table: pd.DataFrame) -> str:
    """Mean excess of each arm."""
    means = table[table["used"]].groupby(["reading", "null", "title"], sort=False)["excess"].mean().reset_index()
    parts = [f"{r['reading']}, {r['title']} above {r['null']} {r['excess']:+.3f}" for r in means.to_dict("records")]
    return "Excess of the slowed timestep before and after post-training, mean over t: " + "; ".join(parts) + "."


def panels(table: pd.DataFrame) -> Panels:
    """Nulls beside each other, readings below each other."""
    pairs = table[["reading", "null"]].drop_duplicates()
    return Panels(len(pairs), 5.2, 3.4, columns=max(pairs["null"].nunique(), 1))


FIGURES.register("before-after", summary="excess before and after post-training, by arm", source="SlowFlow")(
    Figure(
        title="How does the lag differ between arms?",
        caption=(
            "The same measurement on every arm, under the readings of the verdict; left above genuine states, right above a "
            "perfect model, below zero = slow. A plain arm is ordinary training of the same length; it differs from MixFlow "
            "in the inputs and in the law of t (uniform, not Beta(2,1)). Scales differ between readings; shaded times "
            "enter no gamma."
        ),
        data=data,
        draw=draw,
        panels=panels,
        alt=alt,
        arms=True,
    )
)
