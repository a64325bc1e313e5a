"""Figures: the table is the figure's truth, the drawing shows that table, bytes are stable, words hold numbers."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from studymaker import BUDGETS, GAMMAS, LENGTHS, fd, planted

from slowflow.errors import InputError
from slowflow.figures import FIGURES, save
from slowflow.figures.base import FORMATS, Panels, canvas, rendered
from slowflow.figures.fan import MEAN
from slowflow.figures.gamma_fit import EDGE
from slowflow.figures.samples import save_sheet, tile
from slowflow.flow.generate import quantise
from slowflow.measuring.slack import everyone
from slowflow.results import RunResult

NAMES = FIGURES.names()
COLUMNS = {
    "fan": ["reading", "kind", "t", "mean", "low", "high", "band"],
    "excess": ["reading", "null", "t", "excess", "low", "high", "used"],
    "clocks": [
        *("reading", "kind", "t", "lag", "low", "high", "nominal"),
        *("coefficient", "coefficient_low", "coefficient_high", "used"),
    ],
    "causes": ["reading", "clear", "part", "steps", "value", "low", "high"],
    "gamma-fit": [
        *("reading", "kind", "null", "t", "slack", "slack_low", "slack_high", "zero", "zero_low", "zero_high"),
        *("free", "gamma", "free_low", "gamma_low", "free_high", "gamma_high", "isotonic"),
    ],
    "nulls": ["part", "reading", "kind", "x", "value", "low", "high"],
    "peers": ["measure", "quantity", "kind", "t", "value", "low", "high"],
    "before-after": ["reading", "null", "arm", "title", "role", "t", "excess", "low", "high", "used"],
    "gamma": ["name", "family", "group", "meaning", "value", "low", "high", "chosen"],
    "quality": ["arm", "title", "role", "metric", "label", "nfe", "steps", "value", "low", "high"],
    "samples": ["arm", "title", "steps", "sheet"],
    "slack": ["reading", "kind", "t", "slack"],
    "study-calls": [
        *("arm", "group", "gamma", "length", "budget", "metric", "steps", "nfe", "seeds", "value", "low", "high", "n"),
        "features",
    ],
    "study-gamma": [
        *("arm", "metric", "length", "budget", "value", "low", "high", "n", "gamma", "seed", "seeds", "features"),
    ],
    "study-lag": ["arm", "group", "gamma", "length", "panel", "what", "seeds", "value", "low", "high"],
    "study-regret": [
        "metric",
        "length",
        "budget",
        "method",
        "gamma",
        "value",
        "low",
        "high",
        "noise",
        "seeds",
        "features",
    ],
    "study-remedies": [
        *("arm", "group", "gamma", "against", "length", "budget", "metric", "seeds", "value", "low", "high"),
    ],
    "training": ["arm", "title", "role", "part", "step", "loss", "low", "high"],
    "trajectories": ["sample", "label", "row", "t", "m", "image"],
}
COLUMNS["study-length"] = COLUMNS["study-calls"]
STUDIES = {name for name in COLUMNS if name.startswith("study-")}
GAPS = {
    "nulls": ["x"],
    "causes": ["low", "high"],
    "samples": ["sheet"],
    "trajectories": ["m", "image"],
    **{name: ["gamma"] for name in STUDIES},
}
"""Columns that a part of the table has no number for: sizes have no x, what is extrapolated no interval, some arms no gamma."""
READINGS = ("own", "paired", "nearest", "fresh", "level", "signal clock", "noise clock")
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}
LACKING = {
    "evaluated_only": {*COLUMNS} - {"quality"},
    "undiagnosed": {"causes", "peers", "quality", "before-after", "training", *STUDIES},
    "plain_only": {
        "excess",
        "clocks",
        "causes",
        "gamma-fit",
        "nulls",
        "peers",
        "quality",
        "before-after",
        "training",
        *STUDIES,
    },
}
"""What each result has no data for."""


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return RunResult.load(planted(tmp_path_factory.mktemp("study") / "planted"))


@pytest.fixture(scope="module")
def tables(result: RunResult, with_peers: RunResult, studied: RunResult) -> dict[str, pd.DataFrame]:
    own = {"peers": with_peers, **dict.fromkeys(STUDIES, studied)}
    return {name: FIGURES.get(name).data(own.get(name, result)) for name in NAMES}


@pytest.fixture(scope="module")
def canvases(tables: dict[str, pd.DataFrame]) -> dict[str, list[Axes]]:
    return {name: list(canvas(FIGURES.get(name), table).axes) for name, table in tables.items()}


def drawn_lines(axes: Axes) -> list[np.ndarray]:
    """x and y of every line on the axes, [2, points] each."""
    return [np.array([line.get_xdata(), line.get_ydata()], dtype=float) for line in axes.get_lines()]


def holds(axes: Axes, x: pd.Series, y: pd.Series) -> bool:
    wanted = np.array([x, y], dtype=float)
    return any(line.shape == wanted.shape and np.array_equal(line, wanted) for line in drawn_lines(axes))


def test_every_figure_is_tested_here() -> None:
    assert set(NAMES) == set(COLUMNS)  # a new figure must add its columns above


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_its_columns_and_no_gaps(tables: dict[str, pd.DataFrame], name: str) -> None:
    table = tables[name]
    assert list(table.columns) == COLUMNS[name]
    assert len(table)
    assert not table.drop(columns=GAPS.get(name, [])).isna().any(axis=None)


def test_the_fan_is_the_measurement_with_its_nulls(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table, base = tables["fan"], result.measurements["base"]
    assert list(table["reading"].unique()) == list(READINGS)
    assert set(table["kind"]) == {"model", "genuine", "exact"}
    for reading in base.singles:
        part = table[(table["reading"] == reading) & (table["kind"] == "model")]
        m, known = base.array("m", reference=reading), part[part["t"] > 0]
        assert (len(part) > len(known)) == (reading in ("own", "paired", "nearest"))  # those start in their own noise
        np.testing.assert_allclose(known["mean"], m.mean(0), rtol=1e-12)
        np.testing.assert_allclose(known["high"], np.quantile(m, 0.95, axis=0), rtol=1e-12)
    for clock in ("signal clock", "noise clock"):
        part = table[(table["reading"] == clock) & (table["kind"] == "model")]
        np.testing.assert_allclose(part["low"], base.summary(clock)["m_model_low"], rtol=1e-12)
        assert set(part["band"]) == {MEAN}


def test_the_excess_is_the_difference_of_the_fans(tables: dict[str, pd.DataFrame]) -> None:
    fan = tables["fan"].set_index(["reading", "kind", "t"])["mean"]
    for row in tables["excess"].itertuples():
        gap = fan[(row.reading, "model", row.t)] - fan[(row.reading, row.null, row.t)]
        assert row.excess == pytest.approx(gap, abs=1e-12)


def test_times_that_enter_no_gamma_are_marked(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table = tables["excess"]
    assert not table[table["t"] < 0.3]["used"].any()
    for reading, group in table.groupby("reading"):
        assert set(group[group["used"]]["t"]) == set(result.curves[str(reading)].t)


def test_the_slack_of_the_violins_is_that_of_the_samples(
    result: RunResult, tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]]
) -> None:
    slack, base = tables["slack"], result.measurements["base"]
    part = slack[(slack["reading"] == "level") & (slack["kind"] == "model") & (slack["t"] == 0.75)]
    expected = 1 - base.array("m", reference="level")[:, base.array("t") == 0.75].ravel() / 0.75
    np.testing.assert_allclose(part["slack"], expected, rtol=1e-12)
    for axes, (_, group) in zip(canvases["slack"], slack.groupby("reading", sort=False), strict=True):
        corners = [path.vertices[:, 1] for c in axes.collections for path in c.get_paths()]
        assert min(c.min() for c in corners) == pytest.approx(group["slack"].min(), abs=1e-9)  # violins end at the data
        assert max(c.max() for c in corners) == pytest.approx(group["slack"].max(), abs=1e-9)


@pytest.mark.parametrize("name", ["fan", "excess", "before-after", "quality"])
def test_the_curves_on_paper_are_those_of_the_table(
    tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]], name: str
) -> None:
    table, axes = tables[name], canvases[name]
    panel, curve, y = {
        "fan": (["reading"], "kind", "mean"),
        "excess": (["reading"], "null", "excess"),
        "before-after": (["reading", "null"], "arm", "excess"),
        "quality": (["metric"], "arm", "value"),
    }[name]
    for one, (_, group) in zip(axes, table.groupby(panel, sort=False), strict=True):
        for key, part in group.groupby(curve, sort=False):
            if name == "quality":  # arms are moved apart sideways by a known few per cent
                assert any(
                    line.shape[1] == len(part)
                    and np.array_equal(line[1], part[y])
                    and np.allclose(line[0] / part["nfe"], line[0, 0] / part["nfe"].iloc[0])
                    and np.allclose(line[0] / part["nfe"], 1.0, atol=0.07)
                    for line in drawn_lines(one)
                )
            else:
                assert holds(one, part["t"], part[y]), (name, key)


def test_the_fan_draws_the_diagonal_and_its_bands(
    tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]]
) -> None:
    for one, (_, group) in zip(canvases["fan"], tables["fan"].groupby("reading", sort=False), strict=True):
        assert any(np.array_equal(line, [[0, 1], [0, 1]]) for line in drawn_lines(one))
        for kind in ("genuine", "model"):
            part = group[group["kind"] == kind]
            corners = {tuple(v) for c in one.collections for path in c.get_paths() for v in path.vertices}
            assert {*zip(part["t"], part["low"], strict=True), *zip(part["t"], part["high"], strict=True)} <= corners


def test_the_clocks_are_read_off_the_measurement(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table, base = tables["clocks"], result.measurements["base"]
    for reading, held in (("signal clock", lambda m: m), ("noise clock", lambda m: 1.0 - m)):  # the path is linear
        part, wanted = table[(table["reading"] == reading) & (table["kind"] == "model")], base.summary(reading)
        np.testing.assert_allclose(part["lag"], wanted["t"] - wanted["m_model"], atol=1e-12)
        np.testing.assert_allclose(part["coefficient"], np.clip(held(wanted["m_model"]), 0, 1), atol=1e-9)
        np.testing.assert_allclose(part["nominal"], held(part["t"]), atol=1e-12)


def test_the_plane_says_how_much_it_exaggerates(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["clocks"].copy()
    for share, said in ((0.005, "displacements drawn × 10"), (0.3, None)):
        table["coefficient"] = table["nominal"] + share
        plane = canvas(FIGURES.get("clocks"), table).axes[-1]
        words = [text.get_text() for text in plane.texts if "drawn" in text.get_text()]
        assert words == ([said] if said else [])


def test_the_parts_of_the_lag_add_up_on_paper(
    tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]], result: RunResult
) -> None:
    table = tables["causes"]
    divided = [name for name, division in result.diagnoses["base"].divisions.items() if division.clear]
    assert divided  # a velocity of x0.85 lags
    assert [axes.get_title(loc="left") for axes in canvases["causes"]][:-1] == divided
    for reading, axes in zip(divided, canvases["causes"], strict=False):
        part = table[table["reading"] == reading].set_index("part")["value"]
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, part[["steps", "local", "accumulation", "lag"]], atol=1e-12)
        assert sum(heights[:3]) == pytest.approx(heights[3], abs=1e-9)
        assert axes.patches[2].get_y() + heights[2] == pytest.approx(
            heights[3], abs=1e-9
        )  # the last part ends at the whole
        assert part["at step size 0"] == pytest.approx(part["local"] + part["accumulation"])


def test_the_gamma_figure_has_a_dot_and_a_bar_an_estimate(
    result: RunResult, tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]]
) -> None:
    table, (axes,) = tables["gamma"], canvases["gamma"]
    assert set(table["name"]) == set(result.fit.estimates)
    assert {"raw", "excess", "signal", "noise"} == set(table["family"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label for label in labels if label not in set(table["group"])] == list(table["meaning"])
    dots = [(line[0, 0], labels[int(line[1, 0])]) for line in drawn_lines(axes) if line.shape[1] == 1]
    assert dots == list(zip(table["value"], table["meaning"], strict=True))
    bars = [segment for c in axes.collections for segment in c.get_segments()]
    assert [(s[0][0], s[1][0]) for s in bars] == list(zip(table["low"], table["high"], strict=True))


@pytest.mark.parametrize(("method", "orange"), [("band", ["band"]), ("excess", ["excess_genuine"]), ("fixed 0.8", [])])
def test_the_estimate_that_is_taken_is_marked_and_a_fixed_gamma_marks_none(
    result: RunResult, method: str, orange: list[str]
) -> None:
    other = replace(result)
    other.__dict__["fit"] = replace(result.fit, method=method)  # a cached property
    table = FIGURES.get("gamma").data(other)
    assert table.loc[table["chosen"], "name"].tolist() == orange


def test_the_fit_of_the_main_reading_is_that_of_the_record(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table, fit = tables["gamma-fit"], result.fit
    part = table[(table["reading"] == fit.excess_reference) & (table["null"] == "genuine")]
    np.testing.assert_allclose(part[["t", "free", "free_low", "free_high"]], np.array(fit.curve), atol=1e-12)
    np.testing.assert_allclose(part[["t", "isotonic"]], np.array(fit.isotonic), atol=1e-12)
    prefixes = {fit.excess_reference: "excess", "signal clock": "signal", "noise clock": "noise"}
    for (reading, null), group in table.groupby(["reading", "null"]):
        one = fit.estimates[f"{prefixes[str(reading)]}_{null}"]
        assert [*group[["gamma", "gamma_low", "gamma_high"]].iloc[0]] == pytest.approx([one.value, one.low, one.high])


def test_the_residuals_on_paper_follow_from_the_table(
    tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]]
) -> None:
    table, axes = tables["gamma-fit"], canvases["gamma-fit"]
    readings = list(table["reading"].unique())
    assert len(axes) == 3 * len(readings)
    for panel, reading in zip(axes[2 * len(readings) :], readings, strict=True):
        group = table[table["reading"] == reading]
        rest = (group["free"] - group["gamma"]) / ((group["free_high"] - group["free_low"]) / 2)
        drawn = np.concatenate([line[1] for line in drawn_lines(panel)[1:]])  # the first is zero itself
        np.testing.assert_allclose(np.sort(drawn), np.sort(rest.clip(-EDGE, EDGE)), atol=1e-9)


def test_the_null_gallery_measures_the_artefact(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table, base = tables["nulls"], result.measurements["base"]
    assert list(table["reading"].unique()) == list(READINGS)
    assert "model" not in set(table[table["part"] == "curve"]["kind"])
    sizes = table[table["part"] == "against the diagonal"].set_index(["reading", "kind"])["value"]
    above = table[table["part"] == "above genuine"].set_index("reading")["value"]
    for reading in READINGS:
        kinds, kept = base.readings()[reading], result.raw_curves[reading]
        slack = {kind: kinds[kind].mean_slack(everyone(kinds[kind]))[0, kept.kept] for kind in ("genuine", "exact")}
        for kind, mean in slack.items():
            assert sizes[(reading, kind)] == pytest.approx(2 * mean @ kept.weight, abs=1e-12)
        if reading != result.fit.excess_reference:  # that one is calibrated on genuine states first
            assert above[reading] == pytest.approx(2 * (slack["exact"] - slack["genuine"]) @ kept.weight, abs=1e-12)
    zero = result.fit.estimates["excess_genuine"].value - result.fit.estimates["excess_exact"].value
    assert above[result.fit.excess_reference] == pytest.approx(zero, abs=1e-12)
    assert abs(sizes[("fresh", "exact")]) > 0.1  # a perfect model far off the diagonal
    assert abs(sizes[("level", "exact")]) < 0.05


def test_a_calibration_stands_beside_the_nulls(result: RunResult, calibration: Path) -> None:
    both, alone = RunResult.load(result.path / "measure-base", calibration), RunResult.load(calibration)
    figure = FIGURES.get("nulls")
    table = figure.data(both)
    dots = table[table["part"].str.startswith("calibration")]
    assert set(dots[dots["part"] == "calibration, usable"]["reading"]) == {"level"}
    assert set(dots[dots["part"] == "calibration, not usable"]["reading"]) == {"own"}
    drawn = canvas(figure, table).axes[-1]
    assert drawn.get_xlabel() == "gamma planted"
    assert figure.panels(table).count == len(READINGS) + 2
    assert figure.panels(figure.data(alone)).count == 1
    assert "usable readings: level" in figure.alt(figure.data(alone))
    assert rendered(figure, figure.data(alone), "svg")


def test_peers_stand_beside_their_nulls(tables: dict[str, pd.DataFrame], with_peers: RunResult) -> None:
    table = tables["peers"]
    assert set(table["measure"]) == {"norms", "delta", "sliced"}
    norms = with_peers.measured.measure("norms")
    part = table[(table["quantity"] == "velocity_ratio") & (table["kind"] == "exact")]
    np.testing.assert_array_equal(part["value"], norms["velocity_ratio_null"])


def test_the_sample_sheets_show_the_measured_samples(
    result: RunResult, tables: dict[str, pd.DataFrame], canvases: dict[str, list[Axes]]
) -> None:
    for row, axes in zip(tables["samples"].itertuples(), canvases["samples"], strict=True):
        final = torch.from_numpy(result.measurements[row.arm].array("final")).view(-1, 1, 8, 8)
        np.testing.assert_array_equal(np.asarray(row.sheet)[1:9, 1:9], quantise(final)[0])
        np.testing.assert_array_equal(np.asarray(row.sheet)[10:18, 10:18], quantise(final)[11])
        shown = axes.get_images()[0].get_array()
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(row.sheet)[..., 0])
        assert axes.get_title(loc="left") == row.title


def test_tiles_stand_row_by_row_a_white_pixel_apart() -> None:
    sheet = tile(np.arange(3, dtype=np.uint8).repeat(4).reshape(3, 2, 2, 1), columns=2)
    assert sheet.shape == (7, 7, 1)
    np.testing.assert_array_equal(sheet[1:3, 1:3, 0], 0)
    np.testing.assert_array_equal(sheet[1:3, 4:6, 0], 1)
    np.testing.assert_array_equal(sheet[4:6, 1:3, 0], 2)
    np.testing.assert_array_equal(sheet[4:6, 4:6, 0], 255)
    assert (sheet[::3] == 255).all()


def test_a_sheet_is_written_as_png(tmp_path: Path) -> None:
    save_sheet(np.zeros((3, 4, 4, 1), dtype=np.uint8), tmp_path / "grey.png")
    save_sheet(np.zeros((3, 4, 4, 3), dtype=np.uint8), tmp_path / "colour.png")
    assert (tmp_path / "grey.png").read_bytes().startswith(MAGIC["png"])
    assert (tmp_path / "colour.png").read_bytes().startswith(MAGIC["png"])


def test_a_study_shows_its_planted_truth(studied: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    calls, gamma, length, lag = (tables[f"study-{name}"] for name in ("calls", "gamma", "length", "lag"))
    assert set(calls["length"]) == {0, max(LENGTHS)}
    assert list(calls["arm"].unique())[:3] == ["base", "plain", "mixflow-0"]
    assert set(gamma["gamma"].dropna()) == set(GAMMAS)
    over = gamma[(gamma["seed"] == -1) & (gamma["metric"] == "fd") & (gamma["budget"] == 50)].set_index("arm")["value"]
    # three seeds of spread 1.5: the mean is 0.9 off
    assert over["mixflow-0.4"] == pytest.approx(fd("mixflow", 0.4, 3000, 50), abs=3.5)
    assert set(length["length"]) == {0, *LENGTHS}
    assert set(length["budget"]) == {min(BUDGETS), max(BUDGETS)}
    assert list(lag["panel"].unique()) == ["level", "signal clock", "noise clock", "fd", "coverage"]
    assert "base" not in set(lag[lag["panel"] == "fd"]["arm"])


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_study_becomes_a_drawing(tables: dict[str, pd.DataFrame], name: str) -> None:
    figure = FIGURES.get(name)
    assert rendered(figure, tables[name], "png").startswith(MAGIC["png"])
    assert re.search(r"\d", figure.alt(tables[name]))


def test_the_peers_become_a_drawing(tables: dict[str, pd.DataFrame]) -> None:
    """Every other figure becomes one on the page of test_report."""
    assert rendered(FIGURES.get("peers"), tables["peers"], "svg").startswith(MAGIC["svg"])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["samples"])
def test_the_bytes_have_their_format_and_are_stable(tables: dict[str, pd.DataFrame], name: str, suffix: str) -> None:
    figure, table = FIGURES.get(name), tables[name]
    content = rendered(figure, table, suffix)
    assert content.startswith(MAGIC[suffix])
    assert rendered(figure, table.copy(), suffix) == content


@pytest.mark.parametrize("name", NAMES)
def test_no_words_lie_on_each_other(canvases: dict[str, list[Axes]], name: str) -> None:
    """Heads, labels, notes and legends of different panels, and those of one panel, keep apart."""
    paper = canvases[name][0].figure
    assert isinstance(paper, Canvas)
    paper.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in paper.axes for text in _words(axes)]
    boxes += [legend.get_window_extent() for legend in paper.legends]
    for k, one in enumerate(boxes):
        for other in boxes[k + 1 :]:
            shared = Bbox.intersection(one, other)
            assert shared is None or min(shared.width, shared.height) < 2.0, name


def _words(axes: Axes) -> list[Text]:
    """Titles, axis labels and annotations that say something."""
    every = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    return [text for text in every if text.get_text().strip()]


@pytest.mark.parametrize("name", NAMES)
def test_the_alt_text_is_a_sentence_with_numbers(tables: dict[str, pd.DataFrame], name: str) -> None:
    text = FIGURES.get(name).alt(tables[name])
    assert re.match(r"[A-Z].*\d.*\.$", text, flags=re.DOTALL)
    assert "nan" not in text.lower()


@pytest.mark.parametrize("name", NAMES)
def test_title_and_caption_are_written(name: str) -> None:
    figure = FIGURES.get(name)
    assert figure.title.endswith("?")
    assert figure.caption.endswith(".")
    assert len(figure.caption) > 100  # it says how to read the figure


def test_saving_writes_the_figure_and_its_table(result: RunResult, tmp_path: Path) -> None:
    for name in ("fan", "samples"):
        path = save(FIGURES.get(name), result, tmp_path / f"{name}.svg")
        assert path.read_bytes().startswith(MAGIC["svg"])
        table = pd.read_csv(path.with_name(path.name + ".csv"))
        assert list(table.columns) == [c for c in COLUMNS[name] if c != "sheet"]
    np.testing.assert_allclose(
        pd.read_csv(tmp_path / "fan.svg.csv")["mean"], FIGURES.get("fan").data(result)["mean"], rtol=1e-12
    )


def test_an_unknown_format_is_refused(result: RunResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.gif' is not a figure format"):
        save(FIGURES.get("gamma"), result, tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lacking", list(LACKING))
def test_a_result_without_the_data_is_refused(lacking: str, request: pytest.FixtureRequest) -> None:
    shown = request.getfixturevalue(lacking)
    for name in NAMES:
        figure = FIGURES.get(name)
        if name in LACKING[lacking]:
            with pytest.raises(InputError):
                figure.data(shown)
        else:
            assert figure.panels(figure.data(shown)).count >= 1


def test_what_is_lacking_is_named_with_the_command_that_makes_it(undiagnosed: RunResult, plain_only: RunResult) -> None:
    for name, words in (("causes", "slowflow diagnose"), ("peers", "--measure norms")):
        with pytest.raises(InputError, match=words):
            FIGURES.get(name).data(undiagnosed)
    for name, words in (("clocks", "--reference clocks"), ("excess", "without nulls"), ("nulls", "without nulls")):
        with pytest.raises(InputError, match=words):
            FIGURES.get(name).data(plain_only)
    assert rendered(FIGURES.get("fan"), FIGURES.get("fan").data(plain_only), "svg")


def test_many_panels_stand_in_even_rows() -> None:
    for count, rows, across in ((1, 1, 1), (4, 1, 4), (5, 2, 3), (7, 2, 4), (9, 3, 3), (11, 3, 4)):
        panels = Panels(count, 3.0, 2.0)
        assert (panels.rows, panels.across) == (rows, across)
        assert panels.inches == (3.0 * across, 2.0 * rows)


def test_guided_and_fine_states_are_drawn_where_they_were_measured(tables: dict[str, pd.DataFrame]) -> None:
    fan, excess = tables["fan"], tables["excess"]
    more = [
        fan[fan["kind"] == "model"].assign(kind=kind, mean=lambda f: 0.9 * f["mean"]) for kind in ("unguided", "fine")
    ]
    axes = canvas(FIGURES.get("fan"), pd.concat([fan, *more])).axes
    for one in more:
        part = one[one["reading"] == "level"]
        assert holds(axes[READINGS.index("level")], part["t"], part["mean"])
    beside = [excess[excess["null"] == "exact"].assign(null=null) for null in ("unguided", "fine")]
    labels = canvas(FIGURES.get("excess"), pd.concat([excess, *beside])).legends[0].get_texts()
    assert {"above this model, no guidance", "above this model, fine solver"} <= {label.get_text() for label in labels}


def test_latents_cannot_be_drawn_as_images(result: RunResult) -> None:
    base = result.measurements["base"]
    latent = replace(base, facts={**base.facts, "shape": [4, 4, 4]})
    with pytest.raises(InputError, match="not images"):
        FIGURES.get("samples").data(replace(result, measurements={"base": latent}))


def test_a_measurement_is_shown_whatever_stands_before_it(result: RunResult) -> None:
    mixed = RunResult.load(result.path / "evaluate-base", result.path / "measure-base")
    for name in ("fan", "excess", "gamma", "quality"):
        assert len(FIGURES.get(name).data(mixed))


def test_two_runs_of_one_folder_name_are_both_shown(result: RunResult, tmp_path: Path) -> None:
    paths = [shutil.copytree(result.path / f"measure-{arm}", tmp_path / arm / "measure") for arm in ("base", "mixflow")]
    assert len(RunResult.load(*paths).measurements) == 2


def test_a_title_with_dollar_signs_is_text_and_not_mathematics(result: RunResult) -> None:
    arms = [replace(result.arms[0], title="run_$a_{$"), *result.arms[1:]]
    figure = FIGURES.get("quality")
    assert rendered(figure, figure.data(replace(result, arms=arms)), "svg")


def test_an_arm_that_broke_down_does_not_hide_the_others(tmp_path: Path) -> None:
    """One arm at 2,000 among twenty around 60: the axis shows the twenty, and an arrow says where the other lies."""
    more = [(f"rival-{k}", "rival", None) for k in range(12)] + [("over-slowed", "over-slowed", None)]

    def truth(arm: str, gamma: float | None, length: int, budget: int) -> float:
        return 2000.0 if arm == "over-slowed" else 60.0 + len(arm) % 5

    result = RunResult.load(planted(tmp_path / "s", truth, more=more))
    for name in ("study-remedies", "study-calls"):
        figure = FIGURES.get(name)
        panel = canvas(figure, figure.data(result)).axes[0]
        low, high = panel.get_xlim() if name == "study-remedies" else panel.get_ylim()
        assert high - low < 100.0
        said = " ".join(text.get_text() for text in panel.texts)
        assert ("+1,9" if name == "study-remedies" else "off the scale: over-slowed") in said
