"""What suggest says of studies: the stored numbers follow the rule, and words follow the numbers."""

import json
from dataclasses import replace

import pytest

from slowflow.measuring import evidence, forecast
from slowflow.measuring.recommending import recommend
from slowflow.records import Estimate, GammaFit

BAND = {
    "method": "band", "gamma": 0.15, "best": 0.8, "at_best": 46.8, "regret": 16.7, "regret_low": 13.3, "regret_high": 20.1,
    "within_noise": False,
}  # fmt: skip
STUDY = {"name": "a", "seeds": 3, "planned": 3, "gammas": 7, "length": 6000, "budget": 20}
FIXED = {**BAND, "method": "fixed 0.8", "gamma": 0.8, "regret": 0.4, "within_noise": True}
FIT = GammaFit(
    gamma=0.15,
    method="band",
    estimates={"excess_genuine": Estimate(0.05, 0.01, 0.09, 100)},
    verdict="detected",
    reason="",
)


def held(monkeypatch, method, **more):
    found = {"method": method, "why": f"{method}, because", "studies": [{**STUDY, "rows": [BAND, FIXED]}], **more}
    monkeypatch.setattr(evidence, "stored", lambda: found)
    return found


@pytest.mark.parametrize(
    ("method", "taken", "value"), [("band", "band", 0.15), ("excess", "excess", 0.05), ("fixed 0.8", "fixed 0.8", 0.8)]
)
def test_auto_takes_what_the_studies_support(monkeypatch, method, taken, value):
    held(monkeypatch, method)
    found = recommend(FIT, "auto")
    assert (found.method, found.gamma) == (taken, value)
    assert found.chosen.startswith(f"auto takes {method}, because")


def test_an_excess_that_was_not_measured_leaves_the_band(monkeypatch):
    held(monkeypatch, "excess")
    assert recommend(replace(FIT, estimates={}), "auto").method == "band"


def test_a_pilot_cannot_be_taken_without_training(monkeypatch):
    held(monkeypatch, "best after 600")
    found = recommend(FIT, "auto")
    assert found.method == "band"
    assert "suggest --method pilot" in found.chosen


def test_where_a_pilot_is_taken_the_band_is_judged_as_well(monkeypatch):
    early = {
        **BAND,
        "method": "best after 600",
        "gamma": 0.8,
        "regret": 0.3,
        "over_plain": -3.0,
        "over_plain_low": -4.0,
    }
    rows = [
        {**BAND, "over_plain": 2.0, "over_plain_low": 1.0, "over_plain_high": 3.0},
        {**early, "over_plain_high": -2.0},
    ]
    said = evidence.words(held(monkeypatch, "best after 600", studies=[{**STUDY, "rows": rows}])).split("; ")
    stands = said.index("a pilot trains (suggest --method pilot), so this measurement alone gives the band")
    before, after = "; ".join(said[:stands]), "; ".join(said[stands:])
    assert "it gave gamma 0.80 and cost 0.3 [" in before
    assert "clearly better in 1 and clearly worse in 0 of 1" in before
    assert f"it gave gamma {BAND['gamma']:.2f} and cost {BAND['regret']:.1f}" in after
    assert "clearly better in 0 and clearly worse in 1 of 1" in after


def test_the_cost_of_what_is_taken_is_said_with_its_interval(monkeypatch):
    said = evidence.words(held(monkeypatch, "band"))
    assert "on a (3 of 3 seeds, 20 steps) it gave gamma 0.15 and cost 16.7 [13.3, 20.1] of 46.8 in FD" in said
    assert "more than the sweep's noise" in said
    assert "the paper's 0.8 cost 0.4" in said
    assert "within the sweep's noise" in evidence.words(held(monkeypatch, "fixed 0.8"))


@pytest.mark.parametrize(
    ("low", "high", "word", "counts"),
    [
        (1.5, 5.9, "worse", "clearly better in 0 and clearly worse in 1 of 1"),
        (-0.5, 7.9, "no significant change", "clearly better in 0 and clearly worse in 0 of 1"),
    ],
)
def test_what_it_is_against_plain_training_is_said(monkeypatch, low, high, word, counts):
    plain = {"over_plain": 3.7, "over_plain_low": low, "over_plain_high": high}
    said = evidence.words(held(monkeypatch, "band", studies=[{**STUDY, "rows": [{**BAND, **plain}, FIXED]}]))
    assert f"and against plain training of the same length +3.7 [{low:+.1f}, {high:+.1f}], {word}" in said
    assert said.endswith(f"so no correction at all, it was {counts}")


def test_without_a_plain_arm_nothing_is_said_of_it(monkeypatch):
    assert "plain training" not in evidence.words(held(monkeypatch, "band"))


def test_what_a_pilot_would_have_cost_is_said(monkeypatch):
    early = [{**BAND, "method": f"best after {n}", "regret": cost} for n, cost in ((200, 13.9), (2000, 0.0))]
    said = evidence.pilots(held(monkeypatch, "band", studies=[{**STUDY, "rows": [BAND, *early]}]))
    assert "on a it cost 13.9 [13.3, 20.1] after 200, 0.0 [13.3, 20.1] after 2000 of 6000 steps" in said
    assert evidence.pilots(held(monkeypatch, "band")) == ""


def test_a_formula_that_did_not_carry_is_not_used():
    seen = {"forecast": {"cells": 20, "right": 3, "constant": 17, "commoner": "hurts", "studies": ["a"]}}
    said = evidence.outlook("MixFlow will help.", seen)
    assert "not foretold" in said
    assert "right in 3 of 20" in said
    assert "raised" in said
    assert "MixFlow will help." not in said
    better = {"forecast": {**seen["forecast"], "right": 19}}
    assert evidence.outlook("MixFlow will help.", better).startswith("MixFlow will help.")
    assert evidence.outlook("MixFlow will help.", {"forecast": {}}) == ""
    assert forecast.said({}, 0.4) == ""


def test_the_stored_evidence_follows_the_rule_and_is_plain():
    found = evidence.stored()
    json.dumps(found)
    ripe = [one for one in found["studies"] if one["seeds"] >= 2]
    if len(ripe) < 2:
        assert found["method"] == "band"
        assert f"({len(ripe)} so far)" in found["why"]
    for study in found["studies"]:
        assert 1 <= study["seeds"] <= study["planned"]
        assert {"band"} <= {row["method"] for row in study["rows"]}
        assert all(row["regret_low"] <= row["regret"] <= row["regret_high"] for row in study["rows"])
