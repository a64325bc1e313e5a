"""Tiny random networks of diffusers in folders of its own layout, and data they can learn at once."""

import json

import numpy as np
import pytest
import torch

from slowflow.data.images import ImageSet


def diffusers():
    """The package, or skip."""
    return pytest.importorskip("diffusers")


def loud(net, seed=0, scale=1.0):
    """Every weight and bias drawn anew, so that nothing a test compares is zero by construction."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                fan = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale / fan**0.5)
    return net.eval()


def folder(root, net, scheduler, name="transformer"):
    """A pipeline's folder with a network and a scheduler."""
    net.save_pretrained(root / name)
    scheduler.save_pretrained(root / "scheduler")
    parts = {name: ["diffusers", type(net).__name__], "scheduler": ["diffusers", type(scheduler).__name__]}
    index = {"_class_name": "StableDiffusion3Pipeline" if name == "transformer" else "DDPMPipeline", **parts}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def sd3_net(seed=0, **more):
    config = dict(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    return loud(diffusers().SD3Transformer2DModel(**{**config, **more}), seed)


def prompt_table(n=3, tokens=5, seed=0, width=32, pooled=24):
    """Embeddings as diffusers' encode_prompt names them."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "prompt_embeds": torch.randn(n, tokens, width, generator=draw),
        "pooled_prompt_embeds": torch.randn(n, pooled, generator=draw),
        "negative_prompt_embeds": torch.randn(1, tokens, width, generator=draw),
        "negative_pooled_prompt_embeds": torch.randn(1, pooled, generator=draw),
    }


def unet(seed=0, channels=3, size=8, **more):
    net = diffusers().UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        **more,
    )
    return loud(net, seed)


def dit(seed=0, classes=10, size=8, dropout=0.1):
    net = diffusers().DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=size,
        patch_size=2,
        num_embeds_ada_norm=classes,
        dropout=0.0,
    )
    loud(net, seed)
    first = net.transformer_blocks[0].norm1.emb.state_dict()
    for block in net.transformer_blocks:
        block.norm1.emb.load_state_dict(first)  # as in converted files: copies of one embedder
    return net


def easy_data(classes, shape, n=60, seed=0):
    """One flat pattern a class, a little grain: even a tiny network learns it in a few steps."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % max(classes, 1)
    centre = draw.normal(size=(max(classes, 1), *shape))
    values = 0.5 * centre[labels] + 0.3 * draw.normal(size=(n, *shape))
    return ImageSet(
        "easy", torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels), classes, pixels=False
    )


def whole_loop(model, data, sampler, out, family):
    """Check, measure, suggest, MixFlow, measure again, sample; returns what the trained file opens as."""
    import slowflow
    from slowflow.families.open import direction_test, identity, open_model

    assert direction_test(model, data).problem is None
    probe = slowflow.Probe(samples=12, steps=(4,), sampler=sampler, shard=12)
    before = slowflow.measure(model, data, probe, out=out / "before")
    gamma = before.suggest().gamma
    assert 0.0 <= gamma <= 1.0
    settings = dict(steps=3, batch_size=8, warmup=0, ema_decay=0.5, lr=1e-3, out=out / "trained")
    after = slowflow.post_train(model, data, remedy=slowflow.MixFlow(gamma), **settings)
    assert identity(after)["weights_sha256"] != identity(model)["weights_sha256"]
    assert np.isfinite(slowflow.measure(after, data, probe, out=out / "after").suggest().gamma)
    slowflow.sample(after, 4, steps=4, sampler=sampler, out=out / "samples.npz", pixels=False)
    with np.load(out / "samples.npz") as file:
        assert np.isfinite(file["data"]).all()
    # the trained file opens with nothing but itself, as what it was
    again = open_model(out / "trained").model
    assert identity(again) == identity(after)
    assert again.family == family
    return again
