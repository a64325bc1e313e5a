"""ddpm: DDIM and ancestral sampling equal diffusers', DiT's repairs, conventions from the scheduler, the whole loop."""

import json

import numpy as np
import pytest
import torch
from peers import diffusers, dit, easy_data, folder, unet, whole_loop

import slowflow
from slowflow.errors import CheckpointError, InputError
from slowflow.families.base import FAMILIES, OpenOptions
from slowflow.families.open import open_model
from slowflow.families.schedule import TableTimes, table_of
from slowflow.flow.guidance import guided
from slowflow.flow.model import FlowModel
from slowflow.flow.samplers import sampler, walk
from slowflow.flow.table import Table

pytest.importorskip("diffusers")
KINDS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}


def start(n, shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def last(field, method, state, cond, grid, noise=None):
    for _, reached in walk(field, sampler(method), state, cond, grid, noise):
        state = reached
    return state


# --- trajectories of the peer


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_recombine_is_ddim(tmp_path, kind, spacing, offset, clip):
    scheduler = diffusers().DDIMScheduler(
        prediction_type=kind, clip_sample=clip, timestep_spacing=spacing, steps_offset=offset
    )
    net = unet()
    model = open_model(folder(tmp_path, net, scheduler, "unet"), "ddpm").model
    assert (model.prediction, model.interpolant.name[:5], model.shape, model.classes) == (
        KINDS[kind],
        "table",
        (3, 8, 8),
        0,
    )
    # both in float64: the first steps divide by alpha = 0.006, and float32 would show
    for one in (net, model.net):
        one.double()
    state = start(2, model.shape).double()
    method = "recombine-clipped" if clip else "recombine"
    got = last(model, method, state, torch.zeros(2, dtype=torch.int64), model.grid(10))
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for k in scheduler.timesteps:
            state = scheduler.step(net(state, k).sample, k, state).prev_sample
    # the peer keeps its table in float32, and without clipping a random network ends at values of some hundreds
    torch.testing.assert_close(got, state, rtol=1e-6, atol=1e-5)


def test_tables_of_other_schedules_and_zero_terminal_snr(tmp_path):
    for schedule, rescale in (
        ("linear", False),
        ("scaled_linear", False),
        ("squaredcos_cap_v2", False),
        ("linear", True),
    ):
        scheduler = diffusers().DDIMScheduler(
            beta_schedule=schedule,
            rescale_betas_zero_snr=rescale,
            prediction_type="v_prediction",
            clip_sample=False,
            timestep_spacing="trailing",
        )
        net = unet()
        root = tmp_path / f"{schedule}{rescale}"
        model = open_model(folder(root, net, scheduler, "unet"), "ddpm").model
        state = start(2, model.shape)
        got = last(model, "recombine", state.double(), torch.zeros(2, dtype=torch.int64), model.grid(20))
        scheduler.set_timesteps(20)
        with torch.no_grad():
            for k in scheduler.timesteps:
                state = scheduler.step(net(state, k).sample, k, state).prev_sample
        torch.testing.assert_close(got.float(), state, rtol=0, atol=2e-5)


def test_sampling_may_end_at_the_last_level(tmp_path):
    scheduler = diffusers().DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    net = unet()
    model = open_model(folder(tmp_path, net, scheduler, "unet"), "ddpm").model
    assert model.t_max == pytest.approx(0.999)
    grid = model.grid(10)
    assert float(grid[-1]) == model.t_max
    state = start(2, model.shape)
    got = last(model, "recombine", state.double(), torch.zeros(2, dtype=torch.int64), grid)
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for k in scheduler.timesteps:
            state = scheduler.step(net(state, k).sample, k, state).prev_sample
    torch.testing.assert_close(got.float(), state, rtol=0, atol=1e-5 * float(state.abs().max()))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("method", "variance"), [("ancestral", "fixed_small"), ("ancestral-large", "fixed_large")])
def test_ancestral_is_ddpms_own_sampler(tmp_path, method, variance, clip):
    method = f"{method}-clipped" if clip else method
    scheduler = diffusers().DDPMScheduler(num_train_timesteps=50, clip_sample=clip, variance_type=variance)
    net = unet()
    model = open_model(folder(tmp_path, net, scheduler, "unet"), "ddpm").model
    state = start(2, model.shape)
    cond, grid = torch.zeros(2, dtype=torch.int64), model.grid(50)
    draws = [start(2, model.shape, seed=100 + k) for k in range(50)]
    got = last(model, method, state.double(), cond, grid, lambda step, like: draws[step].to(like))
    scheduler.set_timesteps(50)
    with torch.no_grad():
        for step, k in enumerate(scheduler.timesteps):
            out = net(state, k).sample
            mean = scheduler.step(out, k, state, generator=torch.Generator().manual_seed(0)).prev_sample
            if k > 0:
                # take the scheduler's own draw off and put ours on
                own = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
                mean = mean + scheduler._get_variance(k) ** 0.5 * (draws[step] - own)
            state = mean
    torch.testing.assert_close(got.float(), state, rtol=0, atol=1e-4 * float(state.abs().max()))


def test_ancestral_of_the_exact_field_keeps_the_law():
    # one Gaussian, N(0, 0.5^2): the posterior mean is linear in the state, so every step's law is known
    table = Table(torch.linspace(0.999, 0.001, 400))
    width = 0.5

    def mean(state, k, cond):
        t = table.time(k.double())
        a, s = table.alpha(t)[:, None, None, None], table.sigma(t)[:, None, None, None]
        return (a * width**2 / (a**2 * width**2 + s**2)) * state

    model = FlowModel.from_callable(mean, shape=(1, 1, 1), interpolant=table, prediction="data", label=table.label)
    n, draw = 20_000, torch.Generator().manual_seed(0)
    state = torch.randn(n, 1, 1, 1, generator=draw, dtype=torch.float64)
    state = (
        state
        * float(table.alpha(torch.tensor(0.0).double()) ** 2 * width**2 + table.sigma(torch.tensor(0.0).double()) ** 2)
        ** 0.5
    )
    grid = table.grid(range(399, -1, -1))
    noise = lambda step, like: torch.randn(like.shape, generator=draw, dtype=like.dtype)  # noqa: E731
    out = last(model, "ancestral", state, torch.zeros(n, dtype=torch.int64), grid, noise)
    # 20,000 samples know the deviation to half a percent; 400 steps of the smaller variance cost about two
    assert float(out.std()) == pytest.approx(width, rel=0.03)
    assert abs(float(out.mean())) < 0.02


# --- DiT


def dit_folder(root, net=None, **more):
    scheduler = diffusers().DDIMScheduler(clip_sample=False, **more)
    return folder(root, dit() if net is None else net, scheduler)


def test_dit_pipeline_trajectory_with_guidance(tmp_path):
    net = dit()
    model = open_model(dit_folder(tmp_path, net), "ddpm").model
    assert (model.classes, model.null, model.shape) == (10, 10, (4, 8, 8))
    scheduler = diffusers().DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    state, cond = start(2, model.shape), torch.tensor([3, 7])
    got = last(guided(model, 4.0), "recombine", state.double(), cond, model.grid(10))
    with torch.no_grad():
        for k in scheduler.timesteps:
            both = net(
                torch.cat([state, state]), timestep=k.expand(4), class_labels=torch.cat([cond, torch.full((2,), 10)])
            ).sample[:, :4]
            given, null = both.chunk(2)
            state = scheduler.step(null + 4.0 * (given - null), k, state).prev_sample
    torch.testing.assert_close(got.float(), state, rtol=0, atol=1e-5 * float(state.abs().max()))


def meta_names(tensors):
    """Meta's (and SiT's) parameter names -> those of a DiTTransformer2DModel."""
    found = {
        "pos_embed.proj.weight": tensors["x_embedder.proj.weight"],
        "pos_embed.proj.bias": tensors["x_embedder.proj.bias"],
    }
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    for i in range(depth):
        old, new = f"blocks.{i}.", f"transformer_blocks.{i}."
        for part, j in (("linear_1", 0), ("linear_2", 2)):
            for leaf in ("weight", "bias"):
                found[f"{new}norm1.emb.timestep_embedder.{part}.{leaf}"] = tensors[f"t_embedder.mlp.{j}.{leaf}"]
        found[f"{new}norm1.emb.class_embedder.embedding_table.weight"] = tensors["y_embedder.embedding_table.weight"]
        for leaf in ("weight", "bias"):
            found[f"{new}norm1.linear.{leaf}"] = tensors[f"{old}adaLN_modulation.1.{leaf}"]
            q, k, v = tensors[f"{old}attn.qkv.{leaf}"].chunk(3)
            found |= {f"{new}attn1.to_q.{leaf}": q, f"{new}attn1.to_k.{leaf}": k, f"{new}attn1.to_v.{leaf}": v}
            found[f"{new}attn1.to_out.0.{leaf}"] = tensors[f"{old}attn.proj.{leaf}"]
            found[f"{new}ff.net.0.proj.{leaf}"] = tensors[f"{old}mlp.fc1.{leaf}"]
            found[f"{new}ff.net.2.{leaf}"] = tensors[f"{old}mlp.fc2.{leaf}"]
    for leaf in ("weight", "bias"):
        found[f"proj_out_1.{leaf}"] = tensors[f"final_layer.adaLN_modulation.1.{leaf}"]
        found[f"proj_out_2.{leaf}"] = tensors[f"final_layer.linear.{leaf}"]
    return found


def test_golden_diffusers_dit_with_two_edits_is_our_backbone(tmp_path):
    from slowflow.families.sit.backbone import SiT, SiTConfig

    own = SiT(SiTConfig(8, 2, 4, hidden=32, depth=2, heads=2, classes=10, learn_sigma=True))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in own.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    peer = dit()
    peer.load_state_dict(meta_names(own.state_dict()))
    root = dit_folder(tmp_path / "dit", peer)
    for name, edits in (("plain", "false"), ("meta", "true")):
        (tmp_path / f"{name}.toml").write_text(f'folder = "{root.name}"\nmeta_numerics = {edits}\n')
    state, cond = start(3, (4, 8, 8)), torch.tensor([0, 7, 10])
    t = torch.tensor([0.0, 0.3, 0.999], dtype=torch.float64)
    with torch.no_grad():
        edited_model = open_model(tmp_path / "meta.toml", "ddpm").model
        edited_model.net.double()
        edited = edited_model.raw(state, t, cond)
        expected = own.double()(state.double(), Table().label(t), cond)[:, :4]
        plain = open_model(tmp_path / "plain.toml", "ddpm").model.raw(state, t, cond)
    torch.testing.assert_close(edited, expected, rtol=0, atol=1e-6)
    # without the edits it is another function
    assert float((plain - expected).abs().max()) > 1e-2


def test_dit_has_one_embedder_and_draws_no_dropout(tmp_path):
    net = dit()
    before = sum(p.numel() for p in net.parameters())
    model = open_model(dit_folder(tmp_path, net), "ddpm").model
    embedder = sum(p.numel() for p in net.transformer_blocks[0].norm1.emb.parameters())
    assert sum(p.numel() for p in model.net.parameters()) == before - embedder
    model.net.train()
    state, t, cond = start(4, model.shape), torch.full((4,), 0.5, dtype=torch.float64), torch.arange(4)
    assert torch.equal(model.raw(state, t, cond), model.raw(state, t, cond))


def test_embedders_that_differ_stay_apart(tmp_path):
    net = dit()
    with torch.no_grad():
        net.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.bias.add_(0.1)
    model = open_model(dit_folder(tmp_path, net), "ddpm").model
    assert sum(p.numel() for p in model.net.parameters()) == sum(p.numel() for p in net.parameters())


# --- conventions and refusals


def test_times_are_the_schedulers(tmp_path):
    config = {"_class_name": "DDIMScheduler", "timestep_spacing": "leading", "steps_offset": 1}
    times = TableTimes(config, table_of(config))
    np.testing.assert_allclose(times(50)[:3], [0.018, 0.038, 0.058], atol=1e-12)
    assert float(times(50)[-1]) == 1.0
    trailing = TableTimes({**config, "timestep_spacing": "trailing"}, table_of(config))
    np.testing.assert_allclose(trailing(50), np.arange(51) / 50, atol=1e-12)
    with pytest.raises(CheckpointError, match="refuses 1001 steps"):
        times(1001)


def test_labels_are_table_indices(tmp_path):
    model = open_model(dit_folder(tmp_path), "ddpm").model
    np.testing.assert_allclose(
        model.label(torch.tensor([0.0, 0.5, 0.999, 1.0], dtype=torch.float64)), [999, 499, 0, 0], atol=1e-9
    )


def test_a_clipping_scheduler_is_said(tmp_path):
    opened = open_model(folder(tmp_path, unet(), diffusers().DDPMScheduler(), "unet"), "ddpm")
    assert any("clips what the network predicts" in note for note in opened.notes)


def test_class_conditional_unets(tmp_path):
    net = unet(num_class_embeds=5)
    root = folder(tmp_path / "net", net, diffusers().DDPMScheduler(), "unet")
    assert (open_model(root, "ddpm").model.classes, open_model(root, "ddpm").model.null) == (5, None)
    (tmp_path / "a.toml").write_text('folder = "net"\nnull = 4\n')
    model = open_model(tmp_path / "a.toml", "ddpm").model
    assert (model.classes, model.null) == (4, 4)
    (tmp_path / "b.toml").write_text('folder = "net"\nnull = 2\n')
    with pytest.raises(InputError, match="null is 2, expected the last of the network's 5 classes"):
        open_model(tmp_path / "b.toml", "ddpm")


def broken_scheduler(root, **changes):
    file = root / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_does_not_fit_is_refused(tmp_path):
    root = dit_folder(tmp_path / "a")
    with pytest.raises(InputError, match="the path of a ddpm model is its scheduler's table"):
        open_model(root, "ddpm", OpenOptions(interpolant="linear"))
    with pytest.raises(InputError, match="there is no velocity on a table of noise levels"):
        open_model(root, "ddpm", OpenOptions(prediction="velocity"))
    broken_scheduler(root, prediction_type="flow")
    with pytest.raises(
        CheckpointError, match="prediction_type is 'flow', expected one of epsilon, sample, v_prediction"
    ):
        open_model(root, "ddpm")
    assert open_model(root, "ddpm", OpenOptions(prediction="noise")).model.prediction == "noise"
    broken_scheduler(root, _class_name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(CheckpointError, match="has no table of noise levels; flow-matching models open with"):
        open_model(root, "ddpm")
    (tmp_path / "b.toml").write_text('folder = "a"\nmeta = true\n')
    with pytest.raises(InputError, match="unknown setting 'meta'"):
        open_model(tmp_path / "b.toml", "ddpm")


def test_a_sampler_that_needs_a_velocity_is_refused_before_there_is_a_folder(tmp_path):
    root = folder(tmp_path / "net-1.5", unet(channels=1), diffusers().DDPMScheduler(clip_sample=False), "unet")
    model = open_model(root, "ddpm").model
    assert model.name == "net-1.5"
    with pytest.raises(InputError, match="has no derivative, so there is no velocity on it; sample with recombine"):
        slowflow.measure(model, easy_data(0, (1, 8, 8)), slowflow.Probe(samples=4, steps=2), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_bf16_networks_keep_wide_states(tmp_path, kind):
    net = unet() if kind == "unet" else dit()
    scheduler = diffusers().DDIMScheduler(clip_sample=False, prediction_type="sample")
    model = open_model(folder(tmp_path, net, scheduler, "unet" if kind == "unet" else "transformer"), "ddpm").model
    state, cond = start(2, model.shape).double(), torch.zeros(2, dtype=torch.int64)
    wide = last(model, "recombine", state, cond, model.grid(5))
    model.net.to(torch.bfloat16)
    narrow = last(model, "recombine", state, cond, model.grid(5))
    assert narrow.dtype == torch.float64
    assert 0 < float((narrow - wide).abs().max()) < 0.2 * float(wide.abs().max())


def test_the_family_that_fits_a_folder_is_named(tmp_path):
    root = dit_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a folder, expected a checkpoint file; it would fit --family ddpm$"):
        open_model(root, "sit")
    assert FAMILIES.get("ddpm").fits({"class:UNet2DModel", "scheduler:DDPMScheduler"})


# --- the whole loop


def trained(net, data, levels, steps=100):
    """A few steps of plain DDPM training, so that the loop has something to look at."""
    table, draw = Table(levels), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(steps):
        rows = torch.randint(len(data), (32,), generator=draw)
        clean = data.data[rows]
        noise = torch.randn(clean.shape, generator=draw)
        t = table.time(torch.randint(table.levels, (32,), generator=draw).double())
        out = net(table.state(noise, clean, t).float(), table.label(t)).sample
        optimizer.zero_grad()
        (out - noise).square().mean().backward()
        optimizer.step()
    return net.eval()


def test_whole_run(tmp_path):
    data = easy_data(0, (1, 8, 8))
    scheduler = diffusers().DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    net = unet(channels=1)
    torch.nn.init.zeros_(net.conv_out.weight)
    root = folder(tmp_path / "net", trained(net, data, scheduler.alphas_cumprod), scheduler, "unet")
    again = whole_loop(open_model(root, "ddpm").model, data, "recombine", tmp_path, "ddpm")
    assert (again.prediction, again.interpolant.name[:6], again.t_max) == ("noise", "table-", 1.0)
