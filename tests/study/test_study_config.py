"""Study files: expansion is deterministic, the protocol cannot be broken by an arm, mistakes are named."""

from pathlib import Path

import pytest

from slowflow.errors import InputError
from slowflow.remedies.soar import Soar
from slowflow.study.cell import cost
from slowflow.study.config import read_study

HEAD = """
name = "s"
data = "digits"
features = "fd-digits"
lengths = [5, 10]
seeds = [0, 1]
model = "digits-sit"
[train]
batch_size = 8
lr = 1e-3
[sampling]
samples = 40
steps = [2, 4]
"""
ARMS = """
[[arms]]
name = "mixflow"
train = { remedy = "mixflow" }
sweep = { gamma = [0.4, 0.8], time_law = ["beta21", "uniform"] }
stage = 1
[[arms]]
name = "plain"
train = { remedy = "plain" }
stage = 1
[[arms]]
name = "heun"
sample = { sampler = "heun" }
"""
STUDIES = sorted((Path(__file__).resolve().parents[2] / "reports" / "studies").glob("*.toml"))


def study(tmp_path, text):
    file = tmp_path / "s.toml"
    file.write_text(text)
    return read_study(file)


def test_arms_are_all_combinations_in_order_and_base_comes_by_itself(tmp_path):
    found = study(tmp_path, HEAD + ARMS)
    names = [arm.name for arm in found.arms]
    assert names == [
        "base", "mixflow-0.4-beta21", "mixflow-0.4-uniform", "mixflow-0.8-beta21", "mixflow-0.8-uniform", "plain", "heun",
    ]  # fmt: skip
    assert found.arms[2].train == {"remedy": "mixflow", "gamma": 0.4, "time_law": "uniform"}
    assert found.arms[2].gamma == 0.4
    assert found.arms[0].gamma is None
    assert study(tmp_path, HEAD + ARMS) == found


def test_a_stage_is_run_seed_by_seed(tmp_path):
    cells = [(arm.name, seed) for arm, seed in study(tmp_path, HEAD + ARMS).cells()]
    assert cells[:2] == [("base", 0), ("base", 1)]
    first = [("mixflow-0.4-beta21", 0), ("mixflow-0.4-uniform", 0), ("mixflow-0.8-beta21", 0)]
    assert cells[2:5] == first
    assert cells.index(("plain", 0)) < cells.index(("mixflow-0.4-beta21", 1))
    assert cells[-2:] == [("heun", 0), ("heun", 1)]
    assert len(cells) == 14


def test_the_longest_length_is_the_run_and_the_learning_rate_is_constant(tmp_path):
    protocol = study(tmp_path, HEAD + ARMS).protocol
    assert protocol.train.steps == 10
    assert protocol.train.lr == protocol.train.lr_final == 1e-3
    assert protocol.training(3).seed == 3
    assert protocol.drawing(3).seed == protocol.sampling.seed + 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr = 1e-3\nlr_final = 1e-4", "sets 'lr_final', which a study sets itself"),
        ("lr = 1e-3\nlearning = 2", "unknown setting 'learning'"),
    ],
)
def test_training_settings_are_the_studys_own(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        study(tmp_path, HEAD.replace("lr = 1e-3", text) + ARMS)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ('name = "a"\ntrain = { remedy = "plain", lr = 2.0 }', "sets 'lr', but every arm has the same"),
        ('name = "a"\ntrain = { remedy = "plain" }\nsteps = 3', "sets 'steps', but every arm has the same"),
        ('name = "a"\nsample = { sampler = "heun", samples = 9 }', "sets 'samples', but every arm has the same"),
        ('name = "a"\ntrain = { remedy = "plian" }', "did you mean 'plain'"),
        ('name = "a"\ntrain = { remedy = "mixflow", gama = 1.0 }', "has no setting 'gama'"),
        ('name = "a"\ntrain = { remedy = "mixflow", gamma = 1.5 }', "gamma is 1.5"),
        ('name = "a"\ntrain = { gamma = 0.5 }', "names no remedy"),
        ('name = "a"\nsample = { sampler = "hun" }', "unknown sampler 'hun'"),
        ('name = "a"\nsample = { scale = 2.0 }', "setting of a sampling remedy, and none is named"),
        ('name = "a"', "neither a 'train' nor a 'sample' part"),
        ('name = "base"\ntrain = { remedy = "plain" }', "two arms .* are called 'base'"),
        ('name = "Big Name"\ntrain = { remedy = "plain" }', "expected small letters"),
        ('name = "a"\ntrain = { remedy = "plain" }\nsweep = { gamma = 0.4 }', "lists of values"),
        ('name = "a"\ntrain = { remedy = "plain" }\nstage = 1.5', "expected a whole number"),
        ('name = "a"\ntrain = { remedy = "plain", measured = 1 }', "expected true or false"),
        ('name = "a"\ntrain = { remedy = "plain" }\nuntil = 7', "'until' .* is 7, expected one of .* 5, 10"),
        ('name = "a"\ntrain = { remedy = "plain" }\nuntil = "5"', "'until' .* is '5', expected one of the lengths"),
        ('name = "a"\nsample = { sampler = "heun" }\nuntil = 5', "is not trained, so it has no 'until'"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_by_name(tmp_path, arm, says):
    with pytest.raises(InputError, match=says):
        study(tmp_path, HEAD + "[[arms]]\n" + arm)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lengths = [5, 10]", "lengths = [10, 5]", "ascending"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "different whole numbers"),
        ('model = "digits-sit"', "", "give one"),
        ('data = "digits"', "", "lacks the setting 'data'"),
        ('name = "s"', 'name = "s"\nnmae = 1', "unknown setting 'nmae'"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(tmp_path, old, new, says):
    with pytest.raises(InputError, match=says):
        study(tmp_path, HEAD.replace(old, new) + ARMS)


def test_a_file_that_extends_another_can_only_add_arms(tmp_path):
    (tmp_path / "first.toml").write_text(HEAD + ARMS)
    more = 'extends = "first.toml"\n[[arms]]\nname = "late"\ntrain = { remedy = "plain", time_law = "beta21" }\n'
    found = study(tmp_path, more)
    assert found.protocol == read_study(tmp_path / "first.toml").protocol
    assert found.cells()[-1][0].name == "late"
    with pytest.raises(InputError, match="may only add"):
        study(tmp_path, "lengths = [3]\n" + more)
    with pytest.raises(InputError, match=r"'plain' .* already one of"):
        study(tmp_path, more.replace("late", "plain"))


def test_an_arm_may_stop_at_one_of_the_lengths_and_costs_less(tmp_path):
    stops = ARMS.replace('name = "plain"', 'name = "plain"\nuntil = 5')
    whole, part = study(tmp_path, HEAD + ARMS), study(tmp_path, HEAD + stops)
    assert part.protocol == whole.protocol
    by_name = {arm.name: arm for arm in part.arms}
    lengths = part.protocol.lengths
    assert by_name["plain"].looks(lengths) == (5,)
    assert by_name["mixflow-0.4-beta21"].looks(lengths) == (5, 10)
    assert by_name["heun"].looks(lengths) == by_name["base"].looks(lengths) == (0,)
    # 5 steps of 8 images, a gradient counted as two calls, and one look of 40 samples at 2 + 4 steps
    assert cost(part.protocol, by_name["plain"]) == 5 * 8 * 3 + 40 * 6
    assert cost(part.protocol, by_name["heun"]) == 40 * 6
    (tmp_path / "first.toml").write_text(HEAD + ARMS)
    more = 'extends = "first.toml"\n[[arms]]\nname = "late"\ntrain = { remedy = "plain" }\nuntil = 4\n'
    with pytest.raises(InputError, match="is 4, expected one of"):
        study(tmp_path, more)


def test_calls_that_a_remedy_makes_in_training_are_counted(tmp_path):
    rolls = (
        HEAD
        + '[[arms]]\nname = "soar"\ntrain = { remedy = "soar" }\n[[arms]]\nname = "p"\ntrain = { remedy = "plain" }\n'
    )
    found = study(tmp_path, rolls)
    soar, plain = (cost(found.protocol, arm) for arm in found.arms[1:])
    assert soar - plain == 10 * Soar().calls(8) > 0


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_written_studies_can_be_read(file):
    found = read_study(file)
    assert found.protocol.lengths[-1] >= 30 * found.protocol.lengths[0]
    if found.protocol.base is not None:
        assert found.protocol.lengths[-1] >= found.protocol.base.train.steps
    assert found.protocol.seeds == (0, 1, 2)
    assert {arm.gamma for arm in found.arms if arm.group == "mixflow"} == {0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0}
    assert found.protocol.sampling.steps == (5, 10, 20, 50)
