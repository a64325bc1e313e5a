"""Prompts become rows of a table, once.

    prompts.txt  ->  prompts.txt.safetensors     prompt_embeds [P, L, D], pooled_prompt_embeds [P, E],
                                                 negative_prompt_embeds [1, L, D], negative_pooled_prompt_embeds [1, E]

The names are those of diffusers' `encode_prompt`, so a table made elsewhere (the text encoders are 5.6 G parameters,
and gated) is opened as it is. A table made here remembers its prompts and is made again when they change.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slowflow.errors import CheckpointError, DataError
from slowflow.io import checkpoint, pretrained
from slowflow.io.run import read_json

ENCODERS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"), ("text_encoder_3", "tokenizer_3"))
NAMES = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Embeddings:
    """Embedded prompts and the empty prompt.

    Args:
        prompts, pooled: of each prompt; no rows when there are none.
        empty, empty_pooled: of the empty prompt, one row.
    """

    prompts: Float[Tensor, "n tokens width"]
    pooled: Float[Tensor, "n pooled"]
    empty: Float[Tensor, "1 tokens width"]
    empty_pooled: Float[Tensor, "1 pooled"]

    def rows(self) -> dict[str, Tensor]:
        """As the transformer takes them, the empty prompt last."""
        return {
            "encoder_hidden_states": torch.cat([self.prompts, self.empty]).float(),
            "pooled_projections": torch.cat([self.pooled, self.empty_pooled]).float(),
        }


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines at the end are ignored.

    Raises:
        DataError: no file, no prompts, or an empty line between them (the empty prompt is the null condition).
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"no readable list of prompts '{path}': {error}") from error
    if not lines or not all(lines):
        raise DataError(
            f"{path} needs one prompt a line; the empty prompt is the null condition and is added by itself"
        )
    return lines


def read_embeddings(path: Path, folder: Path, net: Any, tokens: int) -> Embeddings:
    """The table of a .safetensors, or of a list of prompts, embedded unless that was done before.

    Args:
        path: .safetensors of embeddings, or a text file of prompts.
        folder: of the pipeline, where its text encoders are.
        net: its transformer, whose widths the table must have.
        tokens: length of T5's part.

    Raises:
        CheckpointError: a damaged table, or one of another width; text encoders that are absent.
    """
    if path.suffix == ".safetensors":
        return _checked(checkpoint.load(path).tensors, path, net)
    prompts = read_prompts(path)
    stamp = {"prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest(), "tokens": tokens}
    kept = path.with_name(path.name + ".safetensors")
    if kept.is_file() and checkpoint.load(kept).metadata == stamp:
        return _checked(checkpoint.load(kept).tensors, kept, net)
    found = encode(folder, prompts, net, tokens)
    tensors = dict(zip(NAMES, (found.prompts, found.pooled, found.empty, found.empty_pooled), strict=True))
    checkpoint.save(kept, tensors, stamp)
    return found


def _checked(tensors: dict[str, Tensor], path: Path, net: Any) -> Embeddings:
    missing = [name for name in NAMES if name not in tensors]
    if missing:
        raise CheckpointError(f"{path} lacks '{missing[0]}'; a table of prompts holds {', '.join(NAMES)}")
    parts = [tensors[name] for name in NAMES]
    width, pooled = int(net.config["joint_attention_dim"]), int(net.config["pooled_projection_dim"])
    shapes = [tuple(part.shape) for part in parts]
    n, length = shapes[0][0], shapes[0][1] if len(shapes[0]) == 3 else 0
    if shapes != [(n, length, width), (n, pooled), (1, length, width), (1, pooled)]:
        raise CheckpointError(
            f"{path} holds embeddings of shapes {shapes}, the transformer takes [n, tokens, {width}] and [n, {pooled}]"
        )
    return Embeddings(*(part.float() for part in parts))


def empty_prompt(folder: Path, net: Any, tokens: int) -> Embeddings:
    """A table with no prompt but the empty one."""
    found = encode(folder, [], net, tokens)
    return Embeddings(found.empty[:0], found.empty_pooled[:0], found.empty, found.empty_pooled)


@torch.no_grad()
def encode(folder: Path, prompts: Sequence[str], net: Any, tokens: int) -> Embeddings:
    """Embed prompts with the text encoders of the folder, one at a time, through diffusers' own pipeline.

    Raises:
        CheckpointError: a text encoder is absent or damaged.
        MissingExtraError: transformers is not installed.
    """
    diffusers = pretrained.require("diffusers", "embedding prompts")
    loaded = {name: part for pair in _load_encoders(folder) for name, part in pair.items()}
    scheduler, _ = pretrained.load_scheduler(folder, "embedding prompts")
    pipeline = diffusers.StableDiffusion3Pipeline(transformer=net, scheduler=scheduler, vae=None, **loaded)
    found = [
        pipeline.encode_prompt(
            prompt=text, prompt_2=text, prompt_3=text, do_classifier_free_guidance=False, max_sequence_length=tokens
        )
        for text in (*prompts, "")
    ]
    embeds, pooled = torch.cat([f[0] for f in found]).float().cpu(), torch.cat([f[2] for f in found]).float().cpu()
    return Embeddings(embeds[:-1], pooled[:-1], embeds[-1:], pooled[-1:])


def _load_encoders(folder: Path) -> list[dict[str, Any]]:
    """Every text encoder with its tokenizer; T5 may be left out of a folder, the others may not."""
    transformers = pretrained.require("transformers", "embedding prompts")
    index = folder / "model_index.json"
    listed = read_json(index) if index.is_file() else {}
    if not isinstance(listed, dict):
        raise CheckpointError(f"{index} is not an index of a pipeline's parts")
    found = []
    for encoder, tokenizer in ENCODERS:
        dropped = encoder == "text_encoder_3" and (listed.get(encoder) or [None])[0] is None
        if dropped:
            found.append({encoder: None, tokenizer: None})
            continue
        absent = [name for name in (encoder, tokenizer) if not (folder / name).is_dir()]
        if absent:
            raise CheckpointError(
                f"{folder} has no {absent[0]}/ (absent, or gated and not downloaded); give embeddings made elsewhere: "
                f"prompts = 'FILE.safetensors' with {', '.join(NAMES)}, in a .toml"
            )
        found.append({name: _load(transformers, folder / name, listed.get(name)) for name in (encoder, tokenizer)})
    return found


def _load(transformers: Any, part: Path, listed: Any) -> Any:
    """A text encoder or tokenizer of the class its pipeline names, from the folder alone."""
    name = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
    if name is None and (part / "config.json").is_file():
        architectures = read_json(part / "config.json").get("architectures") or [None]
        name = architectures[0]
    kind = getattr(transformers, str(name), None)
    if kind is None:
        raise CheckpointError(f"{part} does not say which class of transformers it is ('{name}' is none)")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # stderr belongs to the command line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(part, local_files_only=True)
            found, told = kind.from_pretrained(part, local_files_only=True, output_loading_info=True)
    except Exception as error:  # a damaged file fails in a dozen ways; none of them may look like a bug of ours
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{part} cannot be opened: {first}") from error
    finally:
        if shown:
            bars.enable_progress_bar()
    missing = sorted(told["missing_keys"])
    if missing:
        raise CheckpointError(f"{part} lacks {len(missing)} tensors ({', '.join(missing[:5])}); it is incomplete")
    return found.eval()
