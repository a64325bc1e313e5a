"""The speed suite itself: what it counts, how it judges, and that the part for GPUs runs where there is none."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from speed import gpu, rows, timing  # noqa: E402
from speed.machine import Machine  # noqa: E402
from speed.timing import AT_LEAST, AT_MOST, Ratio  # noqa: E402

from slowflow.families.sit.backbone import preset  # noqa: E402

MACHINE = Machine(1e11, 5e10, 3e10)


def test_rows_are_half_of_the_official_scripts():
    assert {one.name: one.value for one in rows.run(MACHINE)} == {
        "sde_rows_over_official": 0.5,
        "autoguidance_rows_over_official": 0.5,
    }


@pytest.mark.parametrize(("size", "published"), [("S", 6.06), ("B", 23.01), ("L", 80.71), ("XL", 118.64)])
def test_operations_are_those_published_for_dit(size, published):
    """Peebles and Xie 2023, table 4: Gflops at patch 2, which count one for a multiplication with its addition."""
    assert gpu.operations(preset(size)) == pytest.approx(2e9 * published, rel=0.01)


def test_the_gpu_suite_walks_on_a_small_network():
    found = gpu.run(torch.device("cpu"), tiny=True)
    assert [one.name for one in found] == ["gpu_images_over_eager", "gpu_share_of_peak", "gpu_measure_over_bare"]
    assert all(one.value > 0 for one in found)


def test_without_a_gpu_the_suite_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "bench.py", "--gpu"], capture_output=True, text=True, check=True
    )
    assert "no GPU here" in done.stdout


def ratio(value, half, side):
    return Ratio("x", value, value - half, value + half, side, 1.0)


def test_slower_means_beyond_both_noises():
    assert ratio(1.5, 0.1, AT_MOST).worse_than(ratio(1.2, 0.1, AT_MOST))
    assert not ratio(1.3, 0.1, AT_MOST).worse_than(ratio(1.2, 0.1, AT_MOST))
    assert ratio(10.0, 1.0, AT_LEAST).worse_than(ratio(20.0, 1.0, AT_LEAST))
    assert not ratio(20.0, 1.0, AT_LEAST).worse_than(ratio(10.0, 1.0, AT_LEAST))


def test_compare_names_what_became_slower_and_exits_with_one(tmp_path):
    better = {"sde_rows_over_official": vars(Ratio("sde_rows_over_official", 0.25, 0.25, 0.25, AT_MOST, 0.5))}
    (tmp_path / "old.json").write_text(json.dumps({"details": better}))
    command = [BENCHMARKS / "bench.py", "rows", "--compare", tmp_path / "old.json", "--out", tmp_path / "new.json"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "slower: sde_rows_over_official: 0.250" in done.stdout
    assert json.loads((tmp_path / "new.json").read_text())["autoguidance_rows_over_official"] == 0.5


def test_quotients_are_of_neighbours_and_the_median_is_reported(monkeypatch):
    """A machine that slows down by a factor a round changes both sides of a quotient alike."""
    clock = itertools.count()
    monkeypatch.setattr(timing, "seconds", lambda work: work() * 1.5 ** (next(clock) // 2))
    assert timing.quotients(lambda: 3.0, lambda: 2.0, 5) == pytest.approx((1.5, 1.5, 1.5))
