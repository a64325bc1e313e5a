"""The excess before and after post-training, one curve an arm."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure
from slowflow.figures.style import INK, ROLE, legend_below, note
from slowflow.results import RunResult


def data(result: RunResult) -> pd.DataFrame:
    """arm, title, role, null, t, excess, low, high under the main reference."""
    if len(result.measurements) < 2:
        raise InputError("before and after need at least two measurements")
    frames = []
    for arm in result.arms:
        if arm.name not in result.measurements:
            continue
        found = result.measurements[arm.name]
        for null in [kind for kind in found.kinds() if kind in ("genuine", "exact")]:
            columns = {f"excess_{null}": "excess", f"excess_{null}_low": "low", f"excess_{null}_high": "high"}
            part = found.summary()[["t", *columns]].rename(columns=columns)
            frames.append(part.assign(arm=arm.name, title=arm.title, role=arm.role, null=null))
    if not frames:
        raise InputError(f"{result.path} was measured without nulls, so there is no excess")
    return pd.concat(frames, ignore_index=True)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a null; the longest post-training of a role is solid, shorter ones are dashed."""
    reach = 1.1 * max(table[["low", "high"]].abs().to_numpy().max(), 0.02)
    names = {"genuine": "above genuine states", "exact": "above a perfect model"}
    for panel, (null, group) in zip(axes, table.groupby("null", sort=False), strict=True):
        panel.axhline(0.0, color=INK, linewidth=1.0)
        seen: set[str] = set()
        for arm, part in group.groupby("arm", sort=False):
            role, again = str(part["role"].iloc[0]), str(part["role"].iloc[0]) in seen
            seen.add(role)
            style = "--" if again else "-"
            panel.fill_between(part["t"], part["low"], part["high"], color=ROLE.get(role, INK), alpha=0.15, linewidth=0)
            label = part["title"].iloc[0] if str(arm) else ""
            panel.plot(part["t"], part["excess"], color=ROLE.get(role, INK), linestyle=style, label=label)
        panel.set(xlim=(0, 1), ylim=(-reach, reach), title=names.get(str(null), str(null)))
        panel.set(xlabel="sampling time t", ylabel="excess in m")
        note(panel, "fast", 0.98, 0.96, ha="right", va="top")
        note(panel, "slow", 0.98, 0.04, ha="right", va="bottom")
    legend_below(axes[0])


def alt(table: pd.DataFrame) -> str:
    """Mean excess of each arm."""
    means = table.groupby(["null", "title"], sort=False)["excess"].mean().reset_index()
    parts = [f"{row['title']} above {row['null']} {row['excess']:+.3f}" for row in means.to_dict("records")]
    return "Excess of the slowed timestep before and after post-training, mean over t: " + "; ".join(parts) + "."


FIGURES.register("before-after", summary="excess before and after post-training, by arm", source="SlowFlow")(
    Figure(
        title="How does the lag differ between arms?",
        caption=(
            "The same measurement on every arm, under the reference of the verdict. A plain arm is ordinary training of the "
            "same length; it differs from MixFlow in the inputs and in the law of t (uniform, not Beta(2,1))."
        ),
        data=data,
        draw=draw,
        panels=lambda table: (table["null"].nunique(), 4.8, 3.8),
        alt=alt,
        arms=True,
    )
)
