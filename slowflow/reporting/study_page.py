"""The page about studies: HTML that holds its pictures, or Markdown without them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, resources

from jinja2 import Environment, StrictUndefined

from slowflow.reporting.markdown import folded, plain, table
from slowflow.reporting.render import Picture, pictures
from slowflow.reporting.study_tables import numbers, parts
from slowflow.results import RunResult
from slowflow.sweep.folder import StudyResult

FIGURES = ("study-gamma", "study-regret", "study-remedies", "study-calls", "study-length", "study-lag")


def render_studies(studies: Sequence[StudyResult]) -> str:
    """The page as HTML text; everything from outside is escaped."""
    folder = resources.files("slowflow.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "study.html.j2").read_text(encoding="utf-8"))
    found = parts(studies)
    return template.render(
        css=(folder / "page.css").read_text(encoding="utf-8"),
        version=metadata.version("slowflow"),
        title=_title(studies),
        headlines=[said for part in found for said in part.headlines],
        parts=found,
        pictures={str(study.protocol["name"]): drawn(study) for study in studies},
        numbers=numbers(studies).said_once(),
    )


def studies_markdown(studies: Sequence[StudyResult]) -> str:
    """The same sentences and tables as GitHub's Markdown; the appendix of all numbers is left to table.csv."""
    lines, found = [f"## SlowFlow: {plain(_title(studies))}", ""], parts(studies)
    for said in (said for part in found for said in part.headlines):
        lines += [plain(said), ""]
    for part in found:
        lines += [f"### {plain(part.title)}", ""]
        for sentence in part.sentences:
            lines += [plain(sentence), ""]
        for one in part.tables:
            shown = [*table(one.heads, one.rows), *([plain(one.caption), ""] if one.caption else [])]
            lines += folded(f"{len(one.rows)} rows", shown) if one.long else shown
    lines.append(f"Made by SlowFlow {metadata.version('slowflow')}; brackets are 95 % intervals.")
    return "\n".join(lines) + "\n"


def drawn(study: StudyResult) -> list[Picture]:
    """Every figure that the study has data for so far."""
    return pictures(RunResult(study.path, [], {}, {}, study=study), FIGURES)


def _title(studies: Sequence[StudyResult]) -> str:
    return "studies of " + ", ".join(dict.fromkeys(str(study.protocol["name"]) for study in studies))
