"""Regret against closed forms: the expected minimum of normals, planted optima, the winner's curse."""

import numpy as np
import pytest
from studymaker import GAMMAS, fd, planted

from slowflow.errors import InputError
from slowflow.sweep.folder import StudyResult
from slowflow.sweep.grid import Sweep, sweep_of
from slowflow.sweep.regret import UNCORRECTED, against, regret, regret_table


def table(mu, seeds, draw, noise=1.0, shared=3.0):
    """A sweep around `mu` whose seeds shift all gammas alike by `shared` and each by `noise`."""
    mu = np.asarray(mu, dtype=np.float64)
    values = mu[:, None] + shared * draw.normal(size=(1, seeds)) + noise * draw.normal(size=(len(mu), seeds))
    draws = values[:, :, None] + noise * draw.normal(size=(*values.shape, 100))
    return Sweep(np.linspace(0.0, 1.0, len(mu)), values, draws)


def test_without_noise_regret_is_the_plain_difference():
    mu = np.array([3.0, 1.0, 2.0, 5.0, 6.0])
    sweep = Sweep(
        np.linspace(0, 1, 5), np.stack([mu, mu + 7.0], axis=1), np.repeat(mu[:, None, None], 2, 1) + np.zeros((5, 2, 9))
    )
    found = regret(sweep, 1.0)
    assert (found.best, found.naive, found.split) == (0.25, 5.0, 5.0)
    assert found.value.low == pytest.approx(5.0)
    assert found.value.high == pytest.approx(5.0)
    assert regret(sweep, 0.25).naive == 0.0
    assert regret(sweep, 0.375).naive == pytest.approx(0.5)  # halfway between 1 and 2


def test_a_shift_that_a_seed_gives_to_all_gammas_changes_nothing():
    draw = np.random.default_rng(0)
    sweep = table([0.0, 1.0, 2.0], 3, draw)
    moved = Sweep(sweep.gammas, sweep.values + np.array([5.0, -2.0, 9.0]), sweep.draws)
    ours, theirs = regret(moved, 1.0), regret(sweep, 1.0)
    assert ours.naive == pytest.approx(theirs.naive)
    assert ours.split == pytest.approx(theirs.split)
    assert ours.value.low == pytest.approx(theirs.value.low)
    assert np.allclose(moved.covariance(), sweep.covariance())


def test_the_residual_variance_is_that_of_the_two_way_table():
    draw = np.random.default_rng(1)
    found = np.mean([table([0.0, 2.0, 5.0], 4, draw, noise=2.0).covariance()[0, 0] for _ in range(400)])
    # sigma^2 / S = 4 / 4; it is never taken below the bootstrap's, which is as large, so the mean lies above
    assert 1.0 <= found <= 1.35


def test_naive_regret_is_cursed_by_the_expected_minimum_and_split_is_not():
    draw, worlds = np.random.default_rng(2), 250
    found = [regret(table([0.0, 0.0], 2, draw), 0.0) for _ in range(worlds)]
    # two means of two seeds differ by N(0, 2 / 2): E[v(0) - min] = E|d| / 2 = sqrt(2 / pi) / 2
    naive = np.array([one.naive for one in found])
    assert naive.mean() == pytest.approx(np.sqrt(2 / np.pi) / 2, abs=4 * naive.std() / np.sqrt(worlds))
    split = np.array([one.split for one in found])
    assert abs(split.mean()) <= 4 * split.std() / np.sqrt(worlds)
    assert np.mean([one.corrected for one in found]) < naive.mean()


@pytest.mark.parametrize(("mu", "gamma", "true"), [([0.0] * 7, 0.5, 0.0), (10 * np.linspace(0, 1, 7), 0.5, 5.0)])
def test_the_interval_holds_the_true_regret(mu, gamma, true):
    draw = np.random.default_rng(3)
    found = [regret(table(mu, 3, draw), gamma).value for _ in range(150)]
    # 150 worlds at 95 %: a standard error of 1.8 points
    assert np.mean([one.low <= true <= one.high for one in found]) >= 0.9


def unlike(seeds, draw, share=0.05):
    """A sweep from 10 to 130, whose noise is a share of the level, as that of a distance is."""
    gammas = np.linspace(0.0, 1.0, 7)
    mu = 10.0 + 120.0 * gammas**2
    values = mu[:, None] + 3.0 * draw.normal(size=(1, seeds)) + share * mu[:, None] * draw.normal(size=(7, seeds))
    draws = values[:, :, None] + 0.7 * share * mu[:, None, None] * draw.normal(size=(7, seeds, 100))
    return Sweep(gammas, values, draws), mu


def test_noise_at_large_gammas_does_not_hide_a_regret_at_small_ones():
    draw, found = np.random.default_rng(8), []
    for _ in range(60):
        sweep, mu = unlike(3, draw)
        found.append(regret(sweep, float(sweep.gammas[1])))
    true = mu[1] - mu[0]  # 3.3, with a standard error of 0.05 sqrt(10^2 + 13.3^2) / sqrt(3) = 0.5
    assert np.mean([not one.within_noise for one in found]) >= 0.95
    assert (
        np.mean([one.value.low <= true <= one.value.high for one in found]) >= 0.85
    )  # four standard errors of 2.8 points


def test_the_noise_of_a_row_is_told_from_that_of_the_others():
    sweep, mu = unlike(3, np.random.default_rng(9))
    expected = (0.7 * 0.05 * mu) ** 2
    assert np.allclose(
        sweep.inside, np.maximum(expected, expected.mean() / 20), rtol=0.6
    )  # 100 draws, less a common mean
    assert sweep.inside.mean() == pytest.approx(expected.mean(), rel=0.2)


def test_a_gamma_read_off_between_two_others_is_not_better_known_than_they_are():
    draw, close = np.random.default_rng(10), 0
    for _ in range(40):
        found = regret(table([0.0, 10.0], 3, draw), 0.02)  # true regret 0.2, noise above 1
        close += found.within_noise
    assert close >= 38  # at 95 %, four standard errors


def test_a_regret_far_beyond_the_noise_is_told_from_zero():
    found = regret(table(20 * np.linspace(0, 1, 7), 3, np.random.default_rng(4)), 1.0)
    assert not found.within_noise
    assert found.value.low > 10.0
    assert regret(table(20 * np.linspace(0, 1, 7), 3, np.random.default_rng(4)), 0.0).within_noise


def test_one_seed_is_judged_by_the_bootstrap_and_says_so():
    found = regret(table([0.0, 0.1, 8.0], 1, np.random.default_rng(5)), 1.0)
    assert found.split is None
    assert found.seeds == 1
    assert found.value.value == found.corrected


def with_control(mu, seeds, draw, noise=1.0):
    """The same around `mu`, whose last number is training without a correction."""
    found = table(mu, seeds, draw, noise)
    return Sweep(np.linspace(0.0, 1.0, len(mu) - 1), found.values, found.draws)


def test_no_correction_is_judged_against_the_best_gamma_and_may_be_better():
    mu = np.array([3.0, 1.0, 2.0, 0.5])
    sweep = Sweep(
        np.linspace(0, 1, 3), np.stack([mu, mu + 7.0], axis=1), np.repeat(mu[:, None, None], 2, 1) + np.zeros((4, 2, 9))
    )
    found = regret(sweep, None)
    assert (found.best, found.naive, found.split) == (0.5, -0.5, -0.5)
    assert regret(sweep, 0.5).naive == 0.0  # the best of the sweep is a gamma
    assert against(sweep, None, 0.5).value == -0.5
    assert sweep.gammas[sweep.best] == 0.5


def test_the_interval_of_no_correction_holds_its_true_regret():
    draw = np.random.default_rng(6)
    mu = [*(10 * (np.linspace(0, 1, 7) - 0.7) ** 2), -1.0]
    true = -1.0 - min(mu[:-1])
    found = [regret(with_control(mu, 3, draw), None).value for _ in range(150)]
    # 150 worlds at 95 %: a standard error of 1.8 points
    assert np.mean([one.low <= true <= one.high for one in found]) >= 0.9


def test_a_sweep_without_its_control_says_so():
    with pytest.raises(InputError, match="no training without a correction"):
        regret(table([0.0, 1.0], 2, np.random.default_rng(0)), None)


def test_a_study_without_plain_training_has_no_such_row(tmp_path):
    study = StudyResult.load(planted(tmp_path / "s"))
    alone = StudyResult(study.path, study.protocol, [c for c in study.cells if c["arm"] != "plain"], study.identity)
    assert set(regret_table(alone, {})["method"]) == {"fixed 0.8", "fixed 0.4"}


def test_a_study_gives_regret_of_suggestions_and_of_the_papers_gammas(tmp_path):
    study = StudyResult.load(planted(tmp_path / "s"))
    rows = regret_table(study, {"band": 0.15})
    assert set(rows["method"]) == {"band", "fixed 0.8", "fixed 0.4", UNCORRECTED}
    assert set(rows["metric"]) == {"fd", "coverage"}
    last = rows[(rows["metric"] == "fd") & (rows["length"] == 3000) & (rows["budget"] == 50)].set_index("method")
    truth = {g: fd("m", g, 3000, 50) for g in GAMMAS}
    for method, gamma in (("fixed 0.8", 0.8), ("fixed 0.4", 0.4)):
        true = truth[gamma] - min(truth.values())
        assert last.loc[method, "low"] <= true <= last.loc[method, "high"]
    true = fd("plain", None, 3000, 50) - min(truth.values())
    assert last.loc[UNCORRECTED, "low"] <= true <= last.loc[UNCORRECTED, "high"]
    assert np.isnan(last.loc[UNCORRECTED, "gamma"])


def test_higher_is_better_is_turned(tmp_path):
    study = StudyResult.load(planted(tmp_path / "s"))
    best = {m: sweep_of(study, m, 3000, 50) for m in ("fd", "coverage")}
    assert best["coverage"].sign == -1.0
    assert abs(best["fd"].gammas[np.argmin(best["fd"].mean)] - 0.5) < 0.2


def test_bad_sweeps_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 2 gammas"):
        Sweep(np.array([0.1]), np.zeros((1, 2)), np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match="must ascend"):
        Sweep(np.array([0.2, 0.1]), np.zeros((2, 2)), np.zeros((2, 2, 3)))
    study = StudyResult.load(planted(tmp_path / "s", gammas=(0.4,)))
    with pytest.raises(InputError, match="has no sweep"):
        sweep_of(study, "fd", 3000, 50)
    with pytest.raises(InputError, match="lies outside the sweep"):
        regret(table([0.0, 1.0], 2, np.random.default_rng(0)), 1.5)
