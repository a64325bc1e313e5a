"""calibrate: what is right passes, what is wrong is refused with numbers, and nothing depends on how it was run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from slowflow_cli import calibrating, shared
from typer.testing import CliRunner

from slowflow.data.images import ImageSet
from slowflow.errors import ConfigMismatchError, DataError, InputError
from slowflow.flow.linear_truth import planted_variances, rate_exact, rate_mislabelled, rate_scaled, rate_smoothed
from slowflow.flow.model import FlowModel
from slowflow.flow.spectral import SpectralMixture
from slowflow.measuring.calibration import worlds as places
from slowflow.measuring.calibration.calibration import Calibration, calibrate
from slowflow.measuring.calibration.controls import CONTROLS, FAULTS, made
from slowflow.measuring.calibration.judging import by_reading, judged
from slowflow.measuring.calibration.truth import solved_law
from slowflow.measuring.calibration.worlds import WORLDS, worlds
from slowflow.records import Probe

D, N = 64, 150
NAMES = ("own", "paired", "fresh", "level", "clocks")


def unused(state, t, cond):
    raise AssertionError("the network was called")


def model(shape=(1, 8, 8), classes=2, path="linear") -> FlowModel:
    return FlowModel.from_callable(unused, shape=shape, classes=classes, interpolant=path)


def smooth(n=800, shape=(1, 8, 8), silent=0.25) -> ImageSet:
    """Gaussian data like images: variances fall as 1 / k, some axes are nearly silent, two classes a little apart."""
    draw, d = np.random.default_rng(0), int(np.prod(shape))
    axes = np.linalg.qr(draw.normal(size=(d, d)))[0]
    labels = np.arange(n) % 2
    scale = np.sqrt(np.where(np.arange(d) < (1 - silent) * d, 4.0 / np.arange(1, d + 1), 1e-4))
    values = (scale * draw.normal(size=(n, d))) @ axes.T
    values += 0.2 * labels[:, None] * axes[:, 1]
    return ImageSet(
        "smooth", torch.from_numpy(values.reshape(n, *shape).astype(np.float32)), torch.from_numpy(labels), 2, False
    )


def run(out: Path | None, data: ImageSet | None = None, **settings) -> Calibration:
    settings = {"references": ("level", "clocks"), "samples": 30, "times": 5, **settings}
    return calibrate(model(), smooth() if data is None else data, out=out, **settings)


@pytest.fixture(scope="module")
def found() -> Calibration:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "FINE", 20)  # the truth has the solver's error in it, so this is fine enough
        return calibrate(model(), smooth(), references=NAMES, samples=N, heldout=0.25, seed=2)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers are compared with each other and not with a truth, a coarse solver does."""
    monkeypatch.setattr(places, "FINE", 5)


def rows(found: Calibration, reading: str, **wanted: str) -> pd.DataFrame:
    keep = found.rows["reading"] == reading
    for column, value in wanted.items():
        keep &= found.rows[column] == value
    return found.rows[keep]


def test_every_reading_meets_every_control_in_every_world(found: Calibration) -> None:
    assert list(found.references) == ["own", "paired", "fresh", "level", "signal clock", "noise clock"]
    assert len(found.rows) == len(found.references) * len(WORLDS) * len(CONTROLS)
    assert not found.rows.duplicated(["reading", "field", "control"]).any()
    assert (found.rows["low"] <= found.rows["high"]).all()


@pytest.mark.parametrize("reading", ["level", "signal clock", "noise clock"])
def test_what_reads_the_law_of_states_is_usable(found: Calibration, reading: str) -> None:
    one = found.references[reading]
    assert one["usable"], one["reason"]
    assert one["reason"].startswith("usable here")
    assert one["swap"] == {"endpoint": 0.0, "noise": 0.0}
    # clocks read root mean squares, which a spread of m raises: 1 - sqrt(1 - g + g^2/3) = 0.236 at g = 0.5, not 0.25
    assert one["recovered"]["value"] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("reading", ["level", "signal clock", "noise clock"])
def test_planted_faults_are_read_as_the_closed_form_says(found: Calibration, reading: str) -> None:
    planted = rows(found, reading, asked="size", field="gaussian")
    assert set(planted["control"]) == {*FAULTS, "added noise", "shift 0.5"}
    assert planted["ok"].all(), planted
    # the ranking by eye: what the truth calls large is found large
    assert np.corrcoef(planted["truth"], planted["found"])[0, 1] > 0.95
    signs = rows(found, reading, asked="sign")
    assert len(signs)
    assert signs["ok"].all(), signs


def test_a_slow_and_a_fast_velocity_are_told_apart(found: Calibration) -> None:
    for world in WORLDS:
        slow, fast = (
            float(rows(found, "level", field=world, control=f"velocity x{f}")["found"].iloc[0]) for f in (0.95, 1.05)
        )
        assert slow > 0 > fast


def test_added_noise_moves_the_noise_clock_and_not_the_signal_clock(found: Calibration) -> None:
    for world in WORLDS:
        signal, noise = (
            rows(found, f"{name} clock", field=world, control="added noise").iloc[0] for name in ("signal", "noise")
        )
        assert noise["low"] > 0.02
        assert abs(signal["found"]) < 0.2 * noise["found"] + 2 * signal["error"]


@pytest.mark.parametrize(
    ("reading", "says"),
    [
        ("own", "a perfect model reads gamma"),
        ("paired", "a perfect model reads"),
        ("fresh", "a known lag of gamma 0.2"),
    ],
)
def test_what_pairs_a_state_with_something_is_not_usable(found: Calibration, reading: str, says: str) -> None:
    one = found.references[reading]
    assert not one["usable"]
    assert one["reason"].startswith(f"not usable here: {says}")
    assert one["reason"].count(".") >= 3  # a value and its interval


def test_a_wrong_pair_moves_what_pairs(found: Calibration) -> None:
    assert abs(found.references["own"]["swap"]["endpoint"]) > 0.05
    assert abs(found.references["own"]["swap"]["noise"]) > 0.05
    assert found.references["paired"]["swap"]["endpoint"] == 0.0  # it looks at no endpoint
    assert abs(found.references["paired"]["swap"]["noise"]) > 0.2


def test_the_detectable_excess_is_the_power_of_the_null(found: Calibration) -> None:
    errors = rows(found, "level", control="null")["error"]
    assert found.references["level"]["detectable"] == pytest.approx(2.8 * errors.max())
    assert found.references["level"]["detectable"] < 0.1


def test_the_answer_is_plain_and_names_what_it_depends_on(found: Calibration) -> None:
    answer = json.loads(json.dumps(found.result(), allow_nan=False))
    assert {"usable", "null_bias", "recovered", "detectable", "reason"} <= answer["references"]["level"].keys()
    assert answer["references"]["signal clock"]["reference"] == "clocks"
    assert answer["protocol"]["dimension"] == D
    assert len(answer["rows"]) == len(found.rows)
    assert "usable level" in str(found)


@pytest.mark.usefixtures("coarse")
def test_four_dimensions_do_not_carry_a_level() -> None:
    data = smooth(400, (1, 2, 2), silent=0.0)
    found = calibrate(model((1, 2, 2)), data, references=("level", "clocks"), samples=60)
    assert not found.references["level"]["usable"]
    for one in found.references.values():
        assert not one["usable"] or one["detectable"] > 0.2, one["reason"]


# ------------------------------------------------------------------------------------------------- controls and truth


@pytest.mark.usefixtures("coarse")
def test_worlds_have_as_many_images_of_each_class_as_the_data() -> None:
    data = smooth(90).take(np.r_[0:60, 60:90:2], "uneven")  # 45 of class 0, 30 of class 1
    probe = Probe(samples=10, steps=(5,), references=("level",))
    kept, held = data.split(0.2)
    for world in worlds(model(), data, 0.2, probe):
        assert {k: len(v) for k, v in world.bank.shards.items()} == {k: int((kept.labels == k).sum()) for k in range(2)}
        assert len(world.source.heldout) == len(held)
        assert world.t.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.usefixtures("coarse")
def test_known_lags_lie_in_their_interval_and_shifts_at_its_middle() -> None:
    probe = Probe(samples=40, steps=(10,), references=("level",))
    world = next(worlds(model(), smooth(), 0.2, probe))
    ids = np.arange(40)
    states = made(world, ids, world.source.ids("genuine"))
    genuine = states["genuine"]
    line = (genuine.endpoint - genuine.noise)[:, None]
    for control in [c for c in CONTROLS if c.size]:
        m = ((states[control.name].states - genuine.noise[:, None]) * line).sum(2) / np.square(line).sum(2)
        share = (1.0 - m / genuine.grid) / control.size  # uniform on [0, 1] for a lag
        assert share.min() >= -1e-9
        assert share.max() <= 1 + 1e-9
        assert share.mean() == pytest.approx(0.5, abs=0.06)  # 4 standard errors of 400 uniform numbers
        assert share.std() == pytest.approx(0.0 if control.sort == "shift" else 12**-0.5, abs=0.03)
        again = made(world, ids[10:12], ids)[control.name].states
        np.testing.assert_allclose(again, states[control.name].states[10:12], rtol=0, atol=1e-12)
    extra = states["added noise"].states - genuine.states
    assert extra.std() == pytest.approx(0.1, rel=0.02)
    for kind in ("endpoint swap", "noise swap"):
        np.testing.assert_array_equal(states[kind].states, genuine.states)


@pytest.mark.parametrize("path", ["linear", "vp"])
def test_the_law_of_a_linear_field_is_that_of_the_closed_form(path: str) -> None:
    variances, d = np.array([0.01, 0.05, 0.3, 1.0, 2.0, 5.0]), 6
    axes = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    field = SpectralMixture(
        torch.ones(1, d, dtype=torch.float64),
        torch.zeros(1, dtype=torch.int64),
        axes,
        torch.from_numpy(variances),
        path,
    )
    rates = {
        "none": rate_exact(variances, path),
        "velocity x0.95": rate_scaled(variances, path, 0.95),
        "over-smoothed 5 %": rate_smoothed(variances, path, 0.05),
        "label -0.03": rate_mislabelled(variances, path, -0.03),
    }
    for name, rate in rates.items():
        law = solved_law(field, FAULTS.get(name, lambda exact: exact)(field), 10)
        exact = planted_variances(np.array([0.0, 0.3, 0.6, 0.9]), rate)
        # Heun on 100 intervals; where the label is held at 0 it has a kink, which costs an order
        np.testing.assert_allclose(law.variance[[2, 5, 8]], exact, rtol=0.02, err_msg=name)


# -------------------------------------------------------------------------------------------------------------- judging


def table(**found: float) -> pd.DataFrame:
    """Rows of one reading, all of them right but those named `control_world`."""
    made = []
    for world in WORLDS:
        for control in CONTROLS:
            right = control.size or {"velocity x0.95": 0.1}.get(control.name, 0.0)
            value = found.get(f"{control.name}|{world}", right)
            truth = control.size or (right if world == "gaussian" else float("nan"))
            made.append(
                {"reference": "level", "reading": "level", "field": world, "control": control.name, "truth": truth}
                | {"found": value, "low": value - 0.02, "high": value + 0.02, "error": 0.01, "n": 50}
            )
    return judged(pd.DataFrame(made))


def test_a_right_reading_is_usable() -> None:
    one = by_reading(table())["level"]
    assert one["usable"]
    assert one["planted"]["ok"] == one["planted"]["asked"] > 0
    assert one["detectable"] == pytest.approx(0.028)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"null|mixture": 0.03}, "a perfect model reads gamma 0.030 [0.010, 0.050] in the mixture world, not 0"),
        ({"null|finite": -0.03}, "a perfect model reads gamma -0.030"),
        ({"lag 0.5|finite": 0.3}, "a known lag of gamma 0.5 reads 0.300 [0.280, 0.320] in the finite world"),
        ({"lag 0.2|gaussian": -0.2}, "a known lag of gamma 0.2 reads -0.200"),
        ({"lag 0.8|mixture": float("nan")}, "a known lag of gamma 0.8 reads nan"),
        ({"lag 0.2|gaussian": 0.5, "null|finite": 0.3}, "a perfect model reads gamma 0.300"),
    ],
)
def test_the_first_control_that_fails_is_named(changed: dict[str, float], says: str) -> None:
    one = by_reading(table(**changed))["level"]
    assert not one["usable"]
    assert says in one["reason"]


@pytest.mark.parametrize(
    ("changed", "column", "ok"),
    [
        ({"velocity x0.95|gaussian": 0.12}, "size", True),  # within 25 %
        ({"velocity x0.95|gaussian": 0.14}, "size", False),
        ({"velocity x0.95|gaussian": -0.1}, "size", False),
        ({"velocity x0.95|finite": 0.5}, "sign", True),
        ({"velocity x0.95|finite": -0.01}, "sign", False),
    ],
)
def test_faults_are_asked_for_size_where_it_is_known_and_else_for_sign(
    changed: dict[str, float], column: str, ok: bool
) -> None:
    found, (name,) = table(**changed), changed
    control, world = name.split("|")
    row = found[(found["field"] == world) & (found["control"] == control)].iloc[0]
    assert (row["asked"], row["ok"]) == (column, ok)
    assert by_reading(found)["level"]["usable"]  # faults are shown and do not decide


def test_a_fault_too_small_to_be_seen_is_asked_nothing() -> None:
    found = table()
    assert set(found[found["asked"] == "sign"]["control"]) == {"velocity x0.95"}
    assert set(found[found["asked"] == "still"]["control"]) == {"endpoint swap", "noise swap"}


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.usefixtures("coarse")
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole, cut = run(tmp_path / "whole", shard=15), tmp_path / "cut"

    def stop(done: int, total: int, note: str) -> None:
        if done >= 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cut, shard=15, progress=stop)
    with pytest.raises(InputError, match="unfinished"):
        Calibration.load(cut)
    before = {file: file.stat().st_mtime_ns for file in cut.rglob("*.safetensors")}
    assert len(before) == 3
    pd.testing.assert_frame_equal(run(cut, shard=15).rows, whole.rows)
    assert before.items() <= {file: file.stat().st_mtime_ns for file in cut.rglob("*.safetensors")}.items()
    assert (cut / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


@pytest.mark.usefixtures("coarse")
def test_a_finished_run_is_returned_at_once_and_another_configuration_refused(tmp_path: Path) -> None:
    found, calls = run(tmp_path / "a"), []
    again = run(tmp_path / "a", progress=lambda *said: calls.append(said))
    pd.testing.assert_frame_equal(again.rows, found.rows)
    pd.testing.assert_frame_equal(Calibration.load(tmp_path / "a").rows, found.rows)
    pd.testing.assert_frame_equal(run(None).rows, found.rows)  # the folder changes nothing
    assert calls == []
    with pytest.raises(ConfigMismatchError, match="seed"):
        run(tmp_path / "a", seed=1)
    shard = next((tmp_path / "a").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        Calibration.load(tmp_path / "a")


@pytest.mark.usefixtures("coarse")
def test_numbers_do_not_depend_on_the_shards() -> None:
    one, many = run(None, shard=11), run(None, shard=1500)
    numbers = ["found", "low", "high", "error"]
    # products of other sizes are summed in another order, float64
    np.testing.assert_allclose(one.rows[numbers], many.rows[numbers], rtol=0, atol=1e-8)
    pd.testing.assert_frame_equal(one.rows.drop(columns=numbers), many.rows.drop(columns=numbers), atol=1e-8)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"references": ("inverted",)}, "'inverted' looks at trajectories that do not start from noise"),
        ({"references": ("level", "paired-late")}, "'paired-late' looks at"),
        ({"references": ("levels",)}, "did you mean 'level'"),
        ({"references": ("level", "level")}, "names one twice"),
        ({"times": 3}, "times is 3, expected between 4 and 100"),
        ({"samples": 1}, "samples is 1"),
        ({"heldout": 1.0}, "heldout is 1.0"),
        ({"shard": 0}, "shard is 0"),
    ],
)
def test_bad_settings_are_refused_before_a_folder_is_made(settings: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        run(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_data_that_do_not_fit_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    data = smooth(40)
    with pytest.raises(InputError, match="shape"):
        calibrate(model((1, 4, 4)), data, out=tmp_path / "out")
    with pytest.raises(DataError, match="no item of 1 of the model's 3 classes"):
        calibrate(model(classes=3), replace(data, classes=3), out=tmp_path / "out")
    with pytest.raises(DataError, match="equal"):
        calibrate(model(), replace(data, data=torch.zeros(40, 1, 8, 8)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------- verb


def verb(*arguments: str | Path, code: int) -> tuple[str, str]:
    app = typer.Typer()
    app.command()(shared.verb(calibrating.calibrate))
    result = CliRunner().invoke(app, ["digits-sit", "--data", "digits", "--threads", "1", *map(str, arguments)])
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


@pytest.mark.usefixtures("coarse")
def test_the_verb_answers_in_json_and_in_a_table(tmp_path: Path) -> None:
    asked = ("--samples", "30", "--steps", "5", "--reference", "level", "--reference", "own", "--out", tmp_path / "out")
    answer = json.loads(verb(*asked, "--json", code=0)[0])
    assert answer["references"]["level"]["usable"]
    assert not answer["references"]["own"]["usable"]
    assert len(answer["rows"]) == 2 * len(WORLDS) * len(CONTROLS)
    text, _ = verb(*asked, code=0)
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 100
    assert "own is not usable here: a perfect model reads" in text


@pytest.mark.usefixtures("coarse")
def test_the_verb_fails_when_nothing_is_usable_and_refuses_what_it_cannot_do() -> None:
    asked = ("--samples", "30", "--steps", "5", "--quiet", "--reference")
    assert "fresh is not usable here" in " ".join(verb(*asked, "fresh", code=1)[0].split())
    assert "exact null stands in every measurement" in verb(*asked, "inverted", code=3)[1]
