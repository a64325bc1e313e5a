"""sample and evaluate at the command line: labels, hashes of features, published tables."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from slowflow_cli.main import app
from typer.testing import CliRunner, Result

from slowflow.cards import card
from slowflow.evaluating.evaluation import HIGHER_IS_BETTER

SAMPLE = ["sample", "digits-sit", "--n", "30", "--steps", "2", "--threads", "1"]


def slowflow(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_labels_are_drawn_as_asked_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    assert slowflow(*SAMPLE, "--labels", "7", "--out", tmp_path / "a.npz").exit_code == 0
    with np.load(tmp_path / "a.npz") as file:
        assert set(file["labels"]) == {7}
    found = slowflow(*SAMPLE, "--labels", "10", "--out", tmp_path / "b.npz")
    assert (found.exit_code, "10 classes" in found.stderr) == (3, True)


def test_features_of_another_hash_are_refused(tmp_path: Path) -> None:
    weights = card("fd-digits", "features").weights()
    words = ["evaluate", "digits-sit", "--data", "digits", "--features", weights, "--steps", "2", "--samples", "20"]
    words += ["--threads", "1", "--out", tmp_path / "run", "--features-sha256"]
    found = slowflow(*words, "0" * 64)
    assert (found.exit_code, "it is not the file you mean" in found.stderr) == (3, True)
    assert not (tmp_path / "run").exists()
    found = slowflow(*words, hashlib.sha256(weights.read_bytes()).hexdigest(), "--json")
    assert found.exit_code == 0, found.stderr
    answer = json.loads(found.stdout)
    assert all({"value", "low", "high", "n"} == one.keys() for one in answer["metrics"].values())
    assert {"fd", "sfd", "kid", "is", "precision", "recall", "density", "coverage", "agreement"} <= answer[
        "metrics"
    ].keys()
    wanted = {"n", "n_real", "steps", "nfe", "sampler", "guidance", "ema", "dtype", "quantiser", "labels", "versions"}
    assert wanted <= answer["protocol"].keys()
    assert answer["protocol"]["features"]["sha256"] == card("fd-digits", "features").content["sha256"]
    assert len(answer["protocol"]["reference"]["sha256"]) == 64


def test_published_tables_are_listed_with_source_and_certainty() -> None:
    found = json.loads(slowflow("ls", "published", "--json").stdout)
    assert len(found) > 100
    assert {"name", "summary", "source"} == found[0].keys()
    assert any("FID 7.87" in row["summary"] and row["source"].endswith("read") for row in found)
    kinds = {row["name"] for row in json.loads(slowflow("ls", "features", "--json").stdout)}
    assert {"fd-mnist", "pixels", "inception", "dinov2", "function", "torchscript"} <= kinds


def test_an_unknown_published_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    words = ["evaluate", "digits-sit", "--data", "digits", "--features", "pixels", "--steps", "2", "--samples", "20"]
    found = slowflow(*words, "--threads", "1", "--out", tmp_path / "run", "--published", "SiT-Z")
    assert (found.exit_code, "no published model 'SiT-Z'" in found.stderr) == (3, True)


def test_the_table_of_metrics_in_the_page_is_whole() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert {*HIGHER_IS_BETTER, "fd_infinity"} <= set(re.findall(r"^\| `(\w+)` \|", page, flags=re.M))
