"""The paper's findings on planted studies: every verdict follows the planted sign, and what is missing is said to be."""

import numpy as np
import pytest
from studymaker import planted

from slowflow.sweep import findings
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.pooled import gain_by_steps

RIVALS = (
    ("jitter-0.8", "jitter", 0.8), ("jitter-0.4", "jitter", 0.4), ("m-anywhere-beta21", "m-anywhere", 1.0),
    ("over-slowed", "over-slowed", 0.8), ("mixflow-uniform-t-1", "mixflow-uniform-t", 1.0),
    ("mixflow-uniform-t-0.4", "mixflow-uniform-t", 0.4), ("m-anywhere-uniform", "m-anywhere", 1.0),
)  # fmt: skip


def world(sign, steps=0.0):
    """Everything the paper says, or with sign -1 its opposite: distances in 100 of the base, MixFlow 30 off; what else has a
    gamma is 10 on the other side of plain and goes the other way with steps."""
    worse = ("jitter", "m-anywhere", "over-slowed", "mixflow-uniform-t")

    def truth(arm, gamma, length, budget):
        level, plain = 100.0, 100.0 if sign > 0 else 60.0
        if arm == "base":
            return level
        if arm == "plain":
            return plain
        if arm.startswith(worse):
            return plain + 10.0 * sign + steps * sign * 25.0 / budget
        here = level - 30.0 * sign - steps * sign * 25.0 / budget
        return here + (10.0 if arm == "mixflow-1" and sign < 0 else 0.0)

    return truth


def judged(tmp_path, sign, **settings):
    study = StudyResult.load(
        planted(
            tmp_path,
            world(sign, 2.0),
            noise=0.5,
            inside=0.5,
            more=RIVALS,
            lag_change=-0.03 * sign,
            band=0.15,
            **settings,
        )
    )
    table = findings.judged(study)
    return study, {one.name: findings.verdict(table[table["finding"] == one.name]) for one in findings.FINDINGS}, table


def test_what_the_paper_says_is_confirmed_where_it_was_planted(tmp_path):
    study, found, table = judged(tmp_path / "s", 1)
    assert set(found.values()) == {"confirmed"}
    assert findings.missing(study) == {}
    row = table[(table["what"] == "mixflow-0.8 − plain") & (table["budget"] == 20)].iloc[0]
    # seeds of spread 0.5 under both arms: the mean difference is 0.4 off
    assert row["value"] == pytest.approx(-30.0 - 2 * 25 / 20, abs=1.5)
    assert row["length"] == 3000


def test_its_opposite_is_contradicted(tmp_path):
    _, found, _ = judged(tmp_path / "s", -1)
    assert found == dict.fromkeys(found, "contradicted")


def test_a_gain_that_is_none_is_not_confirmed_to_grow(tmp_path):
    """MixFlow hurts at every step count, less at few: nothing is gained, so no gain grows, and its direction is no help."""

    def truth(arm, gamma, length, budget):
        if arm in ("base", "plain"):
            return 50.0
        return (81.0 if arm.startswith("mixflow-") else 95.0) - 25.0 / budget

    table = findings.judged(StudyResult.load(planted(tmp_path / "s", truth, noise=0.5, inside=0.5, more=RIVALS)))
    words = {one.name: findings.verdict(table[table["finding"] == one.name]) for one in findings.FINDINGS}
    assert words["MixFlow helps"] == "contradicted"
    assert words["fewer steps"] == "undecided"
    assert words["only the noisier direction"] == "mixed"
    assert table.query("finding == 'fewer steps'")["what"].str.endswith("(no gain)").all()


def test_what_is_no_mixflow_says_nothing_of_its_gain_by_steps(tmp_path):
    _, _, table = judged(tmp_path / "s", 1)
    rows = table[table["finding"] == "fewer steps"]
    assert set(rows["what"].str.split(" ").str[2]) == {"mixflow-0.4", "mixflow-0.8"}


def test_rows_that_disagree_are_mixed_and_no_row_is_no_verdict(tmp_path):
    study = StudyResult.load(planted(tmp_path / "s", gammas=(0.0, 0.4)))
    table = findings.judged(study)
    one = table[table["finding"] == "only the noisier direction"]
    assert set(one["what"]) == {"mixflow-0.4 − plain"}
    assert findings.verdict(table[table["finding"] == "Beta(2,1)"]) == "not measured"
    assert findings.missing(study)["over-slowing"] == ["mixflow-0.8", "mixflow-1", "over-slowed"]
    assert findings.verdict(table.assign(word=["as stated", "contrary"] * (len(table) // 2))) == "mixed"
    assert findings.verdict(table.assign(word="undecided")) == "undecided"
    eight = table.iloc[:8]
    one_by_chance = eight.assign(word=["contrary", *["undecided"] * 7])
    assert findings.verdict(one_by_chance) == "undecided"
    assert findings.verdict(eight.assign(word=["contrary", "contrary", *["undecided"] * 6])) == "contradicted"


def test_no_change_needs_a_short_interval(tmp_path):
    wide = StudyResult.load(planted(tmp_path / "w", world(1), noise=5.0, inside=5.0))
    rows = findings.judged(wide).query("finding == 'plain post-training' and metric == 'fd'")
    assert "as stated" not in set(rows["word"])


def test_the_gain_by_steps_is_the_planted_log_ratio(tmp_path):
    study = StudyResult.load(planted(tmp_path / "s", world(1, 2.0), noise=0.1, inside=0.1))
    row = gain_by_steps(study).query("arm == 'mixflow-0.8' and length == 3000").iloc[0]
    few, many = 100 - 30 - 2 * 25 / 5, 100 - 30 - 2 * 25 / 50
    assert row["value"] == pytest.approx(np.log(few / 100) - np.log(many / 100), abs=0.01)
    assert row["low"] < row["value"] < row["high"] < 0


def test_a_draw_below_zero_leaves_the_gain_an_interval(tmp_path, monkeypatch):
    """Draws to first order may lie below zero where a distance is small; a logarithm of them would be no number."""
    study = StudyResult.load(planted(tmp_path / "s", gammas=(0.4, 0.8)))
    whole = gain_by_steps(study)
    drawn = StudyResult.draws
    monkeypatch.setattr(StudyResult, "draws", lambda *about: drawn(*about) - 2.0 * drawn(*about).mean())
    below = gain_by_steps(study)
    assert (below["value"] == whole["value"]).all()
    assert np.isfinite(below[["low", "high"]].to_numpy()).all()
    np.testing.assert_allclose(below["high"] - below["low"], whole["high"] - whole["low"])
