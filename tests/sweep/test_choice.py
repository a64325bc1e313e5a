"""What auto takes: the rule on planted studies, and the regret behind it in simulated sweeps with planted truth."""

import shutil

import numpy as np
import pandas as pd
import pytest
from studymaker import GAMMAS, planted, protocol

from slowflow.sweep.choice import choose, evidence
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.grid import Sweep
from slowflow.sweep.regret import UNCORRECTED, against, pilot_table, regret

MU = 40.0 * (np.array(GAMMAS) - 0.7) ** 2


def studies(tmp_path, truths, seeds=(0, 1, 2), band=0.15):
    return [
        StudyResult.load(planted(tmp_path / name, truth, seeds=seeds, band=band, other=protocol(name=name)))
        for name, truth in truths.items()
    ]


def best_at(gamma):
    return lambda arm, g, length, budget: 100.0 if g is None else 60.0 + 60.0 * (g - gamma) ** 2


def test_a_fixed_gamma_that_is_better_everywhere_is_taken(tmp_path):
    found = choose(studies(tmp_path, {"a": best_at(0.8), "b": best_at(0.7)}))
    assert found.method == "fixed 0.8"
    assert "clearly better than the band in each of 2 studies" in found.why
    row = found.table.query("study == 'a' and method == 'band' and budget == 20").iloc[0]
    assert not row["within_noise"]
    assert row["regret_low"] <= 60.0 * 0.65**2 <= row["regret_high"]


def test_one_study_where_it_is_worse_keeps_the_band(tmp_path):
    found = choose(studies(tmp_path, {"a": best_at(0.8), "b": best_at(0.1)}))
    assert found.method == "band"
    assert "no other gamma was clearly better in each of 2 studies" in found.why


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_too_few_studies_or_seeds_decide_nothing(tmp_path, seeds):
    truths = {"a": best_at(0.8), "b": best_at(0.8)} if len(seeds) == 1 else {"a": best_at(0.8)}
    found = choose(studies(tmp_path, truths, seeds))
    assert found.method == "band"
    assert "until 2 studies have a whole sweep" in found.why
    assert choose([]).method == "band"


def test_a_sweep_that_lacks_a_planned_gamma_decides_nothing(tmp_path):
    several = studies(tmp_path, {"a": best_at(0.8), "b": best_at(0.8)})
    assert choose(several).method == "fixed 0.8"
    for seed in (0, 1, 2):
        shutil.rmtree(several[1].path / "arms" / f"mixflow-1-seed{seed}")
    part = StudyResult.load(several[1].path)
    assert not evidence(part)["whole"].any()
    found = choose([several[0], part])
    assert found.method == "band"
    assert "(1 so far)" in found.why


def test_the_rule_can_be_repeated_from_its_rows(tmp_path):
    several = studies(tmp_path, {"a": best_at(0.8), "b": best_at(0.7)})
    again = choose(pd.concat([evidence(one) for one in several], ignore_index=True))
    assert again.method == choose(several).method


def test_no_correction_stands_in_the_table_and_is_never_taken(tmp_path):
    """Plain training is planted at 40, below every gamma."""

    def truth(arm, gamma, length, budget):
        return 40.0 if gamma is None else 60.0 + 60.0 * (gamma - 0.15) ** 2

    found = choose(studies(tmp_path, {"a": truth, "b": truth}))
    assert found.method == "band"
    rows = found.table[found.table["method"] == UNCORRECTED]
    assert (rows["high"] < 0.0).all()
    planted_gain = found.table[found.table["method"] == "band"]
    assert (planted_gain["over_plain_low"] <= 20.0).all()  # 60 at its own best gamma, minus 40
    assert (planted_gain["over_plain_high"] >= 20.0).all()
    assert (planted_gain["over_plain_low"] > 0.0).all()
    assert (rows["regret_high"] < 0.0).all()
    assert rows["regret"].between(-23.0, -17.0).all()


def test_a_study_without_a_band_or_a_sweep_is_no_evidence(tmp_path):
    assert evidence(StudyResult.load(planted(tmp_path / "s"))).empty
    assert evidence(StudyResult.load(planted(tmp_path / "t", gammas=(), band=0.1))).empty


def test_a_pilot_is_judged_after_the_longest_training(tmp_path):
    """Short training wants gamma 0, long training 0.8: what was best early costs what was planted."""

    def truth(arm, gamma, length, budget):
        return 100.0 if gamma is None else 60.0 + 60.0 * (gamma - (0.8 if length > 300 else 0.0)) ** 2

    rows = pilot_table(StudyResult.load(planted(tmp_path / "s", truth, noise=0.5, inside=0.5)))
    here = rows.query("metric == 'fd' and budget == 20").set_index("method")
    assert here.loc["best after 100", "gamma"] == 0.0
    assert here.loc["best after 100", "low"] <= 60.0 * 0.64 <= here.loc["best after 100", "high"]
    assert here.loc["best after 1000", "gamma"] == 0.8
    assert bool(here.loc["best after 1000", "within_noise"])


def test_a_pilot_is_taken_only_where_nothing_that_needs_no_training_passes():
    rows = [
        {"study": study, "seeds": 3, "whole": True, "method": method, "low": low, "high": high, "ratio": ratio}
        for study in "ab"
        for method, low, high, ratio in (("fixed 0.4", -3.0, -1.0, 0.9), ("best after 600", -5.0, -3.0, 0.8))
    ]
    table = pd.DataFrame(rows)
    assert choose(table).method == "fixed 0.4"
    table.loc[(table["study"] == "b") & (table["method"] == "fixed 0.4"), "high"] = 0.1
    found = choose(table)
    assert found.method == "best after 600"
    assert found.why.startswith("a pilot, the gamma that was best after 600 steps, because it was clearly better")


@pytest.mark.parametrize("gamma", [0.15, 0.7, 1.0])
def test_the_interval_holds_a_planted_regret_on_the_grid_and_between(gamma):
    """Regret is planted as the metric is read off: linearly between gammas of the sweep."""
    draw, held, told = np.random.default_rng(7), [], []
    true = float(np.interp(gamma, GAMMAS, MU) - MU.min())
    band = float(np.interp(0.15, GAMMAS, MU))
    for _ in range(120):
        values = MU[:, None] + 3.0 * draw.normal(size=(1, 3)) + draw.normal(size=(7, 3))
        sweep = Sweep(np.array(GAMMAS), values, values[:, :, None] + draw.normal(size=(7, 3, 60)))
        found = regret(sweep, gamma).value
        held.append(found.low <= true <= found.high)
        pair = against(sweep, gamma, 0.15)
        told.append(pair.low <= float(np.interp(gamma, GAMMAS, MU)) - band <= pair.high)
    # 120 worlds at 95 %: a standard error of 2 points
    assert np.mean(held) >= 0.89
    assert np.mean(told) >= 0.89


def test_a_gamma_against_itself_is_exactly_zero():
    values = np.random.default_rng(0).normal(size=(7, 3))
    sweep = Sweep(np.array(GAMMAS), values, values[:, :, None] + np.zeros((7, 3, 5)))
    assert (against(sweep, 0.15, 0.15).low, against(sweep, 0.15, 0.15).high) == (0.0, 0.0)
