"""Codecs against diffusers on tiny random autoencoders, quantisers, ADM's crop, encoding a folder, REPA's latents."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from slowflow_cli.main import app
from typer.testing import CliRunner

from slowflow.codecs import CODECS, open_codec
from slowflow.codecs.encoding import EncodeConfig, encode_folder
from slowflow.codecs.quantisers import QUANTISERS, quantise
from slowflow.data.crop import centre_crop
from slowflow.data.open import open_data
from slowflow.errors import CheckpointError, DataError, InputError
from slowflow.flow.generate import quantise as own_quantise
from slowflow.io import checkpoint


def pictures(n=3, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_kl(folder, **more):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )
    net.save_pretrained(folder)
    return net.eval()


def tiny_rae(folder):
    pytest.importorskip("transformers")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    net = diffusers.AutoencoderRAE(
        encoder_type="dinov2",
        encoder_hidden_size=64,
        encoder_patch_size=14,
        encoder_num_hidden_layers=1,
        encoder_input_size=28,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        patch_size=8,
        latents_mean=torch.randn(64, 2, 2, generator=draw) * 0.1,
        latents_std=torch.rand(64, 2, 2, generator=draw) + 0.5,
    )
    net.save_pretrained(folder)
    return net.eval()


# --- round trips against the peer


@pytest.mark.parametrize(("name", "scale", "shift"), [("kl", 0.18215, None), ("sd3-vae", 1.5305, 0.0609)])
def test_kl_equals_diffusers(tmp_path, name, scale, shift):
    more = {} if shift is None else {"shift_factor": shift, "use_quant_conv": False, "use_post_quant_conv": False}
    peer = tiny_kl(tmp_path / "vae", scaling_factor=scale, **more)
    codec, images = open_codec(tmp_path / "vae"), pictures()
    assert codec.name == name
    with torch.no_grad():
        law = peer.encode(images).latent_dist
        noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(1))
        latents = (law.mean + law.std * noise - (shift or 0.0)) * scale
        torch.testing.assert_close(codec.encode(images, noise), latents, rtol=0, atol=1e-6)
        torch.testing.assert_close(codec.encode(images), (law.mean - (shift or 0.0)) * scale, rtol=0, atol=1e-6)
        decoded = peer.decode(latents / scale + (shift or 0.0)).sample
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0, atol=1e-6)
    assert codec.shape(16) == tuple(latents.shape[1:]) == (4, 8, 8)
    assert codec.facts()["scale"] == scale


def test_a_pipeline_folder_brings_its_vae(tmp_path):
    tiny_kl(tmp_path / "vae")
    assert open_codec(tmp_path).name == "kl"


def test_old_names_of_attention_layers_are_read(tmp_path):
    peer = tiny_kl(tmp_path / "vae")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, value in peer.state_dict().items():
        for new, before in names.items():
            name = name.replace(new, before)
        old[name] = value
    assert any(".query." in name for name in old)
    checkpoint.save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", old, {})
    images = pictures()
    with torch.no_grad():
        expected = peer.encode(images).latent_dist.mean * 0.18215
    torch.testing.assert_close(open_codec(tmp_path / "vae").encode(images), expected, rtol=0, atol=1e-6)


def test_rae_equals_diffusers(tmp_path):
    peer = tiny_rae(tmp_path / "rae")
    codec, images = open_codec(tmp_path / "rae"), pictures(size=32)
    with torch.no_grad():
        latents = peer.encode((images + 1) / 2).latent
        decoded = peer.decode(latents).sample.clamp(0, 1) * 2 - 1
    torch.testing.assert_close(codec.encode(images), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0, atol=1e-5)
    assert codec.shape(32) == tuple(latents.shape[1:]) == (64, 2, 2)
    # there is no distribution to draw from
    assert torch.equal(codec.encode(images, torch.ones_like(latents)), codec.encode(images))


def test_rae_normalises_every_position_by_its_own_numbers(tmp_path):
    peer = tiny_rae(tmp_path / "rae")
    codec, images = open_codec(tmp_path / "rae"), pictures(size=32)
    with torch.no_grad():
        tokens = peer._encoder_forward_fn(peer.encoder, peer._resize_and_normalize((images + 1) / 2))
        features = tokens.transpose(1, 2).reshape(3, 64, 2, 2)
        expected = (features - peer._latents_mean) / (peer._latents_std + 1e-5)
    torch.testing.assert_close(codec.encode(images), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(expected * (peer._latents_std + 1e-5) + peer._latents_mean, features, rtol=0, atol=1e-5)


def test_pixels_change_nothing():
    codec, images = open_codec("pixels"), pictures()
    assert torch.equal(codec.decode(codec.encode(images)), images)
    assert codec.shape(16) == (3, 16, 16)


# --- what is refused


def test_a_codec_with_weights_asks_for_their_folder():
    for name in sorted(set(CODECS.names()) - {"pixels"}):
        with pytest.raises(InputError, match=f"the codec '{name}' has weights: give their folder, --codec PATH"):
            open_codec(name)


def test_codecs_that_are_none_are_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no codec 'vae.pt': neither a name \(kl, pixels, rae, sd3-vae\) nor a folder"
    ):
        open_codec("vae.pt")
    with pytest.raises(CheckpointError, match=r"has no vae/ \(it holds nothing\)"):
        open_codec(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not say which class it configures"):
        open_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(CheckpointError, match="holds a 'AutoencoderTiny', which no codec opens"):
        open_codec(tmp_path)


def test_a_damaged_autoencoder_is_refused(tmp_path):
    peer = tiny_kl(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = peer.state_dict()
    checkpoint.save(file, {k: v for k, v in tensors.items() if not k.startswith("decoder.conv_out")}, {})
    with pytest.raises(CheckpointError, match=r"does not fit a AutoencoderKL: 2 missing \(decoder.conv_out.bias"):
        open_codec(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_codec(tmp_path)


def test_images_of_an_odd_size_are_refused(tmp_path):
    tiny_kl(tmp_path)
    with pytest.raises(InputError, match="takes images whose sides are multiples of 2, not 15"):
        open_codec(tmp_path).shape(15)


# --- quantisers


def test_golden_quantisers_differ_by_half_a_level():
    ramp = torch.linspace(-1.0, 1.0, 100_001, dtype=torch.float64).reshape(1, 1, 1, -1)
    levels = {how: quantise(ramp, how).astype(np.float64).ravel() for how in QUANTISERS}
    exact = 127.5 * (ramp.numpy().ravel() + 1.0)
    # truncation loses half a level on average; both ways of rounding lose none
    assert (exact - levels["truncate"]).mean() == pytest.approx(0.5, abs=0.01)
    assert (levels["round"] - levels["truncate"]).mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(exact - levels["round"]).max() <= 0.5 + 1e-9
    assert np.abs(exact - levels["half-even"]).max() <= 0.5 + 1e-9
    for how in QUANTISERS:
        assert (levels[how][0], levels[how][-1]) == (0, 255)


def test_quantisers_are_the_peers_formulas():
    x = pictures(2).double()
    peers = {
        "round": torch.clamp(127.5 * x + 128.0, 0, 255).to(torch.uint8),
        "truncate": (255.0 * (x + 1) / 2.0).clamp(0, 255).to(torch.uint8),
        "half-even": torch.from_numpy(((x / 2 + 0.5).clamp(0, 1).numpy() * 255).round().astype("uint8")),
    }
    for how, expected in peers.items():
        assert np.array_equal(quantise(x, how), expected.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(quantise(x, "round"), own_quantise(x))
    with pytest.raises(InputError, match="quantiser is 'floor', expected one of"):
        quantise(x, "floor")


# --- crop


@pytest.mark.parametrize("side", [(32, 32), (33, 47), (100, 71), (65, 300), (20, 31)])
def test_adm_crop_equals_a_transcription(side):
    pixels = np.random.default_rng(0).integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
    image, size = Image.fromarray(pixels), 16
    got = centre_crop(image, size)
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    array = np.array(image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC))
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    assert got.shape == (size, size, 3)
    assert np.array_equal(got, array[y : y + size, x : x + size])


# --- encoding a folder


@pytest.fixture
def photos(tmp_path):
    draw = np.random.default_rng(1)
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_folder_becomes_a_data_set(photos, tmp_path):
    tiny_kl(tmp_path / "vae")
    codec = open_codec(tmp_path / "vae")
    found = encode_folder(photos, codec, EncodeConfig(size=16, flips=True, batch=2, shard=4), tmp_path / "latents")
    assert (found["count"], found["shape"], found["classes"], found["names"]) == (10, [4, 8, 8], 2, ["cat", "dog"])
    data = open_data(tmp_path / "latents")
    assert (data.shape, data.classes, data.pixels) == ((4, 8, 8), 2, False)
    assert data.labels.tolist() == [0, 0, 0, 1, 1] * 2
    # shards and batches leave no trace: 1e-6, because a convolution may round differently in another batch
    encode_folder(photos, codec, EncodeConfig(size=16, flips=True, batch=3, shard=7), tmp_path / "again")
    torch.testing.assert_close(open_data(tmp_path / "again").data, data.data, rtol=0, atol=1e-6)


def test_flips_are_mirror_images(photos, tmp_path):
    encode_folder(photos, open_codec("pixels"), EncodeConfig(size=16, flips=True), tmp_path / "out")
    data = open_data(tmp_path / "out")
    assert data.pixels
    assert torch.equal(data.data[:5], data.data[5:].flip(3))
    first = centre_crop(Image.open(photos / "cat" / "0.png"), 16)
    assert np.array_equal(quantise(data.data[:1])[0], first)


def test_the_mean_is_what_draws_scatter_around(photos, tmp_path):
    tiny_kl(tmp_path / "vae")
    codec = open_codec(tmp_path / "vae")
    for name, config in {
        "mean": EncodeConfig(size=16, posterior="mean"),
        "a": EncodeConfig(size=16, seed=1),
        "b": EncodeConfig(size=16, seed=2),
        "a2": EncodeConfig(size=16, seed=1),
    }.items():
        encode_folder(photos, codec, config, tmp_path / name)
    mean, a, b, a2 = (open_data(tmp_path / n).data for n in ("mean", "a", "b", "a2"))
    assert torch.equal(a, a2)
    assert not torch.allclose(a, b)
    assert float(((a + b) / 2 - mean).square().mean()) < float((a - mean).square().mean())


def test_encoding_resumes_and_refuses_another_configuration(photos, tmp_path):
    codec, out = open_codec("pixels"), tmp_path / "out"
    encode_folder(photos, codec, EncodeConfig(size=16, shard=2), out)
    whole = open_data(out).data
    (out / "manifest.json").unlink()
    (out / "shards" / "00000002.safetensors").unlink()
    with pytest.raises(DataError, match="is unfinished; repeat the command that made it"):
        open_data(out)
    encode_folder(photos, codec, EncodeConfig(size=16, shard=2), out)
    assert torch.equal(open_data(out).data, whole)
    with pytest.raises(InputError, match=r"encode\.size: 16 -> 8"):
        encode_folder(photos, codec, EncodeConfig(size=8, shard=2), out)


def test_bad_settings_and_folders_are_refused(photos, tmp_path):
    with pytest.raises(InputError, match="posterior is 'mode', expected one of sample, mean"):
        EncodeConfig(posterior="mode")
    with pytest.raises(InputError, match="size is 0, expected at least 1"):
        EncodeConfig(size=0)
    with pytest.raises(DataError, match="no folder of images"):
        encode_folder(tmp_path / "none", open_codec("pixels"), EncodeConfig(), tmp_path / "out")
    (photos / "cat" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"0.png is not a readable image"):
        encode_folder(photos, open_codec("pixels"), EncodeConfig(size=16), tmp_path / "out")


def test_the_verb_encodes_and_answers(photos, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["encode", str(photos), "--codec", "pixels", "--size", "16", "--out", str(out), "--json", "--quiet"]
    )
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["count"], answer["shape"]) == (5, [3, 16, 16])
    assert len(open_data(out)) == 5
    result = CliRunner().invoke(app, ["encode", str(photos), "--codec", "vae", "--out", str(tmp_path / "b")])
    assert result.exit_code == 3
    assert "no codec 'vae'" in result.stderr
    assert not (tmp_path / "b").exists()


# --- decoding samples


def test_samples_of_latents_are_decoded(tmp_path):
    """sample --codec: latents out of a factory's model, pictures in the file, the quantiser in its record."""
    peer = tiny_kl(tmp_path / "vae")
    (tmp_path / "latent_model.py").write_text(
        "from slowflow import FlowModel\n"
        "def make():\n"
        "    return FlowModel.from_callable(lambda x, t, c: -x, shape=(4, 8, 8), name='flat')\n"
    )
    common = ["sample", "-", "--family", "custom", "--factory", "latent_model:make", "--n", "3", "--steps", "2"]
    codec, runner = ["--codec", str(tmp_path / "vae")], CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        for name, more in (
            ("latents", ["--latents"]),
            ("round", codec),
            ("truncate", [*codec, "--quantiser", "truncate"]),
        ):
            result = runner.invoke(app, [*common, *more, "--out", str(tmp_path / f"{name}.npz"), "--json", "--quiet"])
            assert result.exit_code == 0, result.stderr
        refused = runner.invoke(app, [*common, *codec, "--latents", "--out", str(tmp_path / "no.npz")])
        assert (refused.exit_code, "no images; drop it" in refused.stderr) == (3, True)
        refused = runner.invoke(app, [*common, "--codec", "pixels", "--out", str(tmp_path / "no.npz")])
        assert "the codec 'pixels' decodes 3 channels, the model's states are (4, 8, 8)" in refused.stderr
    latents = torch.from_numpy(np.load(tmp_path / "latents.npz")["data"])
    with torch.no_grad():
        expected = peer.decode(latents / 0.18215).sample
    for name in ("round", "truncate"):
        got = np.load(tmp_path / f"{name}.npz")["arr_0"]
        assert (got.shape, got.dtype) == ((3, 16, 16, 3), np.uint8)
        # another batch may round the last digit of a pixel the other way
        assert np.abs(got.astype(int) - quantise(expected, name).astype(int)).max() <= 1
        stamp = json.loads((tmp_path / f"{name}.npz.json").read_text())
        assert (stamp["quantiser"]["name"], stamp["quantiser"]["quantiser"]) == ("kl", name)


# --- REPA's folder


def repa_folder(root, labels=(3, 0, 1)):
    place = root / "vae-sd" / "00000"
    place.mkdir(parents=True)
    draw, rows = np.random.default_rng(2), []
    for i, label in enumerate(labels):
        moments = np.concatenate([draw.normal(size=(4, 8, 8)), 0.1 * draw.random((4, 8, 8))]).astype(np.float32)
        np.save(place / f"img-mean-std-{i:08d}.npy", moments)
        rows.append([f"00000/img-mean-std-{i:08d}.npy", label])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": rows}))
    return place


def test_repas_means_and_deviations_are_read(tmp_path):
    place = repa_folder(tmp_path)
    data = open_data(tmp_path)
    assert (data.shape, data.classes, data.labels.tolist(), data.pixels) == ((4, 8, 8), 4, [3, 0, 1], False)
    moments = np.load(place / "img-mean-std-00000001.npy")
    drawn = (data.data[1].numpy() / 0.18215 - moments[:4]) / moments[4:]
    # what is left of mean and deviation is the noise: about normal, and the same at every reading
    assert abs(float(drawn.mean())) < 0.3
    assert 0.8 < float(drawn.std()) < 1.2
    assert open_data(tmp_path / "vae-sd").fingerprint == data.fingerprint


def test_damaged_repa_folders_are_refused(tmp_path):
    place = repa_folder(tmp_path)
    np.save(place / "img-mean-std-00000001.npy", np.zeros((7, 8, 8), dtype=np.float32))
    with pytest.raises(DataError, match=r"has shape \(7, 8, 8\) of float32, expected \[2 C, h, w\]"):
        open_data(tmp_path)
    (place / "img-mean-std-00000001.npy").unlink()
    with pytest.raises(DataError, match="is not a readable array"):
        open_data(tmp_path)
    (tmp_path / "vae-sd" / "dataset.json").write_text('{"labels": null}')
    with pytest.raises(DataError, match=r"has no list 'labels' of \[name, label\]"):
        open_data(tmp_path)
