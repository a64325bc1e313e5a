"""export, --protocol, --guide and ls protocols on the command line."""

import json

import numpy as np
import pytest
import torch
from peers import easy_data
from slowflow_cli.main import app
from tiny import fresh
from typer.testing import CliRunner

from slowflow.families.open import open_model
from slowflow.protocols import PROTOCOLS


def slowflow(*arguments, code=0):
    """Run a verb in this process; returns (stdout, stderr)."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.stderr}\n{result.stdout}"
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("verbs")
    for kind in ("sit-sigma", "rae", "repa", "dit"):
        torch.save(fresh(kind).state_dict(), root / f"{kind}.pt")
    torch.save(fresh("rae", seed=3).state_dict(), root / "guide.pt")
    data = easy_data(3, (2, 4, 4), n=60)
    np.savez(root / "data.npz", data=data.data.numpy(), labels=data.labels.numpy())
    return root


SIT, RAE = ("--family", "sit", "--heads", 2), ("--family", "rae")


def test_export_writes_a_file_that_opens_again(folder, tmp_path):
    out = tmp_path / "official.pt"
    text, _ = slowflow(
        "export", folder / "sit-sigma.pt", *SIT, "--layout", "sit", "--drop-sigma", "--out", out, "--json"
    )
    told = json.loads(text)
    assert told["layout"] == "sit"
    assert told["file"] == str(out)
    weights = torch.load(out, weights_only=True)
    assert weights["final_layer.linear.weight"].shape[0] == 8
    said, _ = slowflow("export", folder / "rae.pt", *RAE, "--layout", "rae", "--out", tmp_path / "rae.pt")
    assert "tensors in the layout of rae" in said
    assert open_model(tmp_path / "rae.pt", "rae").part == "ema"


def test_export_refuses_another_layout_in_one_sentence(folder, tmp_path):
    _, err = slowflow("export", folder / "rae.pt", *RAE, "--layout", "sit", "--out", tmp_path / "x.pt", code=3)
    assert "is a model of the family 'rae' and cannot be written as 'sit'" in err
    _, err = slowflow("export", folder / "rae.pt", *SIT, "--layout", "sit", "--out", tmp_path / "x.pt", code=3)
    assert "it would fit --family rae" in err
    assert not (tmp_path / "x.pt").exists()


def test_protocols_are_listed():
    rows = json.loads(slowflow("ls", "protocols", "--json")[0])
    assert [row["name"] for row in rows] == PROTOCOLS.names()


def test_a_protocol_sets_what_flags_do_not(folder, tmp_path):
    common = ("sample", folder / "sit-sigma.pt", *SIT, "--n", 2, "--latents", "--quiet", "--json")
    text, err = slowflow(*common, "--protocol", "sit-paper", "--out", tmp_path / "a.npz")
    protocol = json.loads(text)["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["guidance"]) == ("heun", 125, 1.5)
    assert protocol["nfe"] == 500
    assert protocol["model"]["protocol"] == "sit-paper"
    assert protocol["model"]["conventions"]["guiding"]["channels"] == 3
    assert "250 evaluations and 500 network calls" in err
    text, err = slowflow(*common, "--steps", 3, "--protocol", "sit-paper", "--out", tmp_path / "b.npz")
    protocol = json.loads(text)["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["nfe"]) == ("heun", 3, 12)
    assert "changed from the protocol: steps" in err


def test_a_guide_is_called_once_beside_the_model(folder, tmp_path):
    common = ("sample", folder / "rae.pt", *RAE, "--n", 2, "--latents", "--quiet", "--json", "--out")
    guided = (*common, tmp_path / "a.npz", "--protocol", "rae-paper-guided", "--guide", folder / "guide.pt")
    protocol = json.loads(slowflow(*guided)[0])["protocol"]
    assert (protocol["steps"], protocol["nfe"], protocol["guidance"]) == (49, 98, 1.42)
    assert len(protocol["model"]["conventions"]["guiding"]["guide_sha256"]) == 64
    plain = json.loads(slowflow(*common, tmp_path / "b.npz", "--protocol", "rae-paper")[0])["protocol"]
    assert plain["nfe"] == 49
    alone = (*common, tmp_path / "c.npz", "--guide", folder / "guide.pt", "--guidance", 2.0, "--steps", 4)
    assert json.loads(slowflow(*alone)[0])["protocol"]["nfe"] == 8
    states = [np.load(tmp_path / f"{name}.npz")["data"] for name in "ab"]
    assert not np.array_equal(*states)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--protocol", "rae-papre"), "did you mean 'rae-paper'"),
        (("--protocol", "sit-paper"), "the protocol 'sit-paper' is for sit"),
        (("--protocol", "rae-paper-guided"), "needs a guide: --guide"),
        (("--guide", "nothing.pt"), "no model 'nothing.pt'"),
    ],
)
def test_protocols_that_do_not_fit_are_one_sentence(arguments, says, folder, tmp_path):
    common = ("sample", folder / "rae.pt", *RAE, "--n", 2, "--latents", "--out", tmp_path / "x.npz")
    _, err = slowflow(*common, *arguments, code=3)
    lines = [line for line in err.splitlines() if line.startswith("slowflow: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "x.npz").exists()


def test_measure_and_evaluate_take_a_protocol(folder, tmp_path):
    rest = ("--data", folder / "data.npz", "--samples", 6, "--steps", 3, "--quiet")
    common = (folder / "repa.pt", "--family", "repa", "--heads", 2, *rest, "--protocol", "repa-ode")
    text, err = slowflow("measure", *common, "--reference", "own", "--out", tmp_path / "m", "--json")
    assert "protocol repa-ode: heun-last-euler, 3 steps, 5 evaluations and 10 network calls a sample" in err
    assert json.loads(text)["nfe"]["3"] == 10
    slowflow("evaluate", *common, "--features", "pixels", "--out", tmp_path / "e")
    told = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert told["config"]["sampling"]["sampler"] == "heun-last-euler"
    assert told["result"]["facts"]["nfe"] == {"3": 10}


def test_check_names_the_family_that_would_fit(folder):
    _, err = slowflow("check", folder / "rae.pt", *SIT, code=3)
    assert "it would fit --family rae" in err
    said, _ = slowflow("check", folder / "rae.pt", *RAE)
    assert "taken from" not in said  # a file with one set of weights is taken whole, which is no news
    assert "sampling ends at t =" in said


def test_check_walks_a_table_and_says_how_the_file_was_understood(folder):
    text, err = slowflow("check", folder / "dit.pt", "--family", "dit", "--heads", 2, "--json")
    told = json.loads(text)
    assert (told["family"], told["calls"]) == ("dit", {"dit-ddim": 500})
    assert told["memory"]["sampling_64"] > 0
    assert "family dit, path table, predicts noise, 3 classes" in err
    slowflow("check", folder / "dit.pt", "--family", "dit", "--heads", 2, "--data", folder / "data.npz", code=1)
    told = json.loads(slowflow("check", folder / "rae.pt", *RAE, "--json")[0])
    assert told["calls"] == {"rae-paper": 49, "rae-paper-guided": 98}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "does not say its interpolant and prediction; SiT's default, linear velocity, is used"),
        (("--prediction", "score"), "does not say its interpolant; SiT's default, linear, is used"),
        (("--interpolant", "gvp"), "does not say its prediction; SiT's default, velocity, is used"),
        (("--interpolant", "gvp", "--prediction", "score"), None),
    ],
)
def test_only_what_was_assumed_is_called_assumed(flags, says, folder):
    notes = json.loads(slowflow("check", folder / "sit-sigma.pt", *SIT, *flags, "--json")[0])["notes"]
    assumed = [note.removeprefix("the file ") for note in notes if "default" in note]
    assert assumed == ([] if says is None else [says])


def test_every_verb_says_which_weights_were_taken(folder, tmp_path):
    state = fresh("sit-sigma").state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "trainer.pt")
    rest = ("--n", 1, "--steps", 1, "--latents", "--quiet", "--json", "--out")
    _, err = slowflow("sample", tmp_path / "trainer.pt", *SIT, *rest, tmp_path / "a.npz")
    assert "note: weights taken from 'ema'" in err
    _, err = slowflow("sample", folder / "sit-sigma.pt", *SIT, *rest, tmp_path / "b.npz")
    assert "weights taken" not in err


def test_a_guide_is_understood_as_the_model_is(folder, tmp_path):
    wide = ("--family", "repa", "--heads", 2, "--interpolant", "gvp", "--data", folder / "data.npz")
    slowflow("posttrain", folder / "repa.pt", *wide, "--gamma", 0, "--steps", 1, "--out", tmp_path / "own", "--quiet")
    rest = ("--n", 1, "--steps", 2, "--guidance", 2.0, "--latents", "--quiet", "--json", "--out")
    # a guide that says what it is: a run folder of a curved path does not fit a straight model
    _, err = slowflow(
        "sample", folder / "repa.pt", *wide[:4], "--guide", tmp_path / "own", *rest, tmp_path / "a.npz", code=3
    )
    assert "the guide's path is 'gvp', the model's 'linear'" in err
    slowflow("sample", folder / "repa.pt", *wide[:6], "--guide", tmp_path / "own", *rest, tmp_path / "b.npz")
    # one that does not is read as the model was
    curved = ("--interpolant", "gvp", "--guide", folder / "guide.pt")
    slowflow("sample", folder / "rae.pt", *RAE, *curved, *rest, tmp_path / "c.npz")


def test_images_for_a_model_of_latents_are_sent_to_encode(folder, tmp_path):
    np.savez(tmp_path / "images.npz", data=np.zeros((6, 4, 4, 3), dtype=np.uint8), labels=np.arange(6) % 3)
    _, err = slowflow("check", folder / "rae.pt", *RAE, "--data", tmp_path / "images.npz", code=3)
    assert "the model makes (2, 4, 4); slowflow encode turns images into latents" in err
    np.savez(tmp_path / "latents.npz", data=np.zeros((6, 3, 4, 4), dtype=np.float32), labels=np.arange(6) % 3)
    _, err = slowflow("check", folder / "rae.pt", *RAE, "--data", tmp_path / "latents.npz", code=3)
    assert "has items of shape (3, 4, 4)" in err


def test_posttrain_takes_the_papers_order(folder, tmp_path):
    common = ("posttrain", folder / "rae.pt", *RAE, "--data", folder / "data.npz", "--steps", 1, "--warmup", 0)
    slowflow(*common, "--gamma", 0.4, "--order", "paper", "--out", tmp_path / "t", "--quiet")
    remedy = json.loads((tmp_path / "t" / "manifest.json").read_text())["config"]["remedy"]
    assert (remedy["order"], remedy["gamma"], remedy["time_law"]) == ("paper", 0.4, "beta21")
    assert remedy["shift"] == pytest.approx((32 / 4096) ** 0.5)
    _, err = slowflow(*common, "--gamma", 0.4, "--order", "other", "--out", tmp_path / "u", code=3)
    assert "order is 'other'" in err


def test_check_says_what_memory_it_takes(folder):
    text, _ = slowflow("check", folder / "rae.pt", *RAE, "--json")
    told = json.loads(text)
    assert told["memory"]["weights"] < told["memory"]["sampling_64"] < told["memory"]["training_64"]
    assert "64 at once" in slowflow("check", folder / "rae.pt", *RAE)[0]


def test_a_dry_run_says_the_cost_and_makes_nothing(folder, tmp_path):
    out = tmp_path / "never"
    common = ("measure", folder / "rae.pt", *RAE, "--data", folder / "data.npz", "--out", out, "--dry-run", "--json")
    text, err = slowflow(
        *common, "--steps", 10, "--steps", 20, "--sampler", "heun", "--guidance", 1.5, "--samples", 100
    )
    told = json.loads(text)
    assert told["calls"] == {"10": 40, "20": 80}
    assert told["peak_bytes"] > told["weights_bytes"] >= 4 * told["parameters"]
    assert "8,000 for 100 samples" in err
    assert told["not_counted"] == ["the null 'unguided'"]
    more = ("--guidance", 1, "--null", "fine", "--reference", "inverted", "--reference", "level", "--measure", "norms")
    assert json.loads(slowflow(*common, *more)[0])["not_counted"] == [
        "the null 'fine'",
        "trajectories for the reference 'inverted', which begin elsewhere",
        "the measure 'norms'",
    ]
    assert not out.exists()
