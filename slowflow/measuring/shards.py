"""Names of the files of a measurement: shards/<kind>[@<start>]-<steps>-<first sample id>.safetensors."""

from __future__ import annotations

from pathlib import Path


def shard_name(kind: str, start: str, steps: int, first: int) -> str:
    """File of the shard that starts at sample id `first`."""
    return f"shards/{kind if start == 'noise' else f'{kind}@{start}'}-{steps:05d}-{first:08d}.safetensors"


def parsed(name: str) -> tuple[str, str, int]:
    """(kind, start, steps) of a shard's file name."""
    what, steps, _ = Path(name).stem.split("-")
    kind, _, start = what.partition("@")
    return kind, start or "noise", int(steps)
