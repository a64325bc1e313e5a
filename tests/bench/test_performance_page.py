"""The page on performance says what was measured, and the command that writes it can be trusted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import table  # noqa: E402
from speed.timing import AT_LEAST, AT_MOST, Ratio  # noqa: E402

FOUND = [
    Ratio("own_over_sampling", 0.996, 0.99, 1.01, AT_MOST, 1.05, 1.0),
    Ratio("six_over_sampling", 1.5, 1.4, 1.6, AT_MOST, 1.35),
    Ratio("naive_over_nearest_time", 116.04, 90.0, 130.0, AT_LEAST, 20.0, 213.0, "the product alone"),
]


def result(found=FOUND, machine=None):
    return {
        **{one.name: one.value for one in found},
        "details": {one.name: vars(one) for one in found},
        "machine": machine or {"float32": 8.7e10, "bandwidth": 1.1e10},
        "environment": {"python": "3.11", "torch": "2.13"},
    }


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_page_holds_the_table_of_its_record(kind):
    record = table.RECORDS[kind]
    kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.written(page, kind, kept) == page, "python benchmarks/table.py writes the page again"


def test_a_row_says_bar_value_spread_and_floor_and_a_missed_bar_says_so():
    rows = table.table(result(), "cpu").splitlines()[2:5]
    assert rows == [
        "| `own_over_sampling` | at most 1.05 | 0.996 | 0.990 to 1.010 | 1 |  |",
        "| `six_over_sampling` | at most 1.35 | **1.500** | 1.400 to 1.600 |  | **missed** |",
        "| `naive_over_nearest_time` | at least 20 | 116.0 | 90.0 to 130.0 | 213 | the product alone |",
    ]
    assert "bandwidth 11 G/s, float32 87 G/s. python 3.11, torch 2.13." in table.table(result(), "cpu")


def test_only_what_is_between_the_marks_is_written():
    page = table.PAGE.read_text(encoding="utf-8")
    before, _, after = table.parts(page, "cpu")
    again = table.written(page, "cpu", result())
    assert again.startswith(before)
    assert again.endswith(after)
    assert table.written(again, "cpu", None) == table.written(page, "cpu", None)
    with pytest.raises(ValueError, match="no marks"):
        table.parts("# What SlowFlow costs\n", "cpu")


def test_the_command_keeps_a_record_and_writes_its_table(tmp_path):
    for part in ("benchmarks/speed", "docs", "slowflow"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "benchmarks" / "speed", tmp_path / "benchmarks" / "speed")
    shutil.copy(ROOT / "benchmarks" / "table.py", tmp_path / "benchmarks")
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "reports").mkdir()
    shutil.copy(table.PAGE, tmp_path / "docs")
    gpu = [Ratio("gpu_images_over_eager", 3.0, 3.0, 3.0, AT_LEAST, 2.5)]
    (tmp_path / "last.json").write_text(json.dumps(result()))
    (tmp_path / "last-gpu.json").write_text(json.dumps(result(gpu, {"gpu": "H100"})))
    command = [tmp_path / "benchmarks" / "table.py", tmp_path / "last.json", tmp_path / "last-gpu.json"]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    page = (tmp_path / "docs" / "performance.md").read_text()
    for kind, name in (("cpu", "speed.json"), ("gpu", "speed-gpu.json")):
        kept = json.loads((tmp_path / "reports" / name).read_text())
        assert table.written(page, kind, kept) == page
    assert page.index("`own_over") < page.index("`six_over") < page.index("`naive_over")
    assert "| `gpu_images_over_eager` | at least 2.5 | 3.000 |" in page
    assert "Machine: gpu H100." in page
