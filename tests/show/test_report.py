"""The report: opens offline, escapes what it is given, and says nothing that its numbers do not."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from slowflow.data.images import ImageSet
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER
from slowflow.evaluating.features import Features
from slowflow.figures import FIGURES
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure
from slowflow.records import Estimate, Probe
from slowflow.reporting import text
from slowflow.reporting.render import comparison_rows, lag_rows, quality_rows, render
from slowflow.results import Arm, RunResult, lag_change

HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """Tags with their attributes, and the words outside of <style> and <pre>."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "pre"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(result: RunResult) -> str:
    return render(result)


def assert_self_contained(content: str) -> None:
    found = Page(content)
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "embed", "base"}
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", re.sub(r"<pre>.*?</pre>", "", content, flags=re.DOTALL))


def assert_pictures_are_described(content: str) -> None:
    images = [attributes for tag, attributes in Page(content).tags if tag == "img"]
    assert images
    for attributes in images:
        assert len(attributes["alt"]) > 20
        kind, _, payload = attributes["src"].partition(";base64,")
        start = {"data:image/png": b"\x89PNG", "data:image/svg+xml": b"<?xml"}[kind]
        assert base64.b64decode(payload, validate=True).startswith(start)


def test_the_page_loads_nothing_from_outside(page: str) -> None:
    assert_self_contained(page)
    assert len(page.encode()) < 5_000_000


def test_the_drawings_load_nothing_from_outside(page: str) -> None:
    for payload in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        drawing = base64.b64decode(payload).decode()
        assert not re.search(r"href=\"(?!#)(?!data:)", drawing)
        assert "<script" not in drawing


def test_every_picture_has_words(page: str, result: RunResult) -> None:
    assert_pictures_are_described(page)
    assert page.count("<img") == len(FIGURES.names())  # every figure has data here


def test_equal_results_make_equal_pages(page: str, result: RunResult) -> None:
    assert render(result) == page


def test_the_first_sentence_is_the_verdict_of_the_fit(page: str, result: RunResult) -> None:
    found = text.lag_finding(result)
    assert found.sentence in Page(page).text
    assert found.numbers in Page(page).text
    assert found.sentence == f"{text.HEADLINE[result.fit.verdict]} at 8 Euler steps."
    assert f"Reference '{result.fit.excess_reference}', n = 60" in found.numbers
    if result.fit.verdict in ("detected", "fast", "none detectable"):
        for name in ("excess_genuine", "excess_exact"):
            assert str(result.fit.estimates[name]) in found.numbers


def test_every_verdict_has_a_headline_and_an_advice() -> None:
    assert (
        set(text.HEADLINE) == set(text.ADVICE) == {"none detectable", "detected", "steps dominate", "off path", "fast"}
    )


def expected_word(found: Estimate, metric: str) -> str:
    if found.low <= 0.0 <= found.high:
        return "no significant change"
    return "better" if (found.value > 0) == HIGHER_IS_BETTER[metric] else "worse"


def test_better_and_worse_follow_the_sign_of_the_interval(page: str, result: RunResult) -> None:
    said = text.remedy_finding(result)
    assert said.sentence in Page(page).text
    assert said.numbers in Page(page).text
    assert "MixFlow with gamma 0.40 minus plain, 8 sampling steps" in said.numbers
    words = {"density": "fidelity", "coverage": "coverage"}
    for metric, label, digits in (("fd", "FD-pixels", 2), ("density", "density", 3), ("coverage", "coverage", 3)):
        found = result.evaluations["mixflow"].difference(result.evaluations["plain"], metric, 8)
        word = expected_word(found, metric)
        assert f"{label} {text.signed(found, digits)} {word}" in said.numbers
        if metric in words:
            assert (f"{word} in {words[metric]}" in said.sentence) == (word != "no significant change")


def test_the_exact_model_is_called_better_than_the_slow_one(result: RunResult) -> None:
    assert "left the samples closer to the real ones" in text.remedy_finding(result).sentence
    assert "The MixFlow model is the better one" in text.advice(result)


def test_swapped_arms_swap_the_words(result: RunResult) -> None:
    swapped = replace(
        result,
        measurements={
            **result.measurements,
            "plain": result.measurements["mixflow"],
            "mixflow": result.measurements["plain"],
        },
        evaluations={
            **result.evaluations,
            "plain": result.evaluations["mixflow"],
            "mixflow": result.evaluations["plain"],
        },
    )
    assert "left the samples further from the real ones" in text.remedy_finding(swapped).sentence
    assert "Prefer plain training" in text.advice(swapped)
    worst = replace(swapped, evaluations={**swapped.evaluations, "base": result.evaluations["mixflow"]})
    assert "Do not ship" in text.advice(worst)


def test_equal_arms_are_called_equal(result: RunResult) -> None:
    same = replace(result, evaluations={**result.evaluations, "plain": result.evaluations["mixflow"]})
    assert (
        "left the samples no measurably nearer to or further from the real ones than"
        in text.remedy_finding(same).sentence
    )
    assert "no reason to prefer" in text.advice(same)


def test_the_words_about_slack_follow_its_interval(result: RunResult) -> None:
    change = lag_change(result.measurements["plain"], result.measurements["mixflow"])
    word = "no significant change" if not change.excludes(0.0) else "faster" if change.value < 0 else "slower"
    assert f"in units of gamma: {text.signed(change, 3)} {word}." in text.remedy_finding(result).numbers
    assert word == "faster"  # velocity x1.0 against x0.9, so the branch above is not empty


def test_the_comparison_table_repeats_the_differences(result: RunResult) -> None:
    rows = comparison_rows(result)
    assert [row["steps"] for row in rows] == [4, 8, 4, 8]  # against plain, then against the start
    for row, other in zip(rows, ["plain", "plain", "base", "base"], strict=True):
        for cell, metric in zip(row["cells"], ("fd", "density", "coverage"), strict=True):
            found = result.evaluations["mixflow"].difference(result.evaluations[other], metric, row["steps"])
            assert cell["word"] == expected_word(found, metric)
            assert cell["text"] == text.signed(found, 2 if metric == "fd" else 3)


def test_the_tables_repeat_the_estimates(page: str, result: RunResult) -> None:
    words = Page(page).text
    for row in quality_rows(result):
        metric = "fd" if row["metric"] == "FD-pixels" else row["metric"]
        for cell, name in zip(row["cells"], ("base", "plain", "mixflow"), strict=True):
            found = result.evaluations[name].estimate(metric, row["steps"])
            assert cell == text.plain(found, 1 if metric == "fd" else 3)
            assert cell in words
    for row, name in zip(lag_rows(result), ("base", "plain", "mixflow"), strict=True):
        fit = result.measurements[name].suggest()
        assert row["verdict"] == fit.verdict
        assert row["estimates"] == {k: text.plain(v, 3) for k, v in fit.estimates.items()}


def test_warnings_and_gamma_are_on_the_page(page: str, result: RunResult) -> None:
    words = Page(page).text
    assert f"gamma = {result.fit.gamma:.3f}" in words
    for warning in result.fit.warnings:
        assert warning in words


def test_minus_signs_are_typographic() -> None:
    assert text.signed(Estimate(-0.5, -1.0, 0.25, 9), 2) == "−0.50 [−1.00, +0.25]"
    assert text.plain(Estimate(-0.5, -1.0, 0.25, 9), 1) == "−0.5 [−1.0, 0.2]"


def test_pixels_are_not_called_features_of_a_classifier(page: str) -> None:
    assert "FD-pixels is a distance in the features of a small classifier" not in Page(page).text


def test_the_page_describes_the_perfect_model_as_it_is_built(page: str) -> None:
    assert "each widened a little" not in Page(page).text  # Source.perfect uses the images themselves, width 0


def test_a_measurement_alone_makes_a_page(measured_only: RunResult) -> None:
    content = render(measured_only)
    assert_self_contained(content)
    assert_pictures_are_described(content)
    assert text.lag_finding(measured_only).sentence in Page(content).text
    assert text.ADVICE[measured_only.fit.verdict] in Page(content).text
    assert "All numbers" not in content


def test_an_evaluation_alone_makes_a_page(evaluated_only: RunResult) -> None:
    content = render(evaluated_only)
    assert_self_contained(content)
    assert_pictures_are_described(content)
    words = Page(content).text
    assert "Measure the model first." in words
    assert "recommended width" not in words


@pytest.mark.parametrize("order", [("measure-base", "evaluate-base"), ("evaluate-base", "measure-base")])
def test_a_measurement_and_an_evaluation_make_a_page_in_any_order(result: RunResult, order: tuple[str, str]) -> None:
    words = Page(render(RunResult.load(*(result.path / name for name in order)))).text
    assert text.HEADLINE[result.fit.verdict] in words
    assert "FD-pixels" in words


def test_evaluations_of_unlike_steps_make_a_page(
    result: RunResult, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> None:
    other = tmp_path_factory.mktemp("other") / "evaluate-other"
    evaluate(tiny_model(), images, Features("FD-pixels"), Sampling(samples=60, steps=(8, 16)), other, heldout=0.5)
    words = Page(render(RunResult.load(result.path / "evaluate-base", other))).text
    assert "evaluate-other" in words


def test_arms_with_unlike_nulls_keep_their_columns(
    result: RunResult, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> None:
    other = tmp_path_factory.mktemp("other") / "measure-other"
    probe = Probe(samples=60, steps=(8,), nulls=("exact",), references=("level",))
    measure(tiny_model(), images, probe, other, heldout=0.5)
    mixed = RunResult.load(result.path / "measure-base", other)
    rows = lag_rows(mixed)
    assert list(rows[0]["estimates"]) == list(rows[1]["estimates"])  # the table prints them under the first row's heads


def test_hostile_names_are_text(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    model, data = tiny_model(name=HOSTILE), replace(images, name=HOSTILE)
    probe = Probe(samples=20, steps=(4,), references=("level",), nulls=("genuine",))
    measured = measure(model, data, probe, folder / "m", heldout=0.5)
    sampling = Sampling(samples=20, steps=(4,))
    evaluated = evaluate(model, data, Features(HOSTILE), sampling, folder / "e", heldout=0.5)
    arm = Arm("base", HOSTILE, "base")
    content = render(RunResult(folder, [arm], {"base": measured}, {"base": evaluated}))
    assert "<script" not in content
    assert_self_contained(content)
    assert HOSTILE in Page(content).text
