"""The fan of slowed timesteps, honest: the paper's Figure 1 with the nulls it lacks."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from slowflow.figures.base import FIGURES, Figure
from slowflow.figures.style import BLUE, GREY, INK, KIND, KIND_NAME, PALE
from slowflow.results import RunResult


def data(result: RunResult) -> pd.DataFrame:
    """reference, kind, t, mean, q05, q95 for every kind measured on the first arm, with the start point (0, 0)."""
    found = result.measured
    rows = []
    for reference in found.references:
        table = found.summary(reference)
        for kind in [kind for kind in found.kinds() if kind != "seen"]:
            columns = {"mean": f"m_{kind}", "q05": f"m_{kind}_q05", "q95": f"m_{kind}_q95"}
            rows.append({"reference": reference, "kind": kind, "t": 0.0, "mean": 0.0, "q05": 0.0, "q95": 0.0})
            for _, row in table.iterrows():
                values = {name: float(row[column]) for name, column in columns.items()}
                rows.append({"reference": reference, "kind": kind, "t": float(row["t"]), **values})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a reference: grey = genuine states, dashed blue = a perfect model, orange = this model."""
    for panel, (reference, group) in zip(axes, table.groupby("reference", sort=False), strict=True):
        panel.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":", label="m = t")
        for kind, colour, alpha in (("genuine", PALE, 1.0), ("model", KIND["model"], 0.28)):
            part = group[group["kind"] == kind]
            if len(part):
                panel.fill_between(part["t"], part["q05"], part["q95"], color=colour, alpha=alpha, linewidth=0)
        for kind, style in (("genuine", "-"), ("exact", "--"), ("model", "-")):
            part = group[group["kind"] == kind]
            if len(part):
                colour = {"genuine": GREY, "exact": BLUE, "model": KIND["model"]}[kind]
                panel.plot(part["t"], part["mean"], color=colour, linestyle=style, label=KIND_NAME[kind])
        panel.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", title=f"reference: {reference}")
        panel.set(xlabel="sampling time t   (0 noise, 1 data)", ylabel="nearest ground-truth time m")
        panel.legend(loc="upper left")


def alt(table: pd.DataFrame) -> str:
    """Where the bands end."""
    parts = []
    for reference, group in table.groupby("reference", sort=False):
        late = group[group["t"] > 0.75].groupby("kind").first()
        means = ", ".join(f"{KIND_NAME[str(kind)]} {row['mean']:.2f}" for kind, row in late.iterrows())
        parts.append(f"under '{reference}' at t = {late['t'].iloc[0]:.2f} the mean m is: {means}")
    return "Nearest ground-truth time against sampling time; " + "; ".join(parts) + "."


FIGURES.register(
    "fan", summary="slowed timestep m against t, with null bands", source="MixFlow (arXiv 2512.19311), Figure 1"
)(
    Figure(
        title="How slow do generated states run?",
        caption=(
            "For every generated state, the ground-truth time m it is nearest to. Orange: this model (line: mean, band: 5 to "
            "95 % of samples). Grey: real interpolations of held-out images through the same code. Dashed blue: a perfect "
            "model with a fine solver. Only what separates orange from grey and from blue is about this model; the distance "
            "from the dotted diagonal is not. Where blue leaves grey, the reference itself is not at zero: 'own' follows the "
            "bend of any model's paths, 'nearest' also how far samples are from every real image; 'level' reads the noise "
            "in a state and has neither."
        ),
        data=data,
        draw=draw,
        panels=lambda table: (table["reference"].nunique(), 4.6, 4.7),
        alt=alt,
    )
)
