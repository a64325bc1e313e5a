"""Hooks of the documentation site: formulas as MathML, the command line as a page, findings from reports/.

Everything is made when the site is built and nothing is loaded from outside: formulas are MathML, which browsers draw by
themselves, so there is no script and no font to bundle.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
LEAVING = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]+)(#[^)]*)?\)")
"""A link whose target starts above its page."""
FINDINGS = ("bundled-models.md", "LOG.md")
"""Pages of reports/ that stand in the site too."""
OUTSIDE = "mnist-sit.html"
"""Made pages of reports/ that findings link to; copied as they are."""


def on_config(config: Any) -> Any:
    """Leave out pages that are not there; pages nobody named come last."""
    docs = Path(config["docs_dir"])
    made = {"reference/cli.md", "reference/notebooks.md", *(f"reports/{name}" for name in FINDINGS)}

    def there(item: Any) -> Any:
        if isinstance(item, str):
            return item if item in made or (docs / item).exists() else None
        ((title, inner),) = item.items()
        kept = there(inner) if isinstance(inner, str) else [found for one in inner if (found := there(one))]
        return {title: kept} if kept else None

    config["nav"] = [found for item in config["nav"] if (found := there(item))]
    rest = sorted({str(page.relative_to(docs)) for page in docs.rglob("*.md")} - set(_pages(config["nav"])))
    if rest:
        config["nav"].append({"More": rest})
    return config


def _pages(item: Any) -> Iterator[str]:
    """Every page of a navigation."""
    for one in [item] if isinstance(item, str) else item.values() if isinstance(item, dict) else item:
        yield from [one] if isinstance(one, str) else _pages(one)


def on_files(files: Any, config: Any) -> Any:
    """Pages that are made from code, and findings that stand in reports/."""
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    files.append(File.generated(config, "reference/notebooks.md", content=notebooks()))
    for name in (*FINDINGS, OUTSIDE):
        files.append(File.generated(config, f"reports/{name}", abs_src_path=str(ROOT / "reports" / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ stay inside the site where their page is in it; else the file is named instead of linked."""
    here = (Path("docs") / page.file.src_uri).parent
    inside = {f"reports/{name}" for name in (*FINDINGS, OUTSIDE)}

    def mended(found: re.Match[str]) -> str:
        target = os.path.normpath(here / found[2])
        if target.startswith("docs/") or page.file.src_uri.startswith("reports/"):
            return found[0]
        if target in inside:
            return f"[{found[1]}]({'../' * page.file.src_uri.count('/')}{target}{found[3] or ''})"
        return f"{found[1]} (`{target}` in the repository)"

    return LEAVING.sub(mended, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """LaTeX between dollars becomes MathML."""
    return FORMULA.sub(lambda found: _mathml(found[3], block=found[2] == "["), content)


def _mathml(latex: str, block: bool) -> str:
    return convert(html.unescape(latex).strip(), display="block" if block else "inline")


def command_line() -> str:
    """Every verb with its words, options and examples, read off the program itself."""
    import typer
    from slowflow_cli.main import app

    root: Any = typer.main.get_command(app)
    lines = ["# Command line", "", "Made from the program itself; `slowflow VERB --help` says the same.", ""]
    panels: dict[str, list[Any]] = {}
    for command in root.commands.values():
        panels.setdefault(command.rich_help_panel, []).append(command)
    for panel, commands in panels.items():
        lines += [f"## {panel}", ""]
        for command in commands:
            lines += _verb(command)
    return "\n".join(lines)


def _verb(command: Any) -> list[str]:
    """One verb: what it does, how it is called, its options as a table."""
    named = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join(p.metavar or p.name.upper() for p in named)
    required = [f"{p.opts[0]} {p.name.upper()}" for p in command.params if p.required and p not in named]
    lines = [f"### {command.name}", "", command.help or "", "", "```text"]
    lines += [" ".join(["slowflow", command.name, words, *required, "[OPTIONS]"]).replace("  ", " "), "```", ""]
    from slowflow_cli.examples import EXAMPLES

    examples = EXAMPLES.get(command.name, ())
    if examples:
        lines += ["Examples:", "", "```text", *examples, "```", ""]
    lines += ["| word | default | meaning |", "|---|---|---|"]
    for one in command.params:
        if one.name == "help":
            continue
        name = one.name.upper() if one in named else ", ".join(f"`{o}`" for o in one.opts)
        lines.append(f"| {name} | {_default(one)} | {_cell(getattr(one, 'help', '') or '')} |")
    return [*lines, ""]


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required or value is None or value is False or callable(value):
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"`{shown}`" if shown else ""


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


def notebooks() -> str:
    """The notebooks, each with its first paragraph."""
    import json

    lines = ["# Notebooks", "", "In `notebooks/` of a clone; the test suite runs every one of them.", ""]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, _, rest = first.partition("\n")
        lines += [f"**{title.lstrip('# ')}** (`{path.name}`)", "", rest.strip().split("\n\n")[0], ""]
    return "\n".join(lines)
