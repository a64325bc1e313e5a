"""Render a report: figures as inline images, text from numbers, one HTML file that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from slowflow.errors import InputError
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER, Evaluation
from slowflow.figures import FIGURES
from slowflow.figures.base import rendered
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.measurement import Measurement
from slowflow.measuring.named import place
from slowflow.records import Estimate
from slowflow.reporting import text
from slowflow.reporting.citations import citations
from slowflow.reporting.published import table
from slowflow.reporting.reading import passages
from slowflow.results import Arm, RunResult

CARRY, MOST = ("fan", "excess", "quality", "gamma", "samples"), 3
"""What may carry the verdict: the first three there are data for stand right below it."""
ORDER = ("fan", "excess", "clocks", "causes", "gamma-fit", "nulls", "gamma", "quality", "samples", "before-after")
DEPTH = ("trajectories", "slack", "training", "peers")
"""All figures in reading order."""
RASTER = ("samples", "trajectories")
FAMILIES = {
    "raw": "raw fan, no null taken off",
    "excess": "excess of the main reference",
    "signal": "excess by the signal clock",
    "noise": "excess by the noise clock",
}


@dataclass(frozen=True)
class Picture:
    """A figure ready for the page."""

    name: str
    title: str
    caption: str
    alt: str
    uri: str
    width: int


def pictures(result: RunResult, names: Sequence[str] = (*ORDER, *DEPTH)) -> list[Picture]:
    """Every one of these figures that the result has data for."""
    found = []
    for name in names:
        try:
            found.append(picture_of(name, result))
        except InputError:
            continue  # this result has no such data; the page then has no such figure
    return found


def picture_of(name: str, result: RunResult) -> Picture:
    """One figure of a result.

    Raises:
        InputError: the result has no data for it.
    """
    figure = FIGURES.get(name)
    table = figure.data(result)
    suffix = "png" if name in RASTER else "svg"
    kind = "image/png" if suffix == "png" else "image/svg+xml"
    payload = base64.b64encode(rendered(figure, table, suffix)).decode()
    uri, width = f"data:{kind};base64,{payload}", round(110 * figure.panels(table).inches[0])
    return Picture(name, figure.title, figure.caption, figure.alt(table), uri, width)


def quality_rows(result: RunResult) -> list[dict[str, Any]]:
    """Rows of the table: one a metric and step count, a cell an arm."""
    if not result.evaluations:
        return []
    arms = [arm for arm in result.arms if arm.name in result.evaluations]
    found = {arm.name: result.evaluations[arm.name] for arm in arms}
    metrics = [metric for metric in HIGHER_IS_BETTER if any(metric in one.metrics for one in found.values())]
    rows = []
    for metric in metrics:
        for steps in sorted({steps for one in found.values() for steps in one.steps}):
            cells = [_cell(one, metric, steps) for one in found.values()]
            rows.append({"metric": next(iter(found.values())).label(metric), "steps": steps, "cells": cells})
    return rows + _infinite_rows(found)


def _infinite_rows(found: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """What of the Frechet distance is there because n is finite: its value without that, where n was enough to tell."""
    rows = []
    for steps in sorted({steps for one in found.values() for steps in one.steps}):
        known = [one.infinite.get(steps) for one in found.values()]
        if any(known):
            name = f"{next(iter(found.values())).label('fd')} at infinite n"
            cells = ["–" if one is None else text.plain(one, 1) for one in known]
            rows.append({"metric": name, "steps": steps, "cells": cells})
    return rows


def _cell(found: Evaluation, metric: str, steps: int) -> str:
    """A number with its interval, or a dash where it was not evaluated."""
    if metric not in found.metrics or steps not in found.steps:
        return "–"
    return text.plain(found.estimate(metric, steps), 1 if metric in ("fd", "sfd", "is") else 3)


def lag_rows(result: RunResult) -> list[dict[str, Any]]:
    """Rows of the table of lags, a cell an arm: the verdicts, then every estimate under the name of its group."""
    fits = [result.measurements[arm.name].suggest() for arm in measured_arms(result)]
    rows: list[dict[str, Any]] = [
        {"group": "", "name": "verdict", "cells": [fit.verdict for fit in fits]},
        {"group": "", "name": "shape", "cells": [fit.shape for fit in fits]},
        {"group": "", "name": "gap in log SNR", "cells": [_or_dash(fit.log_snr_gap) for fit in fits]},
    ]
    names = dict.fromkeys(name for fit in fits for name in fit.estimates)
    for family, group in FAMILIES.items():
        for name in [name for name in names if place(name)[0] == family]:
            cells = [_or_dash(fit.estimates.get(name)) for fit in fits]
            rows.append({"group": group, "name": place(name)[1], "cells": cells})
    return rows


def measured_arms(result: RunResult) -> list[Arm]:
    """Arms that were measured."""
    return [arm for arm in result.arms if arm.name in result.measurements]


def _or_dash(found: Estimate | None) -> str:
    return "–" if found is None else text.plain(found, 3)


def cause_rows(result: RunResult) -> list[dict[str, Any]]:
    """Rows of the table of causes: one a reading; shares only where the lag is clear of zero."""
    if result.diagnosis is None:
        return []
    rows = []
    for name, division in result.diagnosis.divisions.items():
        cells = [{"text": text.signed(division.lag, 3), "share": "" if division.clear else "not clear of zero"}]
        for part, one in division.parts.items():
            share = f"{text.percent(division.shares[part].value)} of it" if division.clear else ""
            cells.append({"text": text.signed(one, 3), "share": share})
        rows.append({"reading": name, "cells": cells})
    return rows


def more_causes(result: RunResult) -> dict[str, str]:
    """What else a diagnosis found, in a line each."""
    found = result.diagnosis
    if found is None:
        return {}
    trips = ", ".join(f"{text.plain(found.mean(f'roundtrip-{n}'), 3)} at {n} steps" for n in found.counts)
    law = "; ".join(f"{name} {text.plain(one, 3)}" for name, one in found.noise_law().items())
    share, divergence = found.off_path
    return {
        "samples": str(found.facts["samples"]),
        "step counts": ", ".join(map(str, found.counts)),
        "off the path": f"{text.plain(share, 3)} of a divergence of {text.plain(divergence, 3)} nats from real states",
        "round trip": f"a real state taken to noise and back, distance over its norm: {trips} (the step size alone)",
        "inverted noise": f"{law} (1 for every energy and 3 for the fourth moment in a perfect model)",
        "bend of the paths": f"{text.plain(found.mean('bend'), 3)} (0 for straight ones)",
    }


def readable(protocol: dict[str, Any]) -> dict[str, str]:
    """A protocol in words: nested values in a row, empty ones left out."""
    return {key: _said(value) for key, value in protocol.items() if value is not None}


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items() if one is not None)
    return ", ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)


def comparison_rows(result: RunResult) -> list[dict[str, Any]]:
    """MixFlow against plain of the same length, and against the start: every metric, every step count."""
    rows = []
    for mixed, control in text.pairs(result):
        for other in (control, result.base):
            if not {mixed.name, other.name} <= result.evaluations.keys():
                continue
            for steps in result.evaluations[mixed.name].steps:
                found = text.changes(result, mixed, other, steps)
                cells = [
                    {"text": text.signed(c.estimate, text.decimals(c.metric, c.estimate)), "word": c.word}
                    for c in found
                ]
                pair = f"{mixed.title} − {'plain' if other is control else other.title}"
                rows.append({"pair": pair, "steps": steps, "labels": [c.label for c in found], "cells": cells})
    return rows


def subject(result: RunResult) -> Measurement | Evaluation | Diagnosis:
    """The result that names the model and the data of the page.

    Raises:
        InputError: nothing here speaks of a model.
    """
    if result.measurements:
        return result.measured
    found = next(iter(result.evaluations.values()), None) or result.diagnosis
    if found is None:
        raise InputError(f"{result.path} says nothing about a model; give a measurement beside it")
    return found


def render(result: RunResult, published: str | None = None) -> str:
    """The page as HTML text; everything from outside is escaped.

    Args:
        result: what is shown.
        published: model of the published tables, where the checkpoint's name does not tell.
    """
    folder = resources.files("slowflow.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    drawn = {picture.name: picture for picture in pictures(result)}
    measured = result.measured if result.measurements else None
    evaluated = next(iter(result.evaluations.values()), None)
    shown = subject(result)
    carrying = [name for name in CARRY if name in drawn][:MOST]
    return template.render(
        css=(folder / "page.css").read_text(encoding="utf-8"),
        version=metadata.version("slowflow"),
        model=shown.config["model"]["name"],
        data=shown.config["data"]["name"],
        findings=text.findings(result),
        advice=text.advice(result),
        passages=passages(result),
        carrying=[drawn[name] for name in carrying],
        further=[drawn[name] for name in (*ORDER, *DEPTH) if name in drawn and name not in carrying],
        arms=[arm for arm in result.arms if arm.name in result.evaluations],
        quality=quality_rows(result),
        published=table(result, published),
        comparison=comparison_rows(result),
        measured_arms=measured_arms(result),
        lags=lag_rows(result) if measured else [],
        causes=cause_rows(result),
        diagnosis=more_causes(result),
        fit=result.fit if measured else None,
        width_sentence=text.width_sentence(result) if measured else "",
        origin=text.origin(result.fit) if measured else "",
        chosen=text.reasons(result.fit) if measured else [],
        warnings=[text.typeset(line) for line in result.fit.warnings] if measured else [],
        memorisation=evaluated.facts["memorisation"] if evaluated else {},
        measured=readable(measured.protocol()) if measured else None,
        search=measured.facts["search"] if measured else {},
        evaluated=evaluated.protocol(text.main_steps(result)) if evaluated else None,
        against=text.against(evaluated) if evaluated else "",
        features_sentence=text.features_sentence(evaluated) if evaluated else "",
        evaluation=readable(evaluated.protocol(text.main_steps(result))) if evaluated else None,
        check=result.check,
        citations=[(one.name, one.bibtex) for one in citations(result)],
    )
