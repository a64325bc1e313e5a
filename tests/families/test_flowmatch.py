"""flowmatch: FlowMatchEuler and FlowMatchHeun step for step, labels and directions of classes, conditions, the whole loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peers import diffusers, dit, easy_data, folder, loud, sd3_net, whole_loop

from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import OpenOptions
from slowflow.families.metadata import describe
from slowflow.families.open import direction_test, identity, open_model
from slowflow.families.peer_calls import pack, unpack
from slowflow.flow.count import network_calls
from slowflow.flow.guidance import guided
from slowflow.flow.samplers import sampler, walk
from slowflow.io import checkpoint

pytest.importorskip("diffusers")
DOUBLE = torch.float64


def conditions(n=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "encoder_hidden_states": torch.randn(n, 5, 32, generator=draw),
        "pooled_projections": torch.randn(n, 24, generator=draw),
    }


def flow_toml(tmp_path, net, scheduler=None, rows=None, more=""):
    folder(tmp_path / "net", net, scheduler or diffusers().FlowMatchEulerDiscreteScheduler())
    if rows is not None:
        checkpoint.save(tmp_path / "rows.safetensors", rows, {})
        more += '\nconditions = "rows.safetensors"'
    (tmp_path / "flow.toml").write_text(f'folder = "net"\n{more}\n')
    return tmp_path / "flow.toml"


def start(n, shape=(4, 8, 8), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def last(field, method, state, cond, grid):
    for _, reached in walk(field, sampler(method), state, cond, grid):
        state = reached
    return state


# --- the peers' schedulers


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_golden_schedulers_step_for_step(tmp_path, kind, shift):
    scheduler = getattr(diffusers(), f"FlowMatch{kind}DiscreteScheduler")(shift=shift)
    net, rows = sd3_net(), conditions()
    model = open_model(flow_toml(tmp_path, net, scheduler, rows), "flowmatch").model
    method, cond = "euler" if kind == "Euler" else "heun-last-euler", torch.tensor([0, 2])
    got = last(model, method, start(2).double(), cond, model.grid(5))
    state, calls = start(2), 0
    told = {name: value[cond] for name, value in rows.items()}
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            state = scheduler.step(net(state, timestep=t.expand(2), **told).sample, t, state).prev_sample
            calls += 1
    # the peer's sigmas and states are float32, and its Heun evaluates at a state rounded to it
    torch.testing.assert_close(got.float(), state, rtol=0, atol=1e-5 * max(1.0, float(state.abs().max())))
    assert network_calls(model, method, 5) == calls == (5 if kind == "Euler" else 9)


@pytest.mark.parametrize("steps", [5, 28])
def test_golden_grids_are_the_schedulers_sigmas(tmp_path, steps):
    net = sd3_net()
    for kind, shift in (("Euler", 1.0), ("Euler", 3.0), ("Heun", 1.0), ("Heun", 3.0)):
        scheduler = getattr(diffusers(), f"FlowMatch{kind}DiscreteScheduler")(shift=shift)
        model = open_model(flow_toml(tmp_path / f"{kind}{shift}", net, scheduler, conditions()), "flowmatch").model
        scheduler.set_timesteps(steps)
        expected = 1.0 - torch.unique(scheduler.sigmas.double()).flip(0)
        torch.testing.assert_close(model.grid(steps), expected, rtol=0, atol=1e-6)
        assert len(model.grid(steps)) == steps + 1
        if shift == 1.0:
            # without a shift the last sigma but one is the table's first
            assert float(1.0 - model.grid(steps)[-2]) == pytest.approx(0.001, abs=1e-6)


def test_recombine_is_euler_on_the_straight_path(tmp_path):
    model = open_model(flow_toml(tmp_path, sd3_net(), rows=conditions()), "flowmatch").model
    cond, state = torch.tensor([0, 2]), start(2).double()
    euler, other = (last(model, name, state, cond, model.grid(6)) for name in ("euler", "recombine"))
    torch.testing.assert_close(other, euler, rtol=0, atol=1e-10)


# --- other classes


def aura(seed=0):
    return loud(
        diffusers().AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        seed,
    )


def lumina(seed=0):
    return loud(
        diffusers().Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(2, 2, 4),
            axes_lens=(16, 16, 16),
            cap_feat_dim=12,
        ),
        seed,
    )


@pytest.mark.parametrize(
    ("make", "label", "sign"),
    [(sd3_net, lambda t: 1000 * (1 - t), -1.0), (aura, lambda t: 1 - t, -1.0), (lumina, lambda t: t, 1.0)],
    ids=["sd3", "aura", "lumina"],
)
def test_known_classes_are_told_what_their_pipelines_tell_them(tmp_path, make, label, sign):
    net = make()
    if make is sd3_net:
        rows = conditions()
    else:
        rows = {"encoder_hidden_states": torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))}
    if make is lumina:
        rows["encoder_attention_mask"] = torch.ones(4, 5, dtype=torch.bool)
    model = open_model(flow_toml(tmp_path, net, rows=rows), "flowmatch").model
    assert model.sign == sign
    state, cond, t = start(2), torch.tensor([0, 2]), torch.tensor([0.2, 0.7], dtype=DOUBLE)
    told = {name: value[cond] for name, value in rows.items()}
    with torch.no_grad():
        expected = sign * net(state, timestep=label(t).float(), **told, return_dict=False)[0]
        torch.testing.assert_close(model.raw(state, t, cond), expected, rtol=0, atol=1e-5)
    assert (model.classes, model.null) == (3, 3)


def flux(seed=0, **more):
    config = dict(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(2, 2, 4),
    )
    return loud(diffusers().FluxTransformer2DModel(**{**config, **more}), seed)


@pytest.mark.parametrize("distilled", [True, False])
def test_golden_trajectory_of_the_tiny_flux_pipeline(tmp_path, distilled):
    net, rows = flux(guidance_embeds=distilled), conditions()
    settings = dict(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    more = "size = 8\ndistilled = 2.5"
    toml = flow_toml(tmp_path, net, diffusers().FlowMatchEulerDiscreteScheduler(**settings), rows, more)
    model = open_model(toml, "flowmatch").model
    assert (model.shape, model.classes, model.null) == ((4, 8, 8), 3, 3)
    vae = diffusers().AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = diffusers().FluxPipeline(
        transformer=net, scheduler=diffusers().FlowMatchEulerDiscreteScheduler(**settings), vae=vae, **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    state, cond = start(2), torch.tensor([0, 2])
    expected = pipeline(
        prompt_embeds=rows["encoder_hidden_states"][cond],
        pooled_prompt_embeds=rows["pooled_projections"][cond],
        latents=pack(state),
        num_inference_steps=5,
        guidance_scale=2.5,
        output_type="latent",
        height=16,
        width=16,
    ).images
    got = last(model, "euler", state.double(), cond, model.grid(5))
    expected = unpack(expected, 4, 4)
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max()) / 4))


def test_a_flux_without_prompts_is_refused_and_a_trained_one_opens_by_itself(tmp_path):
    root = folder(tmp_path / "bare", flux(), diffusers().FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InputError, match="a Flux is told a prompt: conditions = "):
        open_model(root, "flowmatch")
    model = open_model(flow_toml(tmp_path, flux(), rows=conditions(), more="size = 4"), "flowmatch").model
    checkpoint.save(tmp_path / "own.safetensors", model.net.state_dict(), {"model": describe(model)})
    again = open_model(tmp_path / "own.safetensors").model
    assert identity(again) == {**identity(model), "name": again.name}


@pytest.mark.parametrize("make", [sd3_net, aura, lumina, flux])
def test_bf16_networks_keep_their_time_label_and_wide_states(tmp_path, make):
    rows = {"encoder_hidden_states": conditions()["encoder_hidden_states"][..., : 12 if make in (aura, lumina) else 32]}
    if make in (sd3_net, flux):
        rows["pooled_projections"] = conditions()["pooled_projections"]
    if make is lumina:
        rows["encoder_attention_mask"] = torch.ones(4, 5, dtype=torch.bool)
    model = open_model(flow_toml(tmp_path, make(), rows=rows, more="size = 8"), "flowmatch").model
    state, cond = start(2).double(), torch.tensor([0, 2])
    wide = last(model, "euler", state, cond, model.grid(4))
    seen = []
    model.net.net.register_forward_pre_hook(lambda m, a, k: seen.append(k["timestep"].dtype), with_kwargs=True)
    model.net.to(torch.bfloat16)
    narrow = last(model, "euler", state, cond, model.grid(4))
    assert (narrow.dtype, set(seen)) == (DOUBLE, {torch.float32})
    assert 0 < float((narrow - wide).abs().max()) < 0.1 * float(wide.abs().max())


def test_packing_is_undone():
    state = start(2, (3, 6, 4))
    assert pack(state).shape == (2, 6, 12)
    assert torch.equal(unpack(pack(state), 3, 2), state)
    # channels slowest inside a token, then row, then column
    assert torch.equal(pack(state)[0, 1], state[0, :, 0:2, 2:4].flatten())


def test_a_transformer_with_class_labels(tmp_path):
    net = dit()
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler()
    model = open_model(folder(tmp_path, net, scheduler), "flowmatch").model
    assert (model.classes, model.null, model.shape) == (10, 10, (4, 8, 8))
    cond = torch.tensor([1, 9])
    assert torch.isfinite(last(guided(model, 2.0), "euler", start(2).double(), cond, model.grid(3))).all()


def test_the_user_may_say_label_and_direction(tmp_path):
    toml = flow_toml(tmp_path, sd3_net(), rows=conditions(), more='label = "data"\ntowards = "data"\nnull = false')
    opened = open_model(toml, "flowmatch")
    model = opened.model
    assert (model.sign, model.classes, model.null) == (1.0, 4, None)
    np.testing.assert_allclose(model.label(torch.tensor([0.0, 0.3], dtype=DOUBLE)), [0.0, 0.3])
    assert not opened.notes


# --- what is refused


def test_what_does_not_fit_is_refused(tmp_path):
    rows = conditions()
    for i, (change, error, says) in enumerate(
        [
            ({"rows": {**rows, "prompt": rows["pooled_projections"]}}, InputError, "takes no 'prompt'"),
            (
                {"rows": {**rows, "pooled_projections": torch.zeros(3, 24)}},
                CheckpointError,
                "different numbers of rows",
            ),
            (
                {"rows": rows, "more": 'label = "milli"'},
                InputError,
                "label is 'milli', expected one of thousand, sigma",
            ),
            ({"rows": rows, "more": 'towards = "up"'}, InputError, "towards is 'up', expected noise or data"),
            ({"rows": rows, "more": "lora = -1"}, InputError, "lora is -1, expected a rank of at least 0"),
            (
                {"rows": rows, "scheduler": diffusers().DDPMScheduler()},
                CheckpointError,
                "not one of flow matching; try --family ddpm",
            ),
            ({}, CheckpointError, "is told a prompt, which the family 'sd3' makes; it would fit --family sd3"),
        ]
    ):
        with pytest.raises(error, match=says):
            open_model(flow_toml(tmp_path / str(i), sd3_net(), **change), "flowmatch")
    toml = flow_toml(tmp_path / "ok", sd3_net(), rows=rows)
    with pytest.raises(InputError, match="a flowmatch model is linear and predicts a velocity"):
        open_model(toml, "flowmatch", OpenOptions(interpolant="gvp"))


def test_networks_on_packed_tokens_are_refused(tmp_path):
    folder(tmp_path / "net", aura(), diffusers().FlowMatchEulerDiscreteScheduler())
    config = tmp_path / "net" / "transformer" / "config.json"
    net = diffusers().QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    assert config.exists()
    with pytest.raises(CheckpointError, match="takes its state in a form of its own"):
        open_model(flow_toml(tmp_path, net), "flowmatch")


def test_a_missing_shard_is_named(tmp_path):
    net = sd3_net()
    toml = flow_toml(tmp_path, net, rows=conditions())
    part = tmp_path / "net" / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    tensors = sorted(net.state_dict().items())
    names = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        checkpoint.save(part / name, dict(tensors[i::3]), {})
    index = {"metadata": {}, "weight_map": {key: names[i % 3] for i, (key, _) in enumerate(tensors)}}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    expected = open_model(toml, "flowmatch").model
    whole.unlink()
    state, t, cond = start(2), torch.tensor(0.4, dtype=DOUBLE), torch.tensor([0, 1])
    assert torch.equal(open_model(toml, "flowmatch").model.raw(state, t, cond), expected.raw(state, t, cond))
    (part / names[1]).unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the 3 shards that .* names \(first: diffusion_pytorch_model-00002"
    ):
        open_model(toml, "flowmatch")


def test_a_folder_of_this_family_is_recognised(tmp_path):
    root = folder(tmp_path / "a", aura(), diffusers().FlowMatchEulerDiscreteScheduler())
    with pytest.raises(CheckpointError, match=r"it would fit --family flowmatch$"):
        open_model(root, "sit")
    root = folder(tmp_path / "b", sd3_net(), diffusers().FlowMatchEulerDiscreteScheduler())
    with pytest.raises(CheckpointError, match=r"it would fit --family sd3$"):
        open_model(root, "sit")


# --- the whole loop


def test_whole_run(tmp_path):
    data, draw = easy_data(3, (4, 8, 8)), torch.Generator().manual_seed(0)
    net = dit(classes=3)
    for block in net.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(80):
        rows = torch.randint(len(data), (24,), generator=draw)
        clean, noise = data.data[rows], torch.randn(24, 4, 8, 8, generator=draw)
        sigma = torch.rand(24, generator=draw)
        wide = sigma[:, None, None, None]
        out = net(wide * noise + (1 - wide) * clean, timestep=1000 * sigma, class_labels=data.labels[rows]).sample[
            :, :4
        ]
        optimizer.zero_grad()
        (out - (noise - clean)).square().mean().backward()
        optimizer.step()
    root = folder(tmp_path / "net", net.eval(), diffusers().FlowMatchEulerDiscreteScheduler(shift=2.0))
    # a velocity or a time that runs the wrong way is caught on genuine states
    (tmp_path / "wrong.toml").write_text('folder = "net"\ntowards = "data"\n')
    assert direction_test(open_model(tmp_path / "wrong.toml", "flowmatch").model, data).problem is not None
    flipped = replace(open_model(root, "flowmatch").model, label=lambda t: 1000.0 * t)
    assert direction_test(flipped, data).problem is not None
    again = whole_loop(open_model(root, "flowmatch").model, data, "euler", tmp_path, "flowmatch")
    assert (again.classes, again.null, again.shift) == (3, 3, 2.0)
