"""Every estimate of gamma with its interval."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.figures.base import FIGURES, Figure
from slowflow.figures.style import BLUE, INK, ORANGE
from slowflow.results import RunResult

MEANING = {
    "band": "band: width of the raw fan",
    "q50": "raw fan, line through the median",
    "q90": "raw fan, line above 90 %",
    "excess_genuine": "excess over genuine states",
    "excess_exact": "excess over a perfect model",
    "excess_coarse": "excess over a perfect model, same steps",
    "spread": "spread over genuine states",
    "edge": "edge over genuine states",
    "slope": "excess left at step size zero",
    "step_term": "excess due to the step size",
    "floor": "what the instrument makes by itself",
    "guided_minus_unguided": "what guidance adds",
}
OF_CLOCK = {
    "genuine": MEANING["excess_genuine"],
    "exact": MEANING["excess_exact"],
    "coarse": MEANING["excess_coarse"],
    **MEANING,
}


def meaning(name: str) -> str:
    """What an estimate says; those of a clock carry its name first."""
    clock, _, rest = name.partition("_")
    if clock in ("signal", "noise") and rest in OF_CLOCK:
        return f"{clock} clock: {OF_CLOCK[rest]}"
    return MEANING.get(name, name)


def data(result: RunResult) -> pd.DataFrame:
    """name, meaning, value, low, high, chosen."""
    fit = result.fit
    rows = [
        {
            "name": name,
            "meaning": meaning(name),
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "chosen": name == fit.method,
        }
        for name, one in fit.estimates.items()
    ]
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """A dot and a bar an estimate; the recommended one in orange."""
    panel = axes[0]
    panel.axvline(0.0, color=INK, linewidth=1.0)
    for row, entry in enumerate(table.to_dict("records")):
        colour = ORANGE if entry["chosen"] else BLUE
        panel.hlines(row, entry["low"], entry["high"], color=colour, linewidth=3, alpha=0.5)
        panel.plot([entry["value"]], [row], "o", color=colour)
        label = f"{entry['value']:.3f}".replace("-", "−")
        panel.annotate(
            label,
            (entry["value"], row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            backgroundcolor="white",
        )
    panel.set_yticks(range(len(table)), list(table["meaning"]))
    panel.invert_yaxis()
    panel.set(xlabel="gamma (width of [(1−γ)t, t]; negative = fast)")
    panel.margins(y=0.2)


def alt(table: pd.DataFrame) -> str:
    """All values."""
    parts = [f"{row.meaning} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples()]
    return "Estimates of gamma with 95 % intervals: " + "; ".join(parts) + "."


FIGURES.register("gamma", summary="every estimate of gamma with its interval", source="SlowFlow")(
    Figure(
        title="Which gamma follows?",
        caption=(
            "Two kinds of gamma that answer different questions. The band (orange, recommended) is the width of the raw "
            "fan and contains what a perfect model draws too; the excess is what is left above a null and says how much "
            "exposure bias there is; for the two clocks it is the same excess of signal and noise, read apart. "
            "Which of them makes the better post-training is an open question."
        ),
        data=data,
        draw=draw,
        panels=lambda table: (1, 7.5, 1.1 + 0.5 * len(table)),
        alt=alt,
    )
)
