"""Turn a finished classifier folder into a bundled feature extractor.

python reports/make_features_card.py RUN NAME LABEL "summary" "source"
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from slowflow.io import atomic, checkpoint
from slowflow.io.run import file_sha256, read_manifest

CARDS = Path(__file__).resolve().parent.parent / "slowflow" / "cards"


def main(run: str, name: str, label: str, summary: str, source: str) -> None:
    """Copy the weights and write the card; recipe.toml is there already."""
    manifest = read_manifest(run, "classifier")
    folder = CARDS / name
    shutil.copy(Path(run) / "model.safetensors", folder / "model.safetensors")
    stored = checkpoint.load(folder / "model.safetensors")
    card = {
        "kind": "features",
        "label": label,
        "summary": summary,
        "source": source,
        "parameters": sum(t.numel() for t in stored.tensors.values()),
        "provenance": stored.metadata["provenance"],
        "sha256": file_sha256(folder / "model.safetensors"),
        "environment": manifest["environment"],
    }
    atomic.write_json(folder / "card.json", card)


if __name__ == "__main__":
    main(*sys.argv[1:])
