"""sd3: the tiny official pipeline step for step, prompts as classes, sigmas from the scheduler, LoRA, the whole loop."""

import json
import shlex
import shutil
import string
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import diffusers, easy_data, folder, prompt_table, sd3_net, whole_loop
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.config import from_mapping
from slowflow.errors import CheckpointError, DataError, InputError, MissingExtraError
from slowflow.families.base import FAMILIES, OpenOptions
from slowflow.families.export import export
from slowflow.families.lora import merge
from slowflow.families.open import identity, open_model
from slowflow.families.schedule import FlowTimes
from slowflow.families.sd3 import SD3Settings
from slowflow.flow.count import network_calls
from slowflow.flow.guidance import guided
from slowflow.flow.samplers import sampler, walk
from slowflow.io import checkpoint

pytest.importorskip("diffusers")
DOUBLE = torch.float64


def sd3_folder(root, net=None, **scheduler):
    settings = {"shift": 3.0, **scheduler}
    return folder(root, sd3_net() if net is None else net, diffusers().FlowMatchEulerDiscreteScheduler(**settings))


def sd3_toml(tmp_path, net=None, more="", table=None, **scheduler):
    """A .toml with a folder and cached prompts beside it."""
    sd3_folder(tmp_path / "net", net, **scheduler)
    checkpoint.save(tmp_path / "prompts.safetensors", prompt_table() if table is None else table, {})
    (tmp_path / "sd3.toml").write_text(f'folder = "net"\nprompts = "prompts.safetensors"\n{more}\n')
    return tmp_path / "sd3.toml"


def start(n, shape=(4, 8, 8), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def last(field, method, state, cond, grid):
    for _, reached in walk(field, sampler(method), state, cond, grid):
        state = reached
    return state


# --- the peer's trajectory


def test_golden_trajectory_of_the_tiny_official_pipeline(tmp_path):
    net, table = sd3_net(), prompt_table()
    model = open_model(sd3_toml(tmp_path, net), "sd3").model
    vae = diffusers().AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    pipeline = diffusers().StableDiffusion3Pipeline(
        transformer=net,
        scheduler=diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    state = start(2)
    expected = pipeline(
        prompt_embeds=table["prompt_embeds"][:2],
        pooled_prompt_embeds=table["pooled_prompt_embeds"][:2],
        negative_prompt_embeds=table["negative_prompt_embeds"].expand(2, -1, -1),
        negative_pooled_prompt_embeds=table["negative_pooled_prompt_embeds"].expand(2, -1),
        latents=state,
        num_inference_steps=6,
        guidance_scale=4.5,
        output_type="latent",
        height=16,
        width=16,
    ).images
    got = last(guided(model, 4.5), "euler", state.double(), torch.tensor([0, 1]), model.grid(6))
    assert float(expected.abs().max()) > 1.0
    # the pipeline keeps its state in float32; 1.3e-6 was seen on values of size 4
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max()) / 4))


def test_golden_sigmas_are_the_schedulers():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}
    times = FlowTimes(config, tokens=4096)
    sigmas = 1.0 - times(28)
    np.testing.assert_allclose(sigmas[:3], [1.0, 0.98738062, 0.97410774], atol=1e-7)
    np.testing.assert_allclose(sigmas[-3:], [0.11090573, 0.00892857, 0.0], atol=1e-7)
    assert len(times(28)) == 29
    # the double shift leaves the last non-zero sigma where it is for 40 steps
    assert float(1.0 - times(40)[-2]) == pytest.approx(0.008929, abs=1e-6)
    explicit = FlowTimes(config, tokens=4096, from_one=True)
    np.testing.assert_allclose(1.0 - explicit(28)[-3:], [0.1875, 0.1, 0.0], atol=1e-7)
    assert times.shift == 3.0


def test_dynamic_shifting_follows_the_tokens():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    assert FlowTimes(config, tokens=256).shift == pytest.approx(np.exp(0.5))
    assert FlowTimes(config, tokens=4096).shift == pytest.approx(np.exp(1.15))
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(10, sigmas=np.linspace(1.0, 0.1, 10), mu=1.15)
    got = FlowTimes(config, tokens=4096, from_one=True)(10)
    np.testing.assert_allclose(got, 1.0 - scheduler.sigmas.double(), atol=1e-12)


def test_conventions_and_calls(tmp_path):
    opened = open_model(sd3_toml(tmp_path), "sd3")
    model = opened.model
    assert (model.interpolant.name, model.prediction, model.sign, model.shift) == ("linear", "velocity", -1.0, 3.0)
    assert (model.classes, model.null, model.shape) == (3, 3, (4, 8, 8))
    assert model.training.time_law == "logit-normal"
    np.testing.assert_allclose(model.label(torch.tensor([0.0, 0.25, 1.0], dtype=DOUBLE)), [1000, 750, 0])
    assert network_calls(model, "euler", 28) == 28
    assert network_calls(model, "euler", 28, guidance=4.5) == 56
    assert network_calls(model, "heun-last-euler", 28) == 55
    assert any("null condition is the empty prompt" in note for note in opened.notes)


def test_a_row_is_a_prompt_and_the_last_one_the_empty_prompt(tmp_path):
    net, table = sd3_net(), prompt_table()
    model = open_model(sd3_toml(tmp_path, net), "sd3").model
    state = start(4)
    with torch.no_grad():
        got = model.raw(state, torch.tensor(0.3, dtype=DOUBLE), torch.tensor([0, 1, 2, 3]))
        expected = net(
            state,
            timestep=torch.full((4,), 700.0),
            encoder_hidden_states=torch.cat([table["prompt_embeds"], table["negative_prompt_embeds"]]),
            pooled_projections=torch.cat([table["pooled_prompt_embeds"], table["negative_pooled_prompt_embeds"]]),
        ).sample
    torch.testing.assert_close(got, -expected, rtol=0, atol=1e-5)


def test_a_bf16_network_keeps_its_time_label_and_a_wide_state(tmp_path):
    model = open_model(sd3_toml(tmp_path), "sd3").model
    state, cond, grid = start(2).double(), torch.tensor([0, 1]), model.grid(4)
    wide = last(model, "euler", state, cond, grid)
    model.net.to(torch.bfloat16)
    seen = []
    model.net.net.register_forward_pre_hook(lambda m, a, k: seen.append(k["timestep"].dtype), with_kwargs=True)
    narrow = last(model, "euler", state, cond, grid)
    assert narrow.dtype == DOUBLE
    assert set(seen) == {torch.float32}
    assert 0 < float((narrow - wide).abs().max()) < 0.1 * float(wide.abs().max())


# --- prompts


def text_encoders(root, t5=True):
    """Tiny CLIP-L, CLIP-G and T5 with tokenizers of single letters."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    letters = [*string.ascii_lowercase]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    index = json.loads((root / "model_index.json").read_text())
    for name in ("text_encoder", "text_encoder_2"):
        config = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=12,
            eos_token_id=53,
            bos_token_id=52,
            pad_token_id=53,
        )
        transformers.CLIPTextModelWithProjection(config).save_pretrained(root / name)
        tokenizer = name.replace("text_encoder", "tokenizer")
        vocabulary = {word: i for i, word in enumerate(words)}
        transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(root / tokenizer)
        index |= {name: ["transformers", "CLIPTextModelWithProjection"], tokenizer: ["transformers", "CLIPTokenizer"]}
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    if t5:
        config = transformers.T5Config(
            vocab_size=40, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        transformers.T5EncoderModel(config).save_pretrained(root / "text_encoder_3")
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *((c, -2.0) for c in letters)]
        transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(root / "tokenizer_3")
        index |= {
            "text_encoder_3": ["transformers", "T5EncoderModel"],
            "tokenizer_3": ["transformers", "T5TokenizerFast"],
        }
    (root / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("t5", [True, False])
def test_prompts_are_embedded_once(tmp_path, t5, capfd):
    root = sd3_folder(tmp_path / "net", sd3_net(caption_projection_dim=16))
    text_encoders(root, t5)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    (tmp_path / "a.toml").write_text('folder = "net"\nprompts = "prompts.txt"\ntokens = 6\n')
    capfd.readouterr()
    first = open_model(tmp_path / "a.toml", "sd3").model
    assert "Loading weights" not in capfd.readouterr().err
    assert (first.classes, first.null) == (2, 2)
    rows = first.net.rows
    # 77 tokens of CLIP and 6 of T5; the two CLIPs share the width, the rest is padding
    assert rows.encoder_hidden_states.shape == (3, 83, 32)
    assert rows.pooled_projections.shape == (3, 24)
    assert not torch.equal(rows.encoder_hidden_states[0], rows.encoder_hidden_states[1])
    assert bool((rows.encoder_hidden_states[:, 77:] == 0).all()) is not t5
    # the second time nothing is embedded, and the encoders may be gone
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        shutil.rmtree(root / name, ignore_errors=True)
    assert identity(open_model(tmp_path / "a.toml", "sd3").model) == identity(first)
    # other prompts need them again
    (tmp_path / "prompts.txt").write_text("a cat\na bird\n")
    with pytest.raises(
        CheckpointError, match=r"has no text_encoder/ \(absent, or gated and not downloaded\); give emb"
    ):
        open_model(tmp_path / "a.toml", "sd3")


def test_a_damaged_text_encoder_is_named(tmp_path):
    root = sd3_folder(tmp_path / "net")
    text_encoders(root)
    file = root / "text_encoder_2" / "model.safetensors"
    tensors = checkpoint.load(file).tensors
    checkpoint.save(file, {name: value for name, value in tensors.items() if "final_layer_norm" not in name}, {})
    with pytest.raises(
        CheckpointError, match=r"text_encoder_2 lacks 2 tensors \(.*final_layer_norm.*\); it is incomplete"
    ):
        open_model(root, "sd3")
    (root / "text_encoder" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"text_encoder cannot be opened: "):
        open_model(root, "sd3")
    index = json.loads((root / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "NoSuchEncoder"]
    (root / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not say which class of transformers it is"):
        open_model(root, "sd3")


def test_embeddings_equal_the_pipelines(tmp_path):
    from slowflow.families.sd3.prompts import encode

    net = sd3_net()
    root = sd3_folder(tmp_path / "net", net)
    text_encoders(root)
    found = encode(root, ["a cat"], net, 6)
    pipeline = diffusers().StableDiffusion3Pipeline.from_pretrained(
        root, vae=None, image_encoder=None, feature_extractor=None, local_files_only=True
    )
    with torch.no_grad():
        embeds, empty, pooled, empty_pooled = pipeline.encode_prompt("a cat", "a cat", "a cat", max_sequence_length=6)
    for got, expected in (
        (found.prompts, embeds),
        (found.empty, empty),
        (found.pooled, pooled),
        (found.empty_pooled, empty_pooled),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_without_prompts_the_empty_prompt_is_the_only_condition(tmp_path):
    root = sd3_folder(tmp_path / "net")
    text_encoders(root)
    opened = open_model(root, "sd3")
    model = opened.model
    assert (model.classes, model.null) == (0, None)
    assert opened.notes == ["no prompts: every sample has the empty one, unguided"]
    assert torch.isfinite(model.raw(start(2), torch.tensor(0.5, dtype=DOUBLE), torch.zeros(2, dtype=torch.int64))).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt_embeds": None}, "lacks 'prompt_embeds'; a table of prompts holds"),
        ({"prompt_embeds": torch.zeros(3, 5, 31)}, r"the transformer takes \[n, tokens, 32\] and \[n, 24\]"),
        ({"pooled_prompt_embeds": torch.zeros(2, 24)}, "holds embeddings of shapes"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, change, says):
    table = {name: value for name, value in {**prompt_table(), **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=says):
        open_model(sd3_toml(tmp_path, table=table), "sd3")


@pytest.mark.parametrize("text", ["", "a cat\n\na dog\n", "\n"])
def test_lists_of_prompts_that_are_none_are_refused(tmp_path, text):
    sd3_folder(tmp_path / "net")
    (tmp_path / "prompts.txt").write_text(text)
    (tmp_path / "a.toml").write_text('folder = "net"\nprompts = "prompts.txt"\n')
    with pytest.raises(DataError, match="needs one prompt a line; the empty prompt is the null condition"):
        open_model(tmp_path / "a.toml", "sd3")


# --- what is refused


def test_absent_encoders_networks_and_schedulers_are_named(tmp_path):
    root = sd3_folder(tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"has no text_encoder/ \(absent, or gated"):
        open_model(root, "sd3")
    shutil.rmtree(root / "scheduler")
    with pytest.raises(CheckpointError, match=r"has no scheduler/, which says the noise levels"):
        open_model(root, "sd3")
    shutil.rmtree(root / "transformer")
    with pytest.raises(CheckpointError, match=r"has no transformer/ \(it holds model_index.json\)"):
        open_model(root, "sd3")


def test_conventions_are_fixed(tmp_path):
    toml = sd3_toml(tmp_path)
    for options in (OpenOptions(interpolant="gvp"), OpenOptions(prediction="noise")):
        with pytest.raises(InputError, match="an sd3 model is linear and predicts a velocity"):
            open_model(toml, "sd3", options)
    with pytest.raises(InputError, match="size is 7, expected a multiple of the patch 2"):
        open_model(sd3_toml(tmp_path / "odd", more="size = 7"), "sd3")


def test_a_toml_without_its_family_is_told_which(tmp_path):
    with pytest.raises(CheckpointError, match=r"it would fit --family sd3$"):
        open_model(sd3_toml(tmp_path), "sit")


def test_the_page_on_diffusers_says_what_is_true():
    page = (Path(__file__).resolve().parents[2] / "docs/diffusers.md").read_text(encoding="utf-8")
    settings = from_mapping(SD3Settings, tomllib.loads(page.split("```toml\n")[1].split("```")[0]), "the page")
    assert (settings.lora, settings.size, settings.checkpointing) == (64, 64, True)
    lines = [line for line in page.splitlines() if line.startswith("slowflow ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)
        options = CliRunner().invoke(app, [words[1], "--help"], terminal_width=200).stdout
        assert all(word in options for word in words if word.startswith("--")), line


def test_another_size_of_states(tmp_path):
    model = open_model(sd3_toml(tmp_path, more="size = 4"), "sd3").model
    assert model.shape == (4, 4, 4)
    assert torch.isfinite(model.raw(start(1, (4, 4, 4)), torch.tensor(0.5, dtype=DOUBLE), torch.tensor([0]))).all()


# --- post-training


def test_lora_starts_at_the_model_and_trains_little(tmp_path):
    plain = open_model(sd3_toml(tmp_path), "sd3").model
    model = open_model(sd3_toml(tmp_path / "lora", more="lora = 2\ncheckpointing = true"), "sd3").model
    state, t, cond = start(2), torch.tensor([0.2, 0.8], dtype=DOUBLE), torch.tensor([0, 3])
    torch.testing.assert_close(model.raw(state, t, cond), plain.raw(state, t, cond), rtol=0, atol=1e-6)
    trained = {name for name, p in model.net.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    again = open_model(tmp_path / "lora" / "sd3.toml", "sd3").model
    assert identity(again)["weights_sha256"] == identity(model)["weights_sha256"]


def test_merged_lora_is_the_same_function_under_the_peers_names(tmp_path):
    model = open_model(sd3_toml(tmp_path, more="lora = 2"), "sd3").model
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    peer = sd3_net(seed=9)
    merged = merge(dict(model.net.net.state_dict()))
    assert merged.keys() == peer.state_dict().keys()
    shutil.copytree(tmp_path / "net", tmp_path / "merged" / "net")
    peer.load_state_dict(merged)
    plain = open_model(sd3_toml(tmp_path / "plain", peer), "sd3").model
    state, t, cond = start(2), torch.tensor([0.2, 0.8], dtype=DOUBLE), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(model.raw(state, t, cond), plain.raw(state, t, cond), rtol=0, atol=1e-5)
    assert FAMILIES.get("sd3").official(model).keys() == merged.keys()


def test_what_was_trained_goes_back_into_diffusers(tmp_path):
    model = open_model(sd3_toml(tmp_path, more="lora = 2"), "sd3").model
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    found = export(model, "diffusers", tmp_path / "out")
    assert (found["layout"], found["file"]) == ("diffusers", str(tmp_path / "out"))
    peer = diffusers().SD3Transformer2DModel.from_pretrained(tmp_path / "out" / "transformer", local_files_only=True)
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    assert scheduler.shift == 3.0
    state, table, t = start(2), prompt_table(), torch.tensor([0.2, 0.8], dtype=DOUBLE)
    with torch.no_grad():
        expected = peer.eval()(
            state,
            timestep=model.label(t).float(),
            encoder_hidden_states=table["prompt_embeds"][:2],
            pooled_projections=table["pooled_prompt_embeds"][:2],
        ).sample
        torch.testing.assert_close(model.raw(state, t, torch.tensor([0, 1])), -expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="out exists; choose another name"):
        export(model, "diffusers", tmp_path / "out")
    with pytest.raises(InputError, match="whose layout is a folder: --layout diffusers"):
        export(model, "sd3", tmp_path / "file.pt")


def test_checkpointing_changes_no_gradient(tmp_path):
    found = []
    for name, more in (("a", ""), ("b", "checkpointing = true")):
        model = open_model(sd3_toml(tmp_path / name, more=more), "sd3").model
        model.net.train()
        out = model.raw(start(2), torch.tensor([0.2, 0.8], dtype=DOUBLE), torch.tensor([0, 3]))
        out.square().mean().backward()
        found.append([p.grad for p in model.net.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def trained(net, data, table, steps=80):
    """A few steps of plain flow matching, so that the loop has something to look at."""
    draw, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(steps):
        rows = torch.randint(len(data), (24,), generator=draw)
        clean, labels = data.data[rows], data.labels[rows]
        noise, sigma = torch.randn(clean.shape, generator=draw), torch.rand(24, generator=draw)
        wide = sigma[:, None, None, None]
        out = net(
            wide * noise + (1 - wide) * clean,
            timestep=1000 * sigma,
            encoder_hidden_states=table["prompt_embeds"][labels],
            pooled_projections=table["pooled_prompt_embeds"][labels],
        ).sample
        optimizer.zero_grad()
        (out - (noise - clean)).square().mean().backward()
        optimizer.step()
    return net.eval()


def test_whole_run(tmp_path):
    data, table = easy_data(3, (4, 8, 8)), prompt_table()
    net = trained(sd3_net(), data, table)
    model = open_model(sd3_toml(tmp_path, net, more="lora = 2\ncheckpointing = true"), "sd3").model
    again = whole_loop(model, data, "euler", tmp_path, "sd3")
    assert (again.classes, again.null, again.shift) == (3, 3, 3.0)
    before = {k: v for k, v in model.net.state_dict().items() if "lora_" not in k}
    after = again.net.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


# --- the optional package


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    import sys

    toml = sd3_toml(tmp_path)
    for package, needed in (("diffusers", "the family 'sd3'"), ("peft", "post-training with LoRA")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            (tmp_path / "sd3.toml").write_text('folder = "net"\nprompts = "prompts.safetensors"\nlora = 2\n')
            with pytest.raises(MissingExtraError) as caught:
                open_model(toml, "sd3")
            assert caught.value.exit_code == 4
            assert str(caught.value) == (
                f"{needed} needs the package '{package}', which is not installed: pip install 'slowflow[diffusers]'"
            )


# --- from pictures to pictures, on the command line


def test_from_a_folder_of_pictures_to_decoded_samples(tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for label in range(3):
        (tmp_path / "photos" / f"{label}").mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{label}" / f"{i}.png")
    toml = sd3_toml(tmp_path, more="lora = 2")
    torch.manual_seed(0)
    diffusers().AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    ).save_pretrained(tmp_path / "net" / "vae")

    def slowflow(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet", "--threads", "1"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    latents, trained_in = tmp_path / "latents", tmp_path / "trained"
    encoded = slowflow("encode", tmp_path / "photos", "--codec", tmp_path / "net", "--size", 16, "--out", latents)
    assert (encoded["count"], encoded["shape"]) == (12, [4, 8, 8])
    train = (
        "--steps",
        2,
        "--batch-size",
        4,
        "--micro-batch",
        2,
        "--mixed",
        "--gamma",
        0.4,
        "--warmup",
        0,
        "--ema",
        0.5,
    )
    made = slowflow("posttrain", toml, "--family", "sd3", "--data", latents, "--out", trained_in, *train)
    assert (made["remedy"], made["gamma"]) == ("mixflow", 0.4)
    # a trained folder names its family
    sample = ("--n", 2, "--steps", 3, "--guidance", 2.0, "--codec", tmp_path / "net", "--out", tmp_path / "s.npz")
    drawn = slowflow("sample", trained_in, *sample)
    assert drawn["nfe"] == 6
    assert drawn["protocol"]["quantiser"]["name"] == "sd3-vae"
    with np.load(tmp_path / "s.npz") as file:
        assert (file["arr_0"].shape, file["arr_0"].dtype) == ((2, 16, 16, 3), np.uint8)
