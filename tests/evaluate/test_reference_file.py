"""evaluate against a reference file in ADM's layout: the published protocol, by moments, whatever made them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.errors import InputError
from slowflow.evaluating.coverage import neighbourhood
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.evaluation import Evaluation
from slowflow.evaluating.features import Features, open_features
from slowflow.evaluating.filed import evaluate_file
from slowflow.evaluating.frechet import distance
from slowflow.evaluating.inception_score import inception_score
from slowflow.evaluating.moments import Moments, moments
from slowflow.evaluating.reference import open_reference
from slowflow.flow.model import FlowModel
from slowflow.published import rows as published_rows
from slowflow.reporting.markdown import render_markdown
from slowflow.reporting.render import render
from slowflow.results import RunResult

Factory = Callable[..., FlowModel]
SOURCE = """
import torch

def adm(images):
    small = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
    return {"features": small, "spatial": small[:, :2] ** 2, "probabilities": small.softmax(1)}
"""


def pictures(n: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.clip(draw.normal(128, 50, size=(n, 8, 8, 1)) + 30 * draw.normal(size=(n, 1, 1, 1)), 0, 255).astype(
        np.uint8
    )


def seen(levels: np.ndarray) -> dict[str, np.ndarray]:
    """What the features above say of pictures, computed apart."""
    values = levels.astype(np.float32)[..., 0] / 127.5 - 1
    small = values.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)
    exp = np.exp(small)
    return {"features": small, "spatial": small[:, :2] ** 2, "probabilities": exp / exp.sum(axis=1, keepdims=True)}


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Features:
    (tmp_path / "adm_features.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("adm_features", None)
    return open_features("adm_features:adm", (1, 8, 8))


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """80 pictures, and moments of 500 others: as ADM's files hold 10,000 and the moments of all of ImageNet."""
    whole = seen(pictures(500, 1))
    file = tmp_path / "VIRTUAL_waves.npz"
    main, spatial = moments(whole["features"]), moments(whole["spatial"])
    stored = {"mu": main.mean, "sigma": main.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    np.savez(file, arr_0=pictures(80, 2), **stored)
    return file


def test_the_numbers_are_the_usual_evaluators(tmp_path: Path, features: Features, reference: Path) -> None:
    made = pictures(120, 3)
    np.savez(tmp_path / "made.npz", arr_0=made)
    found = evaluate_file(tmp_path / "made.npz", open_reference(reference), features, tmp_path / "run")
    ours, whole, real = seen(made), seen(pictures(500, 1)), seen(pictures(80, 2))
    value = {metric: found.estimate(metric, 0).value for metric in found.all_metrics}
    assert value["fd"] == pytest.approx(distance(moments(ours["features"]), moments(whole["features"])), rel=1e-6)
    assert value["sfd"] == pytest.approx(distance(moments(ours["spatial"]), moments(whole["spatial"])), rel=1e-6)
    assert value["is"] == pytest.approx(inception_score(ours["probabilities"], np.ones((1, 120)))[0], rel=1e-6)
    near = neighbourhood(real["features"], ours["features"], np.ones((1, 120)))
    assert value["precision"] == pytest.approx(near.precision[0])
    assert value["recall"] == pytest.approx(near.recall[0])
    assert found.metrics == ["fd", "sfd", "is", "precision", "recall"]  # what a page shows of it
    protocol = found.protocol(0)
    assert (protocol["n"], protocol["n_real"]) == (120, 80)
    assert protocol["reference"]["name"] == "VIRTUAL_waves"
    assert protocol["features"]["note"]
    assert found.facts["memorisation"] == {}


def test_a_model_is_evaluated_against_it_too(
    tmp_path: Path, features: Features, reference: Path, tiny_model: Factory
) -> None:
    sampling = Sampling(samples=130, steps=(2, 3))
    found = evaluate(tiny_model(), open_reference(reference), features, sampling, tmp_path / "run")
    again = Evaluation.load(tmp_path / "run")
    assert again.estimate("fd", 3) == found.estimate("fd", 3)
    answer = json.loads(json.dumps(found.result(), allow_nan=False))
    assert {"fd", "fd_infinity", "sfd", "is"} <= answer["metrics"].keys()
    page = render(RunResult.load(tmp_path / "run"))
    assert "VIRTUAL_waves" in page
    assert "recall" in page


def test_moments_alone_allow_distances_and_the_score(tmp_path: Path, features: Features, tiny_model: Factory) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    found = evaluate(
        tiny_model(),
        open_reference(tmp_path / "stats.npz"),
        features,
        Sampling(samples=20, steps=(2,)),
        tmp_path / "run",
    )
    assert found.all_metrics == ["fd", "is"]
    values = found._stored[2]["features"]
    assert found.estimate("fd", 2).value == pytest.approx(
        distance(moments(values), Moments(np.zeros(4), np.eye(4), 0)), rel=1e-9
    )
    with pytest.raises(InputError, match="does not allow 'recall'"):
        found.estimate("recall", 2)


def test_moments_of_other_features_are_refused(tmp_path: Path, features: Features, tiny_model: Factory) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    with pytest.raises(InputError, match=r"moments of features of width 2048, FD-adm has 4.*inception:FILE"):
        evaluate(
            tiny_model(),
            open_reference(tmp_path / "stats.npz"),
            features,
            Sampling(samples=20, steps=(2,)),
            tmp_path / "run",
        )


def test_pictures_of_another_size_are_refused(tmp_path: Path, features: Features, reference: Path) -> None:
    np.savez(tmp_path / "made.npz", arr_0=np.zeros((20, 16, 16, 1), dtype=np.uint8))
    with pytest.raises(InputError, match=r"\(1, 8, 8\), the samples have \(1, 16, 16\)"):
        evaluate_file(tmp_path / "made.npz", open_reference(reference), features, tmp_path / "run")


def test_a_note_on_features_and_the_numbers_reach_the_command_line(
    tmp_path: Path, features: Features, reference: Path
) -> None:
    np.savez(tmp_path / "made.npz", arr_0=pictures(130, 3))
    words = ["evaluate", str(tmp_path / "made.npz"), "--data", str(reference), "--features", "adm_features:adm"]
    found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run"), "--threads", "1", "--json"])
    assert found.exit_code == 0, found.stderr
    answer = json.loads(found.stdout)
    assert {"value", "low", "high", "n"} == answer["metrics"]["fd"].keys()
    assert answer["published"] == [{"steps": 0, "rows": []}]
    assert "FD-adm at infinite n" in found.stderr
    assert "code of the user's own" in found.stderr


def test_published_rows_are_said_beside_an_fid(
    tmp_path: Path, features: Features, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name FID is what the published tables go by; here it is lent to the features above."""
    named = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    reference.rename(named)
    np.savez(tmp_path / "SiT-XL-2-256.npz", arr_0=pictures(130, 3))
    lent = Features("FID", "0", features.net)
    monkeypatch.setattr("slowflow.evaluating.features.open_features", lambda *_, **__: lent)
    words = ["evaluate", str(tmp_path / "SiT-XL-2-256.npz"), "--data", str(named), "--features", "lent"]
    found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run"), "--threads", "1"])
    assert found.exit_code == 0, found.stderr
    assert "published: " in found.stdout
    assert "SiT-XL/2, ImageNet 256" in found.stdout
    assert "not the same protocol: " in found.stdout
    again = ["evaluate", words[1], "--data", str(named), "--features", "lent", "--out", str(tmp_path / "second")]
    assert CliRunner().invoke(app, [*again, "--threads", "1"]).exit_code == 0
    both = CliRunner().invoke(app, ["compare", str(tmp_path / "run"), str(tmp_path / "second")])
    assert both.exit_code == 0, both.stderr
    assert "FID of second, minus that of run" in both.stdout
    assert both.stdout.count("not the same protocol: ") == found.stdout.count("not the same protocol: ") * 2
    page = render(RunResult.load(tmp_path / "run"))
    assert "it is not FID" not in page
    beside = page[page.index("Beside published numbers") :]
    assert re.search(r"<th></th><th>FID</th>", beside)
    mine = RunResult.load(tmp_path / "run").evaluations["run"].estimate("fd", 0)
    assert re.search(rf'<tr class="own">.*{mine.value:.2f} \[{mine.low:.2f}', beside)
    assert "SiT-XL/2" in beside
    assert "not stated there" in beside
    published = [row for row in published_rows() if row.model == "REPA-XL/2"]
    lines = render_markdown(RunResult.load(tmp_path / "run"), "REPA-XL/2").splitlines()
    rows = [line for line in lines[lines.index("Beside published numbers:") :] if "REPA-XL/2" in line]
    assert rows
    assert {line.split(" | ")[1] for line in rows} <= {
        f"{row.metrics['fd']:g}" for row in published if "fd" in row.metrics
    }
    with pytest.raises(InputError, match="no published model 'SiT-Z'"):
        render(RunResult.load(tmp_path / "run"), "SiT-Z")


def test_samples_are_streamed_and_labels_judged_by_a_classifier_of_the_data(tmp_path: Path) -> None:
    from slowflow.data.open import open_data

    data = open_data("mnist5k")
    held = data.split(0.2)[1]
    levels = ((held.data[::10].permute(0, 2, 3, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8).numpy()
    np.savez(tmp_path / "real.npz", arr_0=levels, labels=held.labels[::10].numpy())
    found = evaluate_file(tmp_path / "real.npz", data, open_features("fd-mnist", data.shape), tmp_path / "run")
    assert found.estimate("agreement", 0).value > 0.9  # they are real, and the classifier is right on most
    assert found.estimate("is", 0).value > 7
    assert found.label("is") == "IS-mnist"
