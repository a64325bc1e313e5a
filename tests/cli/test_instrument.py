"""The verbs of the instrument: every reference by flag, diagnose, calibrate, approximate search, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import SMALL, refused, slowflow

ALL = ["own", "paired", "paired-late", "nearest", "fresh", "inverted", "level", "clocks", "timeshift"]
VERDICTS = ("none detectable", "detected", "steps dominate", "off path", "fast")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measurement with every cheap reference and all peers' measures."""
    out = tmp_path_factory.mktemp("cli") / "everything"
    flags = [flag for name in ALL for flag in ("--reference", name)]
    flags += [flag for name in ("norms", "delta", "sliced") for flag in ("--measure", name)]
    text, _ = slowflow(
        "measure",
        "digits-sit",
        "--data",
        "digits",
        "--out",
        out,
        "--samples",
        "60",
        "--steps",
        "8",
        "--threads",
        "1",
        *flags,
    )
    for name in (*ALL[:-2], "signal clock", "noise clock", "timeshift"):
        assert f"reference {name}" in text
    for name in ("norms", "delta", "sliced"):
        assert f"measure {name}" in text
    return out


def answer_of(*arguments: object, code: int = 0) -> dict[str, object]:
    return json.loads(slowflow(*arguments, "--json", code=code)[0])


def test_every_reference_is_in_the_answer(everything: Path) -> None:
    flags = [flag for name in ALL for flag in ("--reference", name)]
    flags += [flag for name in ("norms", "delta", "sliced") for flag in ("--measure", name)]
    found = answer_of(
        "measure", "digits-sit", "--data", "digits", "--out", everything,
        "--samples", "60", "--steps", "8", "--threads", "1", *flags,
    )  # fmt: skip
    assert set(found["references"]) == set(ALL)
    clocks = found["references"]["clocks"]
    assert {"t", "m", "null", "excess", "noise"} <= clocks.keys()
    assert set(found["measures"]) == {"norms", "delta", "sliced"}
    assert found["verdict"] in VERDICTS
    assert {"shape", "log_snr_gap", "estimates"} <= found["gamma"].keys()


def test_diagnose_opens_model_and_data_again(everything: Path) -> None:
    found = answer_of("diagnose", everything, "--samples", "40", "--threads", "1")
    assert set(found["shares"]) == {"steps", "local", "accumulation", "off_path"}
    assert found["verdict"] in VERDICTS
    assert found["advice"].endswith(".")
    text, _ = slowflow("diagnose", everything, "--samples", "40", "--threads", "1")
    for word in ("verdict:", "signal clock", "round trip", "inverted noise"):
        assert word in text


def test_diagnose_refuses_what_it_cannot_divide(everything: Path, tmp_path: Path) -> None:
    refused("diagnose", tmp_path / "nothing", says="no such run folder")
    refused(
        "diagnose", everything, "--steps", "8", "--steps", "16", "--out", tmp_path / "a", says="cannot be extrapolated"
    )
    refused(
        "diagnose", everything, "--model", "mnist-sit", "--data", "mnist5k", "--out", tmp_path / "b",
        says="is not the data that",
    )  # fmt: skip


def test_calibrate_says_what_can_be_trusted() -> None:
    found = answer_of(
        "calibrate", "digits-sit", "--data", "digits", "--samples", "60", "--steps", "5", "--reference", "level",
        "--reference", "fresh", "--threads", "1", "--quiet",
    )  # fmt: skip
    assert {"level", "fresh"} <= found["references"].keys()
    for one in found["references"].values():
        assert {"usable", "null_bias", "recovered", "detectable", "reason"} <= one.keys()
    assert not found["references"]["fresh"]["usable"]
    assert found["references"]["fresh"]["reason"].startswith("not usable here")


def test_calibrate_refuses_references_with_another_start() -> None:
    refused(
        "calibrate", "digits-sit", "--data", "digits", "--samples", "60", "--reference", "inverted", says="inverted"
    )


def test_the_approximate_index_prints_what_it_costs(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    text, _ = slowflow(
        "measure",
        "digits-sit",
        "--data",
        "digits",
        "--out",
        tmp_path / "a",
        *SMALL,
        "--backend",
        "approximate",
        "--quiet",
    )
    assert "approximate search under 'nearest': recall" in text
    assert "signed error in m" in text


def test_a_stochastic_sampler_takes_what_needs_no_starting_noise(tmp_path: Path) -> None:
    text, _ = slowflow(
        "measure", "digits-sit", "--data", "digits", "--out", tmp_path / "a", *SMALL, "--sampler", "em", "--quiet"
    )
    assert "reference level" in text
    assert "reference own" not in text
    refused(
        "measure", "digits-sit", "--data", "digits", "--out", tmp_path / "b", *SMALL, "--sampler", "em", "--reference",
        "own", says="the noise it started from", leaves=tmp_path / "b",
    )  # fmt: skip


def test_every_reference_and_measure_is_listed() -> None:
    names = {row["name"] for row in json.loads(slowflow("ls", "references", "--json")[0])}
    assert {*ALL, "level-learned", "timeshift-corrected"} <= names
    assert {row["name"] for row in json.loads(slowflow("ls", "measures", "--json")[0])} == {"norms", "delta", "sliced"}


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m slowflow_cli.main ls references --json | head -c 20; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ})
    assert found.returncode == 0, found.stderr
    assert "BrokenPipe" not in found.stderr
