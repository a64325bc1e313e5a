"""encode: a folder of images to latents, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from slowflow_cli import shared as s


def encode(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images; class = subfolder.")],
    codec: Annotated[
        str,
        typer.Option(
            "--codec", help="pixels, or the folder of an autoencoder (sd-vae, SD3, RAE) in diffusers' layout."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Run folder, then a data set; the same command again resumes.")],
    size: Annotated[int, typer.Option(help="Side of ADM's centre crop in pixels.")] = 256,
    flips: Annotated[bool, typer.Option("--flips", help="Also encode every image mirrored.")] = False,
    posterior: Annotated[
        str, typer.Option(help="sample: one draw from the encoder's distribution (as SiT trains); mean: its mean.")
    ] = "sample",
    device: s.Device = "auto",
    dtype: s.Dtype = "float32",
    seed: s.Seed = 0,
    batch_size: s.Batch = "auto",
    threads: s.Threads = 0,
    config: s.Config = None,
    json: s.Json = False,
    quiet: s.Quiet = False,
    debug: s.Debug = False,
) -> None:
    """Turn a folder of images into latents, which --data then takes."""
    output = s.Output(json, quiet)
    where, precision = s.setup(threads, device, dtype)
    from slowflow.codecs import open_codec
    from slowflow.codecs.encoding import EncodeConfig, encode_folder

    opened = open_codec(codec)
    if opened.net is not None:
        opened.net.to(device=where, dtype=precision)
    # autoencoders work on full-size images: 64 at once, which `auto` means elsewhere, would be too many
    batch = 8 if batch_size == "auto" else s.batch_size(batch_size)
    settings = EncodeConfig(size=size, flips=flips, posterior=posterior, seed=seed, batch=batch)
    output.say(f"encoding into {out}")
    found = encode_folder(folder, opened, settings, out, progress=output.progress("encode"))
    output.say(f"{found['count']} latents of shape {tuple(found['shape'])} in {found['classes']} classes: {out}")
    output.answer({"count": found["count"], "shape": found["shape"], "classes": found["classes"], "out": str(out)})
