"""Figures: the table is the figure's truth, the drawing shows that table, bytes are stable, words hold numbers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.figures import FIGURES, save
from slowflow.figures.base import FORMATS, canvas, rendered
from slowflow.figures.samples import save_sheet, tile
from slowflow.flow.generate import quantise
from slowflow.flow.model import FlowModel
from slowflow.measuring.engine import measure
from slowflow.records import Probe
from slowflow.results import RunResult

NAMES = FIGURES.names()
COLUMNS = {
    "fan": ["reference", "kind", "t", "mean", "q05", "q95"],
    "excess": ["t", "excess", "low", "high", "reference", "null"],
    "before-after": ["t", "excess", "low", "high", "arm", "title", "role", "null"],
    "gamma": ["name", "meaning", "value", "low", "high", "chosen"],
    "quality": ["arm", "title", "role", "metric", "label", "nfe", "steps", "value", "low", "high"],
    "samples": ["arm", "title", "steps", "sheet"],
    "slack": ["t", "slack", "reference", "kind"],
}
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def tables(result: RunResult) -> dict[str, pd.DataFrame]:
    return {name: FIGURES.get(name).data(result) for name in NAMES}


def drawn_lines(axes: Axes) -> list[np.ndarray]:
    """x and y of every line on the axes, [2, points] each."""
    return [np.array([line.get_xdata(), line.get_ydata()], dtype=float) for line in axes.get_lines()]


def holds(axes: Axes, x: pd.Series, y: pd.Series) -> bool:
    wanted = np.array([x, y], dtype=float)
    return any(line.shape == wanted.shape and np.array_equal(line, wanted) for line in drawn_lines(axes))


def panels(name: str, table: pd.DataFrame) -> list[Axes]:
    return list(canvas(FIGURES.get(name), table).axes)


def test_every_figure_is_tested_here() -> None:
    assert set(NAMES) == set(COLUMNS)  # a new figure must add its columns above


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_its_columns_and_no_gaps(tables: dict[str, pd.DataFrame], name: str) -> None:
    table = tables[name]
    assert list(table.columns) == COLUMNS[name]
    assert len(table)
    assert not table.drop(columns="sheet", errors="ignore").isna().any(axis=None)


def test_the_fan_is_the_measurement_with_its_nulls(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table = tables["fan"]
    assert set(table["kind"]) == {"model", "genuine", "exact", "coarse"}
    for reference in ("own", "nearest", "level"):
        part = table[(table["reference"] == reference) & (table["kind"] == "model")]
        m = result.measurements["base"].array("m", reference=reference)
        assert part["t"].iloc[0] == part["mean"].iloc[0] == 0.0
        np.testing.assert_allclose(part["mean"].iloc[1:], m.mean(0), rtol=1e-12)
        np.testing.assert_allclose(part["q95"].iloc[1:], np.quantile(m, 0.95, axis=0), rtol=1e-12)


def test_the_excess_is_the_difference_of_the_fans(tables: dict[str, pd.DataFrame]) -> None:
    fan = tables["fan"].set_index(["reference", "kind", "t"])["mean"]
    for row in tables["excess"].itertuples():
        gap = fan[(row.reference, "model", row.t)] - fan[(row.reference, row.null, row.t)]
        assert row.excess == pytest.approx(gap, abs=1e-12)


def test_the_slack_of_the_violins_is_that_of_the_samples(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    slack, base = tables["slack"], result.measurements["base"]
    part = slack[(slack["reference"] == "level") & (slack["kind"] == "model") & (slack["t"] == 0.625)]
    expected = 1 - base.array("m", reference="level")[:, base.array("t") == 0.625].ravel() / 0.625
    np.testing.assert_allclose(part["slack"], expected, rtol=1e-12)
    for axes, (_, group) in zip(panels("slack", slack), slack.groupby("reference", sort=False), strict=True):
        corners = [path.vertices[:, 1] for c in axes.collections for path in c.get_paths()]
        assert min(c.min() for c in corners) == pytest.approx(group["slack"].min(), abs=1e-9)  # violins end at the data
        assert max(c.max() for c in corners) == pytest.approx(group["slack"].max(), abs=1e-9)


@pytest.mark.parametrize("name", ["fan", "excess", "before-after", "quality"])
def test_the_curves_on_paper_are_those_of_the_table(tables: dict[str, pd.DataFrame], name: str) -> None:
    table = tables[name]
    panel, curve, y = {
        "fan": ("reference", "kind", "mean"),
        "excess": ("reference", "null", "excess"),
        "before-after": ("null", "arm", "excess"),
        "quality": ("metric", "arm", "value"),
    }[name]
    axes = panels(name, table)
    assert len(axes) == table[panel].nunique()
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
            elif key != "coarse":  # the table holds it, the fan is read without it
                assert holds(one, part["t"], part[y]), (name, key)


def test_the_fan_draws_the_diagonal_and_its_bands(tables: dict[str, pd.DataFrame]) -> None:
    for one, (_, group) in zip(
        panels("fan", tables["fan"]), tables["fan"].groupby("reference", sort=False), strict=True
    ):
        assert any(np.array_equal(line, [[0, 1], [0, 1]]) for line in drawn_lines(one))
        for kind in ("genuine", "model"):
            part = group[group["kind"] == kind]
            corners = {tuple(v) for c in one.collections for path in c.get_paths() for v in path.vertices}
            assert {*zip(part["t"], part["q05"], strict=True), *zip(part["t"], part["q95"], strict=True)} <= corners


def test_the_gamma_figure_has_a_dot_and_a_bar_an_estimate(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    table, (axes,) = tables["gamma"], panels("gamma", tables["gamma"])
    dots = {(line[0, 0], line[1, 0]) for line in drawn_lines(axes) if line.shape[1] == 1}
    assert dots == {(value, row) for row, value in enumerate(table["value"])}
    bars = [segment for c in axes.collections for segment in c.get_segments()]
    assert [(s[0][0], s[1][0]) for s in bars] == list(zip(table["low"], table["high"], strict=True))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table["meaning"])
    assert table[table["chosen"]]["value"].tolist() == [result.fit.estimates["band"].value]


def test_the_sample_sheets_show_the_measured_samples(result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    for row, axes in zip(tables["samples"].itertuples(), panels("samples", tables["samples"]), strict=True):
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


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_have_their_format_and_are_stable(tables: dict[str, pd.DataFrame], name: str, suffix: str) -> None:
    figure, table = FIGURES.get(name), tables[name]
    content = rendered(figure, table, suffix)
    assert content.startswith(MAGIC[suffix])
    assert rendered(figure, table.copy(), suffix) == content


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


def test_saving_writes_the_figure_and_its_table(result: RunResult, tmp_path: Path) -> None:
    for name in NAMES:
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


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("fan", "evaluated_only"),
        ("excess", "evaluated_only"),
        ("gamma", "evaluated_only"),
        ("slack", "evaluated_only"),
        ("samples", "evaluated_only"),
        ("before-after", "evaluated_only"),
        ("before-after", "measured_only"),
        ("quality", "measured_only"),
    ],
)
def test_a_result_without_the_data_is_refused(name: str, lacking: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError):
        FIGURES.get(name).data(request.getfixturevalue(lacking))


def test_no_null_means_no_excess(tmp_path: Path, tiny_model: Callable[..., FlowModel], images: ImageSet) -> None:
    probe = Probe(samples=20, steps=(4,), references=("own",), nulls=())
    measure(tiny_model(), images, probe, tmp_path / "run", heldout=0.5)
    alone = RunResult.load(tmp_path / "run")
    with pytest.raises(InputError, match="without nulls"):
        FIGURES.get("excess").data(alone)
    assert rendered(FIGURES.get("fan"), FIGURES.get("fan").data(alone), "svg")


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
