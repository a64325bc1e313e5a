"""What the repository says of the bundled model is true: README and page against reports/mnist-sit.json.

All three are written by reports/readme_results.py from one demo; this test reads sentences and numbers back out of the
words and judges them by the intervals in the JSON, without the code that wrote them.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN = json.loads((ROOT / "reports" / "mnist-sit.json").read_text(encoding="utf-8"))
INTERVAL = r"([+−]?[\d.]+) \[([+−]?[\d.]+), ([+−]?[\d.]+)\]"
PAIR = "mixflow-long - plain-long"
HIGHER = {"fd": False, "density": True, "coverage": True, "agreement": True}


def of_readme() -> list[str]:
    """The paragraphs of its results."""
    content = (ROOT / "README.md").read_text(encoding="utf-8")
    return [p.replace("**", "") for p in content.split("<!-- results:")[1].split("\n\n") if p.startswith(("**", "*"))]


def of_page() -> list[str]:
    """The paragraphs of its verdict, sentence and numbers joined."""
    content = (ROOT / "reports" / "mnist-sit.html").read_text(encoding="utf-8")
    verdict = content[content.index('<div class="verdict">') :]
    found = re.findall(r"<p[^>]*>(.*?)</p>", verdict[: verdict.index("</div>")])
    return [f"{html.unescape(a)} {html.unescape(b)}" for a, b in zip(found[::2], found[1::2], strict=False)]


def numbers(words: str) -> list[tuple[float, float, float]]:
    return [tuple(float(x.replace("−", "-")) for x in found) for found in re.findall(INTERVAL, words)]


def same(said: tuple[float, float, float], known: dict[str, float], digits: int) -> None:
    for mine, name in zip(said, ("value", "low", "high"), strict=True):
        assert mine == pytest.approx(known[name], abs=0.51 * 10**-digits)


@pytest.fixture(params=[of_readme, of_page], ids=["readme", "page"])
def said(request: pytest.FixtureRequest) -> list[str]:
    return request.param()


def test_the_first_sentence_says_a_lag_and_there_is_one(said: list[str]) -> None:
    first, known = said[0], KNOWN["suggest"]
    assert first.startswith("Generated states lag behind the ground truth at 50 Euler steps.")
    assert known["verdict"] == "detected"
    readings = re.findall(
        rf"([a-z ]+?) {INTERVAL} against genuine states and {INTERVAL} against a perfect model", first
    )
    found = {
        re.sub(r".*(level|signal clock|noise clock)$", r"\1", name): numbers(f"{a} [{b}, {c}] {d} [{e}, {f}]")
        for name, a, b, c, d, e, f in readings
    }
    assert found.keys() == {"level", "signal clock", "noise clock"}
    clear = [name for name, both in found.items() if all(low > 0 for _, low, _ in both)]
    assert clear == ["signal clock"]
    assert first.index("not clearly so") > first.index("signal clock 0.086")  # and the others are said not to be clear
    for name, both in found.items():
        for null, one in zip(("genuine", "exact"), both, strict=True):
            stem = {"level": "excess", "signal clock": "signal", "noise clock": "noise"}[name]
            known_one = known["estimates"][f"{stem}_{null}"]
            assert one[0] == pytest.approx(known_one["value"], abs=0.00051)


def test_the_second_sentence_is_the_sign_of_the_difference(said: list[str]) -> None:
    last = next(paragraph for paragraph in said if paragraph.startswith("MixFlow left"))
    known = KNOWN["differences"][PAIR]
    assert "further from the real ones" in last.split(" than plain")[0]
    assert known["50"]["fd"]["low"] > 0
    worse = [steps for steps, one in known.items() if one["fd"]["low"] > 0 and steps != "50"]
    assert f"further from them at {', '.join(worse)} steps" in last
    assert "further from the real ones, though better in density, than plain" in last
    for metric, name, digits in (("fd", "FD-mnist", 2), ("density", "density", 3), ("coverage", "coverage", 3)):
        words = re.search(rf"{name} {INTERVAL} (better|worse|no significant change)", last)
        assert words
        one = known["50"][metric]
        same(numbers(words[0])[0], one, digits)
        moved = not one["low"] <= 0 <= one["high"]
        assert words[4] == (
            "no significant change" if not moved else "better" if (one["value"] > 0) == HIGHER[metric] else "worse"
        )
    grew = KNOWN["lag_change_from_base"]
    slack = numbers(last[last.index("Slack of the states") :])[0]
    assert slack[1] > 0
    between = grew["mixflow-long"]["value"] - grew["plain-long"]["value"]
    assert slack[0] == pytest.approx(between, abs=0.001)


def test_the_cause_named_is_the_largest_part_of_the_lag() -> None:
    cause, known = of_page()[1], KNOWN["diagnose"]
    assert "is made by the step size" in cause
    parts = {name: one["value"] for name, one in known["parts"].items()}
    assert max(parts, key=parts.__getitem__) == known["cause"] == "steps"
    for one, wanted in zip(numbers(cause), (known["lag"], *known["parts"].values()), strict=True):
        same(one, wanted, 3)


def test_the_table_of_the_readme_is_that_of_the_json() -> None:
    content = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- results:")[1]
    rows = [line.strip("| ").split(" | ") for line in content.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(KNOWN["evaluate"])
    for cells, found in zip(rows[1:], KNOWN["evaluate"].values(), strict=True):
        for cell, steps in zip(cells[1:5], found, strict=True):
            same(numbers(cell)[0], found[steps]["metrics"]["fd"], 1)
        same(numbers(cells[5])[0], found["50"]["metrics"]["coverage"], 3)
        same(numbers(cells[6])[0], found["50"]["metrics"]["agreement"], 3)


def test_no_number_is_without_interval_n_and_protocol() -> None:
    asked = {
        "n",
        "n_real",
        "steps",
        "nfe",
        "sampler",
        "guidance",
        "seed",
        "features",
        "reference",
        "quantiser",
        "labels",
    }
    for found in KNOWN["evaluate"].values():
        for steps, one in found.items():
            assert {*asked, "ema", "dtype", "versions", "model"} <= one["protocol"].keys()
            assert one["protocol"]["steps"] == int(steps)
            for name, number in one["metrics"].items():
                assert number.keys() == {"value", "low", "high", "n"}, name
                assert number["low"] <= number["value"] <= number["high"], name
                assert number["n"] == one["protocol"]["n"]
    section = "\n\n".join(of_readme()) + (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- results:")[1]
    left = set(re.findall(r"\d+\.\d+", re.sub(INTERVAL, "", section)))
    assert left <= {"0.12", "98.3"}  # the width that was tried, and the level of the joint intervals
