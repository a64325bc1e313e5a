"""Render a report: figures as inline images, text from numbers, one HTML file that opens offline."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from slowflow.errors import InputError
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER, Evaluation
from slowflow.figures import FIGURES
from slowflow.figures.base import rendered
from slowflow.reporting import text
from slowflow.results import RunResult

ORDER = ("fan", "excess", "quality", "samples", "before-after", "gamma", "slack")
LEADING = 3
RASTER = ("samples",)
CITATIONS = (
    (
        "MixFlow and the slowed timestep",
        "@inproceedings{mixflow, title={MixFlow Training: Alleviating Exposure Bias with Slowed Interpolation Mixture}, "
        "author={Li, Hui and Lyu, Jiayue and Wang, Fu-Yun and Cheng, Kaihui and Zhu, Siyu and Wang, Jingdong}, "
        "booktitle={CVPR}, year={2026}, note={arXiv:2512.19311}}",
    ),
    (
        "SiT",
        "@inproceedings{sit, title={SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant "
        "Transformers}, author={Ma, Nanye and others}, booktitle={ECCV}, year={2024}, note={arXiv:2401.08740}}",
    ),
    (
        "Frechet distance",
        "@inproceedings{fid, title={GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium}, "
        "author={Heusel, Martin and others}, booktitle={NeurIPS}, year={2017}, note={arXiv:1706.08500}}",
    ),
    (
        "Density and coverage",
        "@inproceedings{prdc, title={Reliable Fidelity and Diversity Metrics for Generative Models}, "
        "author={Naeem, Muhammad Ferjad and others}, booktitle={ICML}, year={2020}, note={arXiv:2002.09797}}",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A figure ready for the page."""

    name: str
    title: str
    caption: str
    alt: str
    uri: str
    width: int


def pictures(result: RunResult) -> list[Picture]:
    """Every figure the result has data for, in reading order."""
    found = []
    for name in ORDER:
        figure = FIGURES.get(name)
        try:
            table = figure.data(result)
        except InputError:
            continue  # this result has no such data; the page then has no such figure
        suffix = "png" if name in RASTER else "svg"
        kind = "image/png" if suffix == "png" else "image/svg+xml"
        payload = base64.b64encode(rendered(figure, table, suffix)).decode()
        count, inches, _ = figure.panels(table)
        uri, width = f"data:{kind};base64,{payload}", round(110 * count * inches)
        found.append(Picture(name, figure.title, figure.caption, figure.alt(table), uri, width))
    return found


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
            label = next(iter(found.values())).facts["features"]["name"] if metric == "fd" else metric
            rows.append({"metric": label, "steps": steps, "cells": cells})
    return rows


def _cell(found: Evaluation, metric: str, steps: int) -> str:
    """A number with its interval, or a dash where it was not evaluated."""
    if metric not in found.metrics or steps not in found.steps:
        return "–"
    return text.plain(found.estimate(metric, steps), 1 if metric == "fd" else 3)


def lag_rows(result: RunResult) -> list[dict[str, Any]]:
    """Rows of the table of lags: one an arm; a dash where an arm lacks an estimate."""
    fits = [(arm, result.measurements[arm.name].suggest()) for arm in result.arms if arm.name in result.measurements]
    names = list(dict.fromkeys(name for _, fit in fits for name in fit.estimates))
    rows = []
    for arm, fit in fits:
        cells = {name: text.plain(fit.estimates[name], 3) if name in fit.estimates else "–" for name in names}
        rows.append({"title": arm.title, "verdict": fit.verdict, "estimates": cells})
    return rows


def comparison_rows(result: RunResult) -> list[dict[str, Any]]:
    """MixFlow against plain of the same length, and against the start: every metric, every step count."""
    rows = []
    for mixed, control in text.pairs(result):
        for other in (control, result.base):
            if not {mixed.name, other.name} <= result.evaluations.keys():
                continue
            for steps in result.evaluations[mixed.name].steps:
                found = text.changes(result, mixed, other, steps)
                cells = [{"text": text.signed(c.estimate, 2 if c.metric == "fd" else 3), "word": c.word} for c in found]
                pair = f"{mixed.title} − {'plain' if other is control else other.title}"
                rows.append({"pair": pair, "steps": steps, "labels": [c.label for c in found], "cells": cells})
    return rows


def render(result: RunResult) -> str:
    """The page as HTML text; everything from outside is escaped."""
    folder = resources.files("slowflow.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    drawn = pictures(result)
    measured = result.measured if result.measurements else None
    evaluated = next(iter(result.evaluations.values()), None)
    return template.render(
        css=(folder / "page.css").read_text(encoding="utf-8"),
        version=metadata.version("slowflow"),
        model=(measured.config if measured else evaluated.config if evaluated else {})["model"]["name"],
        data=(measured.config if measured else evaluated.config if evaluated else {})["data"]["name"],
        findings=text.findings(result),
        advice=text.advice(result),
        leading=drawn[:LEADING],
        others=drawn[LEADING:],
        arms=[arm for arm in result.arms if arm.name in result.evaluations],
        quality=quality_rows(result),
        comparison=comparison_rows(result),
        lags=lag_rows(result),
        fit=result.fit if measured else None,
        called_for=bool(measured) and result.fit.verdict == "detected",
        warnings=result.fit.warnings if measured else (),
        memorisation=evaluated.facts["memorisation"] if evaluated else {},
        measured=measured.protocol() if measured else None,
        search=measured.facts["search"] if measured else {},
        evaluated=evaluated.protocol(text.main_steps(result)) if evaluated else None,
        check=result.check,
        citations=CITATIONS,
    )
