"""The page in a real browser: nothing runs out of it at 380 and 1,400 pixels, every picture is there, dark mode is dark.

Needs a Chromium on the machine, which no package index brings; skipped without one.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from slowflow.reporting.render import render
from slowflow.results import RunResult

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.full, pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")]
FRAME = """<!doctype html><body><iframe id="page" src="page.html" style="width:WIDTHpx;height:900px;border:0"></iframe><script>
document.getElementById("page").onload = (event) => {
  const inner = event.target.contentDocument, style = event.target.contentWindow.getComputedStyle(inner.body);
  const found = {
    wide: inner.documentElement.scrollWidth, pictures: inner.images.length, font: parseFloat(style.fontSize),
    whole: [...inner.images].filter((one) => one.complete && one.naturalWidth > 0).length,
    described: [...inner.images].filter((one) => one.alt.length > 20).length, paper: style.backgroundColor,
  };
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
};
</script></body>"""


def seen(folder: Path, width: int, *flags: str) -> dict:
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", "--window-size=1500,1000", *flags),
        *("--dump-dom", (folder / "frame.html").as_uri()),
    ]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search("FOUND(.*)END", text)
    assert found, text[:500]
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, result: RunResult) -> Path:
    made = tmp_path_factory.mktemp("browser")
    (made / "page.html").write_text(render(result), encoding="utf-8")
    return made


@pytest.mark.parametrize("width", [380, 1400])
def test_the_page_fits_and_is_whole(folder: Path, width: int) -> None:
    found = seen(folder, width)
    assert found["wide"] <= width
    assert found["pictures"] == found["whole"] == found["described"] > 10
    assert found["font"] >= 15


def test_dark_mode_is_dark(folder: Path) -> None:
    light, dark = seen(folder, 1400), seen(folder, 1400, "--blink-settings=preferredColorScheme=0")
    brightness = [sum(map(int, re.findall(r"\d+", one["paper"])[:3])) for one in (light, dark)]
    assert brightness[0] > 700
    assert brightness[1] < 120
