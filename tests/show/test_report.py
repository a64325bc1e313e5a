"""The report: opens offline, escapes what it is given, and says nothing that its numbers do not."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER, Evaluation
from slowflow.evaluating.features import Features
from slowflow.figures import FIGURES
from slowflow.figures.zeros import zeros
from slowflow.flow.model import FlowModel
from slowflow.measuring.causes.diagnosis import Diagnosis
from slowflow.measuring.engine import measure
from slowflow.measuring.named import place
from slowflow.records import Estimate, Probe
from slowflow.reporting import reading, text
from slowflow.reporting import render as rendering
from slowflow.reporting.render import FAMILIES, cause_rows, comparison_rows, lag_rows, quality_rows, render
from slowflow.results import Arm, RunResult, lag_change, refuse_other_world

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml"}
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
    """With its real pictures; every other page here has one for all."""
    return render(result)


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose words matter; drawing them is tested with the figures."""
    monkeypatch.setattr(rendering, "rendered", lambda figure, table, suffix: MAGIC[suffix])


@pytest.fixture(autouse=True)
def _only_the_page_is_drawn(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("page")  # before the pictures become plain ones
    request.getfixturevalue("plain_pictures")


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
    on_pages = {*rendering.ORDER, *rendering.DEPTH}
    assert on_pages >= {*rendering.CARRY}
    assert set(FIGURES.names()) == on_pages | {name for name in FIGURES.names() if name.startswith("study-")}
    assert page.count("<img") == len(on_pages) - 1  # every figure of a run but that of the peers has data here


def test_the_page_reads_from_the_verdict_to_the_depth(page: str) -> None:
    """The verdict, three figures that carry it, tables, what to do next; then what is real, further figures, depth."""
    places = [attributes["id"] for tag, attributes in Page(page).tags if tag == "section"]
    first = ["fan", "excess", "quality", "comparison", "quality-table", "next", "real"]
    further = ["clocks", "causes", "gamma-fit", "nulls", "gamma", "samples", "before-after"]
    assert places == [*first, *further, "trajectories", "slack", "training", "depth"]
    words = Page(page).text
    assert words.index("Generated states") < words.index("What is real, what is artefact")


def test_no_hole_in_the_page_where_a_number_is_lacking(
    page: str, measured_only: RunResult, undiagnosed: RunResult, plain_only: RunResult, evaluated_only: RunResult
) -> None:
    for content in (page, *map(render, (measured_only, undiagnosed, plain_only, evaluated_only))):
        assert not re.search(r"\b(nan|None|inf)\b", Page(content).text)
        alts = " ".join(attributes.get("alt", "") for _, attributes in Page(content).tags)
        assert not re.search(r"\b(nan|None|inf)\b", alts)


def test_what_is_real_and_what_is_artefact_follow_the_numbers(page: str, result: RunResult) -> None:
    passages = {one.question: " ".join(one.sentences) for one in reading.passages(result)}
    for words in passages.values():
        assert words in Page(page).text
    artefact, real, causes = (passages[name] for name in list(passages)[:3])
    own = {zero.reading: zero for zero in zeros(result)}
    for name, zero in own.items():
        one = zero.raw["exact"]
        assert (f"{text.signed(one, 3)} under '{name}'" in artefact) == ("exact" in zero.off)
        assert ("exact" in zero.off) <= (one.excludes(0.0) and abs(one.value) > 0.01)  # the joint interval is wider
    assert own["fresh"].raw["exact"].value < -0.1  # so that the sentence above has something to say
    for name in result.heard:
        side = own[name].lag.side
        assert (f"{reading.the(name)} is {'slow' if side > 0 else 'fast'} by gamma" in real) == (side != 0)
    assert {one.lag.side for one in own.values() if one.heard} != {0}
    division = result.diagnoses["base"].main
    for one in (division.lag, *division.parts.values()):
        assert text.signed(one, 3) in causes
    assert causes.endswith(result.diagnoses["base"].advice)


def test_without_a_diagnosis_one_line_says_how_to_get_one(undiagnosed: RunResult) -> None:
    words = Page(render(undiagnosed)).text
    assert words.count("slowflow diagnose RUN") == 1
    assert str(undiagnosed.path.parent) not in words  # a page can be given away; it names no folders of this machine
    assert text.cause_finding(undiagnosed) is None
    assert text.advice(undiagnosed) == text.ADVICE[undiagnosed.fit.verdict]


@pytest.mark.parametrize(
    ("cause", "parts"),
    [
        ("steps", {"steps": 0.12, "local": 0.05, "accumulation": 0.03}),
        ("local", {"steps": 0.02, "local": 0.15, "accumulation": 0.03}),
        ("accumulation", {"steps": 0.02, "local": 0.05, "accumulation": 0.13}),
        ("fast", {"steps": -0.12, "local": -0.05, "accumulation": 0.0}),
        ("none", {"steps": 0.0, "local": 0.0, "accumulation": 0.0}),
    ],
)
def test_the_cause_decides_the_advice(
    measured_only: RunResult, with_causes: Callable[..., Diagnosis], cause: str, parts: dict[str, float]
) -> None:
    found = with_causes(measured_only.diagnoses["measure-base"], **parts)
    shown = replace(measured_only, diagnoses={"measure-base": found})
    shown.__dict__["fit"] = replace(measured_only.fit, verdict="detected")
    said = text.cause_finding(shown)
    assert found.cause == cause
    assert said is not None
    assert text.MADE.get(cause, "run ahead" if cause == "fast" else "no lag clear of zero") in said.sentence
    assert text.signed(found.main.lag, 3) in said.numbers
    assert text.advice(shown) == (found.advice if cause != "none" else text.ADVICE["detected"])
    assert text.calls_for_training(shown) == (cause in ("accumulation", "none"))
    words = Page(render(shown)).text
    assert ("A correction is worth trying, with" in words) == (cause in ("accumulation", "none"))
    table = FIGURES.get("causes").data(shown)
    assert FIGURES.get("causes").panels(table).count == (3 if cause != "none" else 2)


def test_a_sharper_diagnosis_is_said_to_be_one(measured_only: RunResult) -> None:
    silent = replace(measured_only)
    silent.__dict__["fit"] = replace(measured_only.fit, verdict="none detectable", reason="the excess gamma is small")
    said = text.cause_finding(silent)
    assert said is not None
    assert said.sentence.startswith("A sharper look")
    assert "No lag that belongs to this model was found" in text.lag_finding(silent).sentence


def test_a_lag_without_a_clear_cause_is_said_to_be_undivided(
    result: RunResult, with_causes: Callable[..., Diagnosis]
) -> None:
    found = with_causes(result.diagnoses["base"], steps=0.03, local=0.03, accumulation=0.03)
    main = found.main
    wide = {name: replace(one, low=-0.01) for name, one in main.parts.items()}
    found.__dict__["divisions"] = {**found.divisions, found.reading: replace(main, parts=wide)}
    assert found.cause == "undivided"
    shown = replace(result, diagnoses={"base": found})
    said = text.cause_finding(shown)
    assert said is not None
    assert "No single cause of the lag" in said.sentence
    assert "diagnose more samples" in found.advice
    assert "No single cause of the lag" in Page(render(shown)).text


def test_the_divided_lag_is_in_the_table(result: RunResult) -> None:
    rows = {row["reading"]: row["cells"] for row in cause_rows(result)}
    for name, division in result.diagnoses["base"].divisions.items():
        assert [cell["text"] for cell in rows[name]] == [
            text.signed(one, 3) for one in (division.lag, *division.parts.values())
        ]
        assert any("not clear" in cell["share"] for cell in rows[name]) == (not division.clear)


def test_a_diagnosis_is_found_where_it_lies_and_where_it_is_given(
    result: RunResult, plain_only: RunResult, tmp_path: Path
) -> None:
    inside = RunResult.load(result.path / "measure-base")
    assert set(inside.diagnoses) == {"measure-base"}
    moved = shutil.copytree(result.path / "measure-base" / "diagnosis", tmp_path / "why")
    apart = shutil.copytree(result.path / "measure-base", tmp_path / "measured")
    shutil.rmtree(apart / "diagnosis")
    assert not RunResult.load(apart).diagnoses
    given = RunResult.load(apart, moved)
    assert given.diagnoses["measured"].path == moved
    alone = RunResult.load(moved)
    assert alone.arms[0].name == "why"
    assert_self_contained(render(alone))
    clear = replace(alone, diagnoses={"why": result.diagnoses["base"]})
    assert text.advice(clear) == result.diagnoses["base"].advice
    assert result.diagnoses["base"].advice in Page(render(clear)).text
    other = RunResult.load(plain_only.path, moved)  # of another protocol: an arm of its own
    assert [arm.name for arm in other.arms] == ["run", "why"]
    assert other.diagnosis is not None


def test_a_calibration_is_shown_beside_a_measurement_on_the_same_data(result: RunResult, calibration: Path) -> None:
    shown = RunResult.load(result.path / "measure-base", calibration)
    words = Page(render(shown)).text
    for name, found in shown.calibrations[0].references.items():
        assert f"{name}: {text.typeset(found['reason'])}." in words
    with pytest.raises(InputError, match="says nothing about a model"):
        render(RunResult.load(calibration))
    strange = replace(shown.calibrations[0], facts={**shown.calibrations[0].facts, "data": "other"})
    with pytest.raises(InputError, match="calibrate again"):
        refuse_other_world(replace(shown, calibrations=[strange]))


def test_equal_results_make_equal_pages(undiagnosed: RunResult) -> None:
    assert render(RunResult.load(undiagnosed.path)) == render(undiagnosed)


def test_the_first_sentence_is_the_verdict_of_the_fit(page: str, result: RunResult) -> None:
    found = text.lag_finding(result)
    assert found.sentence in Page(page).text
    assert found.numbers in Page(page).text
    assert found.sentence == f"{text.HEADLINE[result.fit.verdict]} at 8 Euler steps."
    assert found.numbers.startswith("Read from level, signal clock, noise clock; n = 60: ")
    assert result.heard == ["level", "signal clock", "noise clock"]
    said = result.fit.reason.removeprefix("generated states lag behind the ground truth: ")
    assert text.typeset(said) in found.numbers


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
    words = {"density": "density", "coverage": "coverage"}
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
        if row["metric"] == "FD-pixels at infinite n":
            continue
        metric = "fd" if row["metric"] == "FD-pixels" else row["metric"]
        for cell, name in zip(row["cells"], ("base", "plain", "mixflow"), strict=True):
            found = result.evaluations[name].estimate(metric, row["steps"])
            assert cell == text.plain(found, 1 if metric == "fd" else 3)
            assert cell in words
    fits = [result.measurements[name].suggest() for name in ("base", "plain", "mixflow")]
    rows = lag_rows(result)
    assert rows[0]["cells"] == [fit.verdict for fit in fits]
    assert rows[1]["cells"] == [fit.shape for fit in fits]
    named = {(row["group"], row["name"]): row["cells"] for row in rows}
    assert len(named) == len(rows) == 3 + len(fits[0].estimates)
    for name in fits[0].estimates:
        family, meaning = place(name)
        assert named[FAMILIES[family], meaning] == [text.plain(fit.estimates[name], 3) for fit in fits]


def test_metrics_go_by_their_printed_names_and_say_what_n_adds(
    result: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = result.evaluations["base"]
    monkeypatch.setattr(Evaluation, "metrics", ["fd", "sfd", "kid", "is"])
    monkeypatch.setattr(Evaluation, "estimate", lambda *_: Estimate(1.0, 0.5, 1.5, 60))
    for one in result.evaluations.values():
        monkeypatch.setitem(one.__dict__, "infinite", {8: Estimate(0.7, 0.1, 1.2, 60)})  # a cached property
    monkeypatch.setattr(Evaluation, "difference", lambda *_: Estimate(1.0, 0.5, 1.5, 60))
    names = ["FD-pixels", "sFD-pixels", "KD-pixels", "IS-pixels"]
    rows = quality_rows(result)
    assert [row["metric"] for row in rows if row["steps"] == 8] == [*names, "FD-pixels at infinite n"]
    assert rows[-1]["cells"] == ["0.7 [0.1, 1.2]"] * 3
    assert [change.label for change in text.changes(result, *result.arms[2:0:-1], 8)] == names
    assert base.label("density") == "density"


def test_warnings_and_gamma_are_on_the_page(page: str, result: RunResult) -> None:
    words = Page(page).text
    assert f"gamma = {result.fit.gamma:.3f}" in words
    assert text.origin(result.fit) in words
    for reason in text.reasons(result.fit):
        assert reason in words
    for warning in result.fit.warnings:
        assert text.typeset(warning) in words
    assert text.typeset(result.fit.shape_reason) in words
    assert result.fit.log_snr_gap is not None
    assert text.signed(result.fit.log_snr_gap, 3) in words


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("band", "the band of the raw fan under 'nearest'"),
        ("excess", "the excess under 'level'"),
        ("fixed 0.8", "a fixed value that studies support, read from no estimate here"),
    ],
)
def test_where_a_gamma_comes_from_is_said(result: RunResult, method: str, said: str) -> None:
    assert text.origin(replace(result.fit, method=method)) == said


def test_minus_signs_are_typographic() -> None:
    assert text.signed(Estimate(-0.5, -1.0, 0.25, 9), 2) == "−0.50 [−1.00, +0.25]"
    assert text.plain(Estimate(-0.5, -1.0, 0.25, 9), 1) == "−0.5 [−1.0, 0.2]"
    assert text.typeset("x -0.5 [-1.0, level-learned, 1e-5]") == "x −0.5 [−1.0, level-learned, 1e-5]"


def test_pixels_are_not_called_features_of_a_classifier(page: str) -> None:
    assert "FD-pixels is a distance in the features of a small classifier" not in Page(page).text


def test_the_page_describes_the_perfect_model_as_it_is_built(page: str) -> None:
    assert "each widened a little" not in Page(page).text  # Source.perfect uses the images themselves, width 0


def test_a_measurement_alone_makes_a_page(measured_only: RunResult) -> None:
    content = render(measured_only)
    assert_self_contained(content)
    assert_pictures_are_described(content)
    assert text.lag_finding(measured_only).sentence in Page(content).text
    assert text.advice(measured_only) in Page(content).text
    assert "Every estimate of gamma" in content
    assert "quality-table" not in content


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
    for row in lag_rows(mixed):
        assert len(row["cells"]) == 2
        if row["name"] == "over genuine states":
            assert row["cells"][1] == "–"


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
