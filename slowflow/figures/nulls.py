"""Null gallery: what every reading says of states that do not lag. Whatever is off the diagonal here is an artefact."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from slowflow.errors import InputError
from slowflow.figures.base import FIGURES, Figure, Panels
from slowflow.figures.readings import headed
from slowflow.figures.style import INK, KIND, KIND_LINE, KIND_NAME, PALE, READING, head, legend_below, note, number
from slowflow.figures.zeros import zeros
from slowflow.measuring.calibration.calibration import Calibration
from slowflow.results import RunResult

NULLS = ("genuine", "exact", "coarse")
CURVE, SIZE, ABOVE = "curve", "against the diagonal", "above genuine"
USABLE, UNUSABLE = "calibration, usable", "calibration, not usable"
MARKER = {"gaussian": "o", "mixture": "s", "finite": "D"}
"""Worlds of a calibration."""


def data(result: RunResult) -> pd.DataFrame:
    """part, reading, kind, x, value, low, high.

    part says what value is. curve: mean m at x = t. against the diagonal: gamma that a raw reading would name. above
    genuine: gamma of a perfect model over genuine states. calibration: gamma found where x was planted, kind is the world.
    """
    rows = _measured(result) if result.measurements or not result.calibrations else []
    rows += [row for calibration in result.calibrations for row in _calibrated(calibration)]
    return pd.DataFrame(rows)[["part", "reading", "kind", "x", "value", "low", "high"]]


def _measured(result: RunResult) -> list[dict[str, Any]]:
    found = result.measured
    rows: list[dict[str, Any]] = []
    for reading, kinds in found.readings().items():
        table = found.summary(reading)
        for kind in [kind for kind in NULLS if kind in kinds]:
            ends = {end: table[f"m_{kind}_{end}"] for end in ("low", "high")}
            part = pd.DataFrame({"x": table["t"], "value": table[f"m_{kind}"], **ends})
            rows += _records(part.assign(part=CURVE, reading=reading, kind=kind))
    if not rows:
        raise InputError(f"{found.path} was measured without nulls, so nothing says where zero is")
    for zero in zeros(result):
        for kind, one in zero.raw.items():
            rows.append({"part": SIZE, "reading": zero.reading, "kind": kind, **_row(one)})
        if zero.artefact is not None:
            rows.append({"part": ABOVE, "reading": zero.reading, "kind": "exact", **_row(zero.artefact)})
    return rows


def _calibrated(calibration: Calibration) -> list[dict[str, Any]]:
    """Controls whose truth is known."""
    usable, rows = calibration.usable, calibration.rows
    known = rows[rows["truth"].notna()].rename(columns={"field": "kind", "truth": "x", "found": "value"})
    parts = known["reading"].map(lambda reading: USABLE if reading in usable else UNUSABLE)
    return _records(known.assign(part=parts)[["part", "reading", "kind", "x", "value", "low", "high"]])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _row(one: Any) -> dict[str, float]:
    return {"x": float("nan"), "value": one.value, "low": one.low, "high": one.high}


def draw(table: pd.DataFrame, axes: list[Axes]) -> None:
    """One panel a reading, then the sizes side by side, then the calibration where there is one."""
    curves, above = table[table["part"] == CURVE], table[table["part"] == ABOVE]
    artefact = dict(zip(above["reading"], above["value"], strict=True))
    for panel, (reading, group) in zip(axes, curves.groupby("reading", sort=False), strict=False):
        panel.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":", label="m = t")
        for kind, part in group.groupby("kind", sort=False):
            colour = KIND[str(kind)]
            panel.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
            label = KIND_NAME[str(kind)]
            panel.plot(part["x"], part["value"], color=colour, linestyle=KIND_LINE[str(kind)], label=label)
        headed(panel, str(reading))
        panel.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        panel.set(xlabel="sampling time t", ylabel="ground-truth time m")
        if reading in artefact:
            text = f"perfect above genuine:\nγ {number(artefact[reading], signed=True)}"
            note(panel, text, 0.97, 0.04, ha="right", va="bottom")
    shown = curves["reading"].nunique()
    if shown:
        _sizes(axes[shown], table[table["part"] == SIZE])
        legend_below(axes[:shown], columns=5)
    calibrated = table[table["part"].isin((USABLE, UNUSABLE))]
    if len(calibrated):
        _calibration(axes[-1], calibrated)


def _sizes(panel: Axes, table: pd.DataFrame) -> None:
    """gamma that each raw reading would name, for states that do not lag and for this model."""
    panel.axvline(0.0, color=INK, linewidth=1.0)
    names = list(table["reading"].unique())
    for kind in ("coarse", "genuine", "exact", "model", "unguided"):
        part = table[table["kind"] == kind]
        rows = [names.index(reading) for reading in part["reading"]]
        marker = {"model": "o", "unguided": "o", "exact": "D", "genuine": "s", "coarse": "x"}[kind]
        if kind != "coarse":
            panel.hlines(rows, part["low"], part["high"], color=KIND[kind], linewidth=2, alpha=0.5)
        panel.plot(part["value"], rows, marker, color=KIND[kind], markersize=5, linestyle="none")
    for y, name in enumerate(names):
        panel.axhline(y, color=PALE, linewidth=0.6, zorder=0)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        panel.annotate(name, (0.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9, bbox=box)
    low, high = min(table["low"].min(), 0.0), max(table["high"].max(), 0.0)
    panel.set_xlim(low - 0.5 * (high - low), high + 0.05 * (high - low))
    head(panel, "size of the artefact", "gamma that a raw reading would name; orange: this model")
    panel.set(ylim=(len(names) - 0.5, -0.9), yticks=[], xlabel="gamma against the diagonal")
    panel.grid(axis="y", visible=False)


def _calibration(panel: Axes, table: pd.DataFrame) -> None:
    """gamma found against gamma planted; readings that are not usable here in grey."""
    reach = [min(table["x"].min(), 0.0) - 0.1, table["x"].max() + 0.1]
    panel.plot(reach, reach, color=INK, linewidth=0.9, linestyle=":")
    rest = textwrap.fill(", ".join(table[table["part"] == UNUSABLE]["reading"].unique()), 24)
    for place, ((part, reading), group) in enumerate(table.groupby(["part", "reading"], sort=False)):
        used = part == USABLE
        colour = READING.get(str(reading), INK) if used else PALE
        for world, dots in group.groupby("kind", sort=False):
            x = dots["x"] + 0.006 * place
            panel.vlines(x, dots["low"], dots["high"], color=colour, linewidth=1, zorder=2 if used else 1)
            panel.plot(
                x, dots["value"], MARKER.get(str(world), "o"), color=colour, markersize=5, zorder=3 if used else 1
            )
        if used:
            panel.plot([], [], "o", color=colour, label=str(reading))
    if rest:
        panel.plot([], [], "o", color=PALE, label=f"not usable here:\n{rest}")
    shapes = "circles gaussian, squares mixture, diamonds the user's own images"
    head(panel, "calibration: planted and found", shapes)
    found = min(table["value"].min(), reach[0]), max(table["value"].max(), reach[1])
    panel.set(xlim=reach, xlabel="gamma planted", ylabel="gamma found")
    panel.set_ylim(found[0] - 0.1, found[1] + 0.25 * (found[1] - found[0]))
    panel.legend(loc="upper left")


def alt(table: pd.DataFrame) -> str:
    """The sizes."""
    if not (table["part"] == SIZE).any():
        used = ", ".join(table[table["part"] == USABLE]["reading"].unique()) or "none"
        return f"The gamma found against the gamma planted in {len(table)} controls; usable readings: {used}."
    rows = table[(table["part"] == SIZE) & (table["kind"] == "exact")].to_dict("records")
    rows = rows or table[(table["part"] == SIZE) & (table["kind"] == "genuine")].to_dict("records")
    parts = [f"{r['reading']} {r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in rows]
    who = KIND_NAME[rows[0]["kind"]]
    return f"The gamma that each raw reading would name for {who}, which does not lag: " + "; ".join(parts) + "."


def panels(table: pd.DataFrame) -> Panels:
    """One a reading, one for the sizes, one for the calibration."""
    readings = table[table["part"] == CURVE]["reading"].nunique()
    count = (readings + 1 if readings else 0) + int(table["part"].isin((USABLE, UNUSABLE)).any())
    return Panels(count, 3.7 if readings else 6.0, 4.0, stretch=True)


FIGURES.register("nulls", summary="what every reading says of states that do not lag", source="SlowFlow")(
    Figure(
        title="Where is the zero of each reading?",
        caption=(
            "Nothing in these panels lags: grey are real interpolations, dashed blue a perfect model with a fine solver, light "
            "blue the same perfect model under the user's steps. What lies off the dotted diagonal is made by the reading. Last "
            "panel: the gamma that a raw reading would name for each of them, with this model in orange; only the part of "
            "orange beyond grey and beyond blue is about the model. Where a calibration was made: effects of known size, "
            "planted in states like these; dots on the dotted line are read as they are."
        ),
        data=data,
        draw=draw,
        panels=panels,
        alt=alt,
    )
)
