"""The strip of trajectories and the training curves: what is drawn is what the network said and what was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

import slowflow
from slowflow.data.images import ImageSet
from slowflow.errors import InputError
from slowflow.figures import FIGURES, trajectories
from slowflow.figures.base import canvas
from slowflow.flow.generate import quantise
from slowflow.flow.model import FlowModel
from slowflow.io.run import RunFolder
from slowflow.results import RunResult


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A measurement of named data, which can be opened again."""
    probe = slowflow.Probe(samples=6, steps=4, references=("nearest",), nulls=())
    return RunResult.load(
        slowflow.measure("digits-sit", "digits", probe, out=tmp_path_factory.mktemp("way") / "run").path
    )


def test_the_predicted_data_are_those_of_the_network(result: RunResult, tiny_model: Callable[..., FlowModel]) -> None:
    found = result.measurements["base"]
    states, t = found.array("kept").astype(np.float64), found.array("t")
    drawn = trajectories._predicted(found, states, t)
    assert drawn is not None
    model, labels = tiny_model(0.85), torch.from_numpy(found.array("labels")[: len(states)])
    for k, time in enumerate(t[:-1]):
        state = torch.from_numpy(states[:, k]).view(-1, 1, 8, 8)
        said, _ = model.predict(state, torch.full((len(state),), float(time), dtype=torch.float64), labels)
        # states are kept in float32, and 1 / step size = 8 multiplies their rounding
        np.testing.assert_allclose(drawn[:, k], said.flatten(1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(drawn[:, -1], states[:, -1])


def test_the_nearest_images_are_real_ones_of_the_class(digits: RunResult) -> None:
    table = trajectories.data(digits)
    near = table[table["row"] == "nearest"]
    bank, _ = slowflow.open_data("digits").split(0.2)
    for row in near.to_dict("records"):
        of_class = quantise(bank.data[bank.labels == row["label"]])
        assert any(np.array_equal(row["image"], image) for image in of_class)
    m = digits.measured.array("m", reference="nearest")
    assert set(near["m"]) == set(m[: trajectories.SAMPLES].ravel())


def test_without_the_data_the_strip_has_no_nearest_row(result: RunResult, digits: RunResult) -> None:
    assert set(trajectories.data(result)["row"]) == {"state", "data_hat"}
    changed = replace(digits)
    found = changed.measured
    other = {**found.facts, "bank": {**found.facts["bank"], "sha256": "0" * 64}}
    assert trajectories._nearest(replace_facts(found, other), 2) is None


def replace_facts(found: slowflow.Measurement, facts: dict) -> slowflow.Measurement:
    return type(found)(found.path, found.config, facts, found.files)


def test_the_strip_says_its_times(digits: RunResult) -> None:
    table = trajectories.data(digits)
    panels = canvas(FIGURES.get("trajectories"), table).axes
    assert len(panels) == trajectories.SAMPLES
    for panel, (_, group) in zip(panels, table.groupby("sample"), strict=True):
        near = group[group["row"] == "nearest"]
        said = [label.get_text() for label in panel.get_xticklabels()]
        assert said == [f"t = {t:.2f}\nm = {m:.2f}" for t, m in zip(near["t"], near["m"], strict=True)]


def test_latents_are_not_drawn(result: RunResult) -> None:
    found = result.measured
    with pytest.raises(InputError, match="are not images"):
        trajectories.image_states(replace_facts(found, {**found.facts, "shape": [4, 8, 8]}))


def curve(axes: list[Axes], panel: int, line: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = axes[panel].get_lines()[line]
    return np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())


def test_the_training_curves_are_the_recorded_losses(result: RunResult) -> None:
    table = FIGURES.get("training").data(result)
    axes = list(canvas(FIGURES.get("training"), table).axes)
    for line, arm in enumerate(("plain", "mixflow")):
        losses = np.array(result.trainings[arm]["loss"])
        parts = np.split(losses, 20)  # 100 steps, 5 a point
        x, y = curve(axes, 0, line)
        np.testing.assert_allclose(x, [part[:, 0].mean() for part in parts])
        np.testing.assert_allclose(y, [part[:, 1].mean() for part in parts])
        x, y = curve(axes, 1, line)
        assert [list(point) for point in zip(x, y, strict=True)] == result.trainings[arm]["validation"]


def test_the_folder_of_a_training_is_drawn(
    tmp_path: Path, tiny_model: Callable[..., FlowModel], images: ImageSet
) -> None:
    folders = []
    for arm in ("a", "b"):
        folder = RunFolder(tmp_path / arm / "plain", "posttrain", {"remedy": {"remedy": "plain"}})
        kept = {"loss": [[1, 2.0], [2, 1.0]], "validation": []}
        (folder.path / "history.json").write_text(json.dumps(kept))
        folder.finish(["history.json"], {})
        folders.append(folder.path)
    drawing = slowflow.plot(folders, "training")
    assert list(dict.fromkeys(drawing.table["arm"])) == ["plain", "b/plain"]
    assert drawing._repr_png_().startswith(b"\x89PNG")
    assert str(drawing) == drawing.alt
    assert pd.read_csv(drawing.save(tmp_path / "t.svg").with_name("t.svg.csv"))["loss"].tolist() == [1.5, 1.5]
