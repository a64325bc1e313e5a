"""The forecast: what the library says is what the study's table gives, and it says it with the right sign."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from knowntruth import rule, table

from slowflow.errors import InputError
from slowflow.measuring import forecast
from slowflow.measuring.forecast import Outlook

HERE = Path(__file__).resolve().parents[2] / "reports" / "known-truth"
USUAL = {"gamma": 0.4, "level": 0.1, "blur": 0.1, "length": 1.0}
outlooks = st.builds(
    Outlook,
    gamma=st.floats(0.01, 0.99),
    level=st.floats(0.02, 0.9),
    blur=st.floats(0.01, 0.5),
    length=st.floats(0.01, 10.0),
)


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return pd.read_csv(HERE / "table.csv")


def test_the_coefficients_are_those_of_the_table(cells: pd.DataFrame) -> None:
    clear = rule.clear(cells[rule.formed(cells)])
    assert len(clear) > 100
    fitted = rule.fit(rule.matrix(clear), clear.helps.to_numpy())
    assert pytest.approx(fitted, abs=2e-3) == forecast.COEFFICIENTS


def test_the_recorded_score_is_what_the_library_function_gets(cells: pd.DataFrame) -> None:
    clear = rule.clear(cells)
    held = clear[~rule.formed(clear) & ~clear.reader & (clear.data == 0)]
    said = np.array([forecast.chance(one) > 0.5 for one in rule.outlooks(held)])
    recorded = pd.read_csv(HERE / "scores.csv").set_index("group").loc["judged: all others"]
    found = rule.score(said, held.helps.to_numpy())
    assert found.n == recorded.n
    assert found.right == pytest.approx(recorded.right, abs=0.003)  # coefficients are rounded
    assert found.constant == pytest.approx(recorded.constant, abs=1e-3)


def test_what_formed_the_rule_is_not_called_extrapolated(cells: pd.DataFrame) -> None:
    assert not any(one.extrapolated for one in rule.outlooks(cells[rule.formed(cells)]))


def test_no_cell_of_the_judged_worlds_formed_the_rule(cells: pd.DataFrame) -> None:
    formed = cells[rule.formed(cells)]
    assert set(formed.d) <= {16, 256}
    assert set(formed.kind) <= {"manifold", "white"}
    assert not formed.reader.any()


@given(outlooks, st.sampled_from(["gamma", "level", "blur", "length"]))
def test_each_input_pushes_the_way_it_should(one: Outlook, name: str) -> None:
    """A wider interval, a harder level and longer training hurt; a larger lag is more to gain."""
    more = Outlook(**{**vars(one), name: min(1.2 * getattr(one, name), 1.0 if name == "gamma" else math.inf)})
    rises = forecast.chance(more) - forecast.chance(one)
    assert rises >= 0 if name == "level" else rises <= 0


@given(outlooks)
def test_the_largest_gamma_divides_help_from_harm(one: Outlook) -> None:
    limit = forecast.largest_gamma(one.level, one.blur, one.length)
    if limit < 1e-9:
        return
    at = forecast.chance(Outlook(**{**vars(one), "gamma": limit}))
    assert at == pytest.approx(0.5, abs=1e-6) if limit < 1 else at >= 0.5 - 1e-9


def test_words_say_sign_limit_and_trust() -> None:
    lagging = forecast.words(Outlook(gamma=0.1, level=0.5, blur=0.06, length=0.3))
    assert "likely to help" in lagging
    assert "turns at gamma" in lagging
    good = forecast.words(Outlook(gamma=0.8, level=0.0, blur=0.3, length=1.0))
    assert "likely to hurt" in good
    assert "No gamma worth" in good
    assert "No lag" in good
    assert "cleaner" in good
    assert "No forecast" not in good + lagging
    for name, value in (("length", 100.0), ("blur", 0.03), ("level", 0.9)):
        assert f"{name} outside what was studied" in forecast.words(Outlook(**{**USUAL, name: value}))
    assert forecast.CAVEAT in good
    assert forecast.CAVEAT in lagging


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", 0.0), ("gamma", 1.1), ("level", math.nan), ("blur", 0.0), ("length", math.inf)]
)
def test_bad_values_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Outlook(**{**USUAL, name: value})


def test_a_planted_rule_is_found_again() -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(4000, 2)) * [1.0, 3.0] + [0.0, 2.0]
    truth = np.array([-0.5, 2.0, 0.5])
    helps = draws.random(4000) < 1 / (1 + np.exp(-(truth[0] + x @ truth[1:])))
    assert rule.fit(x, helps) == pytest.approx(truth, abs=0.2)


def test_scores_count_both_kinds_and_the_constant() -> None:
    found = rule.score(np.array([True, False, False, False]), np.array([True, True, False, False]))
    assert (found.right, found.right_helps, found.right_hurts, found.constant) == (0.75, 0.5, 1.0, 0.5)


def test_effects_are_paired_by_seed_and_against_the_control() -> None:
    about = {
        "setting": "s",
        "d": 16,
        "kind": "white",
        "spread": 1.0,
        "width": 8,
        "reader": False,
        "data": 0,
        "parameters": 9,
    }
    same = {**about, "base": "long", "pretrained": 10, "length": 5, "solver": "euler20"}
    judged = [
        {**same, "arm": arm, "seed": seed, "fd": fd * world, "astray": 0.5, "frequency": 0.1}
        for seed, world in enumerate((1.0, 7.0, 50.0))  # worlds of very different difficulty
        for arm, fd in (("plain", 1.0), ("0", 1.0), ("0.4", 2.0 + 0.1 * seed))
    ]
    found = table.effects(pd.DataFrame(judged))
    assert len(found) == 1
    logs = np.log((np.array([2.0, 2.1, 2.2]) * [1, 7, 50] + 1e-3) / (np.array([1, 7, 50]) + 1e-3))
    assert found.fd_effect.item() == pytest.approx(logs.mean())
    assert found.fd_half.item() == pytest.approx(4.3027 * logs.std(ddof=1) / 3**0.5, rel=1e-4)
    assert bool(table.sure(found).item())
    assert not bool(table.sure(found, "astray").item())
