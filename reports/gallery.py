"""Make docs/gallery.md: every registered figure, drawn from finished runs, with its numbers as CSV.

python reports/gallery.py RUN [RUN ...]

Each RUN may hold several folders joined by commas. A figure is drawn from the first RUN that has data for it; one that none
has data for keeps its picture and its section.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slowflow.errors import InputError
from slowflow.figures import FIGURES
from slowflow.figures.base import write
from slowflow.io import atomic
from slowflow.registry import Entry
from slowflow.results import RunResult

DOCS = Path(__file__).resolve().parent.parent / "docs"
MOST_ROWS = 2000
"""A longer table is not worth its place beside a picture."""
HEAD = """# Gallery

Every figure, drawn from measurements of the bundled model. One file in `slowflow/figures/` makes each: `data` turns finished
runs into a table, `draw` paints that table and nothing else, so the CSV beside a picture holds every number in it. The colours are
those of Okabe and Ito, which stay apart for colour-blind readers; orange is always the model, grey real interpolations, blue a
perfect model.

```text
slowflow plot RUN --figure NAME --out FILE.png        # or .svg, .pdf; the data come beside it as FILE.png.csv
```

Made by `python reports/gallery.py RUN ...`.
"""


def page(results: list[RunResult]) -> str:
    """The page; pictures and tables are written on the way."""
    lines, before = [HEAD], kept((DOCS / "gallery.md").read_text(encoding="utf-8"))
    for entry in FIGURES:
        lines += _section(entry, results, before)
    return "\n".join(lines) + "\n"


def kept(text: str) -> dict[str, list[str]]:
    """Figure -> lines of its section in a page that was made before."""
    sections = text.split("\n## ")[1:]
    return {one.split("\n", 1)[0]: f"## {one.rstrip()}\n".split("\n") for one in sections}


def _section(entry: Entry, results: list[RunResult], before: dict[str, list[str]]) -> list[str]:
    figure, heading = entry.value, [f"## {entry.name}", "", f"**{entry.value.title}** {_sentence(entry.summary)}", ""]
    for result in results:
        try:
            table = figure.data(result)
        except InputError:
            continue
        file = write(figure, table, DOCS / "gallery" / f"{entry.name}.png")
        beside = file.with_name(file.name + ".csv")
        link = f" [The numbers](gallery/{beside.name})."
        if len(table) > MOST_ROWS:
            beside.unlink()
            link = f" (The table of {len(table):,} rows is left out here.)"
        return [*heading, f"![{figure.alt(table)}](gallery/{file.name})", "", f"{figure.caption}{link}", ""]
    if entry.name in before:
        return before[entry.name]
    return [*heading, "*No measurement of the bundled model is at hand that holds what this figure shows.*", ""]


def _sentence(summary: str) -> str:
    return (summary if summary[1:2] == "(" else summary[0].upper() + summary[1:]).rstrip(".") + "."


if __name__ == "__main__":
    found = [RunResult.load(*spec.split(",")) for spec in sys.argv[1:]]
    atomic.write_text(DOCS / "gallery.md", page(found))
    print(f"{len(FIGURES.names())} figures: {DOCS / 'gallery.md'}")
