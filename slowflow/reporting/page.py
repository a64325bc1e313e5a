"""A report in the format its file asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slowflow.errors import InputError
from slowflow.io import atomic
from slowflow.reporting.markdown import render_markdown
from slowflow.reporting.render import render
from slowflow.reporting.study_page import render_studies, studies_markdown
from slowflow.results import RunResult
from slowflow.sweep.folder import StudyResult, is_study

WRITERS = {"html": render, "md": render_markdown}
OF_STUDIES = {"html": render_studies, "md": studies_markdown}
ENDINGS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


def write_page(result: RunResult, path: str | Path, format: str = "auto", published: str | None = None) -> Path:
    """Write the report of a result.

    Args:
        result: finished runs.
        path: the file.
        format: html, md, or auto for what the file's ending says.
        published: model of the published tables to put numbers beside, where the checkpoint's name does not tell.

    Raises:
        InputError: another format or ending.
    """
    path = Path(path)
    known = _known(path, format)
    content = WRITERS[known](result, published) if result.study is None else OF_STUDIES[known]([result.study])
    atomic.write_text(path, content)
    return path


def write_report(
    runs: Sequence[str | Path], path: str | Path, format: str = "auto", published: str | None = None
) -> Path:
    """The same from folders; several studies, finished or not, make one page about all of them.

    Args:
        runs: folders. path, format, published: as in `write_page`.

    Raises:
        InputError: another format or ending, folders that do not go together, or a study without a finished arm.
    """
    studies = [run for run in runs if is_study(run)]
    if not studies:
        return write_page(RunResult.load(*runs), path, format, published)
    if len(studies) < len(runs):
        raise InputError("studies stand on a page of their own; leave the other runs out")
    known = _known(Path(path), format)
    atomic.write_text(Path(path), OF_STUDIES[known]([StudyResult.load(one) for one in studies]))
    return Path(path)


def _known(path: Path, format: str) -> str:
    known = ENDINGS.get(path.suffix.lower(), "") if format == "auto" else format
    if known not in WRITERS:
        what = f"the file {path} ends in '{path.suffix}'" if format == "auto" else f"format is '{format}'"
        raise InputError(f"{what}; a report is written as html or md (FILE.html, FILE.md, or --format)")
    return known
