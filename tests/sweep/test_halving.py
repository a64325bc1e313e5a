"""Successive halving: rungs, budgets, and whether the stated chance of a wrong pick can be trusted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slowflow.errors import InputError
from slowflow.sweep import halving
from slowflow.sweep.grid import Sweep


def test_rungs_halve_candidates_and_double_lengths():
    plan = halving.rungs(7, 20)
    assert [(rung.candidates, rung.length) for rung in plan] == [(7, 20), (4, 40), (2, 80)]
    assert len(halving.rungs(2, 5)) == 1


def test_the_cost_of_a_plan_done_by_hand():
    # 7 runs of 20 steps, 4 of 20 more, 2 of 40 more; a look for each; two seeds
    trained, looks = 7 * 20 + 4 * 20 + 2 * 40, 7 + 4 + 2
    assert halving.calls(halving.rungs(7, 20), 2, per_step=3, per_look=100) == 2 * (3 * trained + 100 * looks)


@given(st.integers(2, 12), st.integers(1, 3), st.integers(1, 500), st.integers(1, 10**4), st.integers(0, 10**6))
def test_a_budget_is_used_and_never_exceeded(candidates, seeds, per_step, per_look, more):
    least = halving.calls(halving.rungs(candidates, halving.LEAST), seeds, per_step, per_look)
    plan = halving.longest_plan(candidates, least + more, seeds, per_step, per_look)
    spent = halving.calls(plan, seeds, per_step, per_look)
    longer = halving.rungs(candidates, plan[0].length + 1)
    assert spent <= least + more < halving.calls(longer, seeds, per_step, per_look)


def test_a_budget_that_is_too_small_says_how_much_is_needed():
    least = halving.calls(halving.rungs(4, halving.LEAST), 2, 10, 100)
    with pytest.raises(InputError, match=f"{least:,}"):
        halving.longest_plan(4, least - 1, 2, 10, 100)


def world(truth, draw, seeds=2, noise=1.0):
    """One halving of candidates with these truths: (rungs seen, index of the pick)."""
    gammas, alive, seen = np.linspace(0, 1, len(truth)), np.arange(len(truth)), []
    plan = halving.rungs(len(truth), 10)
    for number in range(len(plan)):
        values = (
            truth[alive][:, None] + 2.0 * draw.normal(size=(1, seeds)) + noise * draw.normal(size=(len(alive), seeds))
        )
        draws = values[:, :, None] + noise * draw.normal(size=(len(alive), seeds, 50))
        seen.append(Sweep(gammas[alive], values, draws))
        keep = plan[number + 1].candidates if number + 1 < len(plan) else 1
        alive = alive[halving.survivors(seen[-1], keep)]
    return seen, int(alive[0])


@pytest.mark.parametrize("spread", [1.0, 3.0, 8.0])
def test_the_stated_chance_of_a_wrong_pick_errs_on_the_safe_side(spread):
    draw, said, wrong = np.random.default_rng(int(spread)), [], []
    for _ in range(200):
        truth = spread * draw.normal(size=6)
        seen, pick = world(truth, draw)
        said.append(halving.doubt(seen, float(np.linspace(0, 1, 6)[pick])).wrong)
        wrong.append(pick != int(np.argmin(truth)))
    # 200 worlds: a standard error of 3.5 points; never surer than it is right, and never far more doubtful than it is wrong
    assert np.mean(said) >= np.mean(wrong) - 0.05
    assert np.mean(said) <= np.mean(wrong) + 0.35


def test_equal_candidates_leave_a_toss_that_costs_little():
    seen, pick = world(np.zeros(6), np.random.default_rng(0))
    found = halving.doubt(seen, float(np.linspace(0, 1, 6)[pick]))
    assert found.wrong > 0.4
    assert found.loss < 1.5  # noise of one mean is 0.7


def test_a_clear_winner_leaves_no_doubt():
    seen, pick = world(np.array([0.0, 50.0, 60.0, 70.0]), np.random.default_rng(1), noise=0.1)
    assert pick == 0
    assert halving.doubt(seen, 0.0).wrong < 0.02
