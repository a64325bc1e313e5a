"""A report in the format its file asks for."""

from __future__ import annotations

from pathlib import Path

from slowflow.errors import InputError
from slowflow.io import atomic
from slowflow.reporting.markdown import render_markdown
from slowflow.reporting.render import render
from slowflow.results import RunResult

WRITERS = {"html": render, "md": render_markdown}
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
    known = ENDINGS.get(path.suffix.lower()) if format == "auto" else format
    if known not in WRITERS:
        what = f"the file {path} ends in '{path.suffix}'" if format == "auto" else f"format is '{format}'"
        raise InputError(f"{what}; a report is written as html or md (FILE.html, FILE.md, or --format)")
    atomic.write_text(path, WRITERS[known](result, published))
    return path
