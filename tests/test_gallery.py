"""The gallery shows every registered figure, with a picture, a sentence that holds numbers, and its table."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import image

from slowflow.figures import FIGURES

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FIGURES.names())
def test_a_figure_is_in_the_gallery(name: str) -> None:
    """If this fails for a new figure: python reports/gallery.py RUN ... draws it."""
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, flags=re.S | re.M)
    assert found, f"{name} is not in docs/gallery.md; run reports/gallery.py on finished runs"
    section = found[1]
    if "No measurement" in section:
        return
    picture = re.search(r"!\[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]\((gallery/[^)]+)\)", section)
    assert picture, section
    assert re.search(r"\d", picture[1])
    assert image.imread(DOCS / picture[2]).shape[0] > 200
    for link in re.findall(r"\((gallery/[^)]+\.csv)\)", section):
        assert len(pd.read_csv(DOCS / link)) > 0
