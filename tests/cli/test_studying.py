"""study, compare, suggest --method: answers, and one clear sentence for what cannot be."""

import json
import re
from pathlib import Path

import pytest
from slowflow_cli.main import app
from studymaker import planted, protocol
from typer.testing import CliRunner

from slowflow.comparison import compare
from slowflow.measuring import evidence
from slowflow.measuring.measurement import Measurement

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example-study.toml"


def slowflow(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.stderr}\n{result.stdout}"
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("cli") / "study")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "measured"
    few = ["--samples", "20", "--steps", "2", "--threads", "1", "--quiet", "--reference", "level"]
    slowflow("measure", "digits-sit", "--data", "digits", "--out", out, *few)
    return out


def test_a_study_can_be_planned_without_running_it(tmp_path):
    out, _ = slowflow("study", EXAMPLE, "--out", tmp_path / "s", "--dry-run", "--json")
    plan = json.loads(out)["plan"]
    assert [row["arm"] for row in plan[:3]] == ["base", "base", "mixflow-0"]
    assert {row["seed"] for row in plan} == {0, 1}
    assert all(row["calls"] > 0 for row in plan)
    assert not (tmp_path / "s").exists()


def test_a_file_that_is_no_study_is_one_sentence(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('name = "s"\nlengths = 3\ndata = "digits"\nfeatures = "pixels"\n')
    _, err = slowflow("study", file, "--out", tmp_path / "s", code=3)
    assert "'lengths' in" in err
    assert "Traceback" not in err


def test_compare_says_differences_and_regret(study):
    out, err = slowflow("compare", study, "--json")
    found = json.loads(out)
    assert {"table", "differences", "regret"} <= found.keys()
    row = next(
        r for r in found["differences"] if r["arm"] == "mixflow-0.4" and r["length"] == 3000 and r["metric"] == "fd"
    )
    assert {"value", "low", "high", "n", "seeds", "against", "nfe"} <= row.keys()
    assert row["against"] == "plain"
    assert {one["method"] for one in found["regret"]} >= {"excess", "fixed 0.8", "fixed 0.4"}
    assert "minus that of plain" in err
    assert re.search(r"^regret in FD-\w+ at 50 steps", err, re.MULTILINE)
    assert re.search(r"^FD-\w+ at 50 steps, minus that of plain$", err, re.MULTILINE)
    assert "fd at" not in err
    assert re.search(r"^  no correction +[+-]\d", err, re.MULTILINE)
    assert "nan" not in err
    assert str(compare(study)) in err
    against, _ = slowflow("compare", study, "--against", "base")
    assert "minus that of base" in against


def test_compare_refuses_unlike_protocols_by_field(study, tmp_path):
    other = planted(tmp_path / "other", other=protocol(sampling={"steps": [5], "samples": 400}), gammas=(0.4, 0.8))
    _, err = slowflow("compare", study, other, code=3)
    assert "differ in protocol.sampling.samples: 500 -> 400" in err
    _, err = slowflow("compare", study, planted(tmp_path / "data", data="e", gammas=(0.4, 0.8)), code=3)
    assert "data_sha256" in err
    _, err = slowflow("compare", study, "--against", "nobody", code=3)
    assert "no finished arm 'nobody'" in err


def test_compare_pairs_two_measurements(measured, tmp_path):
    other = tmp_path / "other"
    few = ["--samples", "20", "--steps", "3", "--threads", "1", "--quiet", "--reference", "level"]
    slowflow("measure", "digits-sit", "--data", "digits", "--out", other, *few)
    _, err = slowflow("compare", measured, other, code=3)
    assert "differ in steps: 2 and 3" in err
    _, err = slowflow("compare", measured, code=3)
    assert "give at least two" in err
    same = tmp_path / "same"
    few[few.index("3")] = "2"
    slowflow("measure", "digits-sit", "--data", "digits", "--out", same, *few)
    found = json.loads(slowflow("compare", measured, same, "--json")[0])
    assert {row["metric"] for row in found["differences"]} == {"lag (level)"}
    assert found["differences"][0]["value"] == 0.0
    assert found["lag_change"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 20}


def test_a_study_is_drawn_and_is_no_report(study, tmp_path):
    slowflow("plot", study, "--figure", "study-lag", "--out", tmp_path / "lag.svg")
    assert (tmp_path / "lag.svg.csv").exists()
    _, err = slowflow("plot", study, "--figure", "fan", "--out", tmp_path / "x.png", code=3)
    assert "holds no measurement" in err
    _, err = slowflow("plot", study, study, "--figure", "study-lag", "--out", tmp_path / "x.png", code=3)
    assert "stands alone" in err


def test_suggest_takes_the_method_asked_for(measured):
    fits = {
        m: json.loads(slowflow("suggest", measured, "--method", m, "--json")[0]) for m in ("auto", "band", "excess")
    }
    assert fits["band"]["gamma"] == min(max(fits["band"]["estimates"]["band"]["value"], 0.0), 1.0)
    supported = evidence.stored()["method"]
    pilot = f"a pilot, the gamma that was {supported} steps"
    called = "the band" if supported == "band" else pilot if supported.startswith("best after") else supported
    assert fits["auto"]["chosen"].startswith(f"auto takes {called}")
    expected = float(supported.removeprefix("fixed ")) if supported.startswith("fixed ") else fits["band"]["gamma"]
    assert fits["auto"]["gamma"] == (fits["excess"]["gamma"] if supported == "excess" else expected)
    zero = fits["excess"]["estimates"]["excess_genuine"]["value"]
    assert fits["excess"]["gamma"] == min(max(zero, 0.0), 1.0)
    assert fits["excess"]["method"] == "excess"
    assert Measurement.load(measured).suggest(method="excess").gamma == fits["excess"]["gamma"]
    _, err = slowflow("suggest", measured, "--method", "bnad", code=3)
    assert "expected one of auto, band, excess, or pilot" in err
    _, err = slowflow("suggest", measured, "--method", "pilot", code=3)
    assert "needs --budget" in err
    _, err = slowflow("suggest", measured, "--method", "pilot", "--budget", "1000", code=3)
    assert "too small for 7 gammas" in err
