"""Soak: one measure-suggest-posttrain-evaluate loop, killed again and again, against the same loop left alone.

    python benchmarks/soak.py [--kills 200] [--out soak.json] [--seed 0]

A kill strikes at a random number of file operations (temporary files, renames, removals), never at a time, either before
or after the operation. Only what is on disk survives it: nothing is tidied, and a fresh model is opened. Then the same
command goes on until it is killed again; when the loop is through it begins anew in an empty folder, until all kills are
spent. Every finished folder must equal the undisturbed one byte for byte, report included, and every sample id must be
there exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slowflow.data.images import ImageSet
from slowflow.evaluating.engine import Sampling
from slowflow.families.base import Opened
from slowflow.flow.model import FlowModel
from slowflow.io import atomic, checkpoint
from slowflow.pipeline import RunConfig, run
from slowflow.records import Probe
from slowflow.train.loop import TrainConfig

CONFIG = RunConfig(
    probe=Probe(samples=24, steps=(2,), shard=8),
    sampling=Sampling(samples=24, steps=(1, 2)),
    features="pixels",
    train=TrainConfig(steps=6, batch_size=8, save_every=2, valid_every=3),
    heldout=0.5,
)
CLASSES, SIDE, WIDTH = 2, 6, 0.3
OPERATIONS = ("replace", "fsync", "unlink")


class Killed(BaseException):
    """Stands in for kill -9: nothing in the library may catch it."""


class Field(nn.Module):
    """The velocity of N(centre of the class, WIDTH^2 I) with a trainable factor: small enough to be opened 200 times."""

    def __init__(self) -> None:
        super().__init__()
        centres = np.concatenate(
            [np.random.default_rng(0).normal(size=(CLASSES, 1, SIDE, SIDE)) * 0.4, np.zeros((1, 1, SIDE, SIDE))]
        )
        self.register_buffer("centres", torch.from_numpy(centres))
        self.factor = nn.Parameter(torch.full((1, SIDE, SIDE), 0.97, dtype=torch.float64))

    def forward(self, state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = t[:, None, None, None].double()
        rest = (state - t * self.centres[cond]) / (t**2 * WIDTH**2 + (1 - t) ** 2)
        return self.factor * (self.centres[cond] + (t * WIDTH**2 - (1 - t)) * rest)


def images() -> ImageSet:
    labels = torch.arange(120) % CLASSES
    grain = torch.from_numpy(np.random.default_rng(1).normal(size=(120, 1, SIDE, SIDE)) * WIDTH)
    return ImageSet("soak", (Field().centres[labels] + grain).float().clamp(-1, 1), labels, CLASSES)


def loop(out: Path, data: ImageSet) -> None:
    model = FlowModel.from_callable(Field(), shape=(1, SIDE, SIDE), classes=CLASSES, name="soak")
    run(Opened(model, None, None, "factory", {}), "soak", data, CONFIG, out)


def struck(work: Callable[[], None], at: int) -> tuple[bool, int]:
    """(killed, operations done): the work, killed at operation `at`; on even numbers before it, on odd ones after."""
    honest = {name: getattr(os, name) for name in OPERATIONS}
    done = 0

    def counting(name: str) -> Callable[..., Any]:
        def operation(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == at and at % 2 == 0:
                raise Killed
            result = honest[name](*arguments, **more)
            if done == at:
                raise Killed
            return result

        return operation

    for name in OPERATIONS:
        setattr(os, name, counting(name))
    try:
        work()
    except Killed:
        return True, done
    finally:
        for name, function in honest.items():
            setattr(os, name, function)
    return False, done


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".part")}


def lost_or_doubled(folder: Path) -> int:
    """Sample ids that are missing or there twice, over all measurements of a loop."""
    wrong = 0
    for measured in sorted(folder.glob("measure-*")):
        by_kind: dict[str, list[int]] = {}
        for shard in sorted((measured / "shards").glob("*.safetensors")):
            kind = shard.name.rsplit("-", 1)[0]
            by_kind.setdefault(kind, []).extend(checkpoint.load(shard).tensors["ids"].tolist())
        for ids in by_kind.values():
            wrong += len(ids) - len(set(ids)) + len(set(range(max(ids) + 1)) - set(ids))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, pick, began = images(), random.Random(asked.seed), time.monotonic()
    place = Path(tempfile.mkdtemp())
    # the first run tells how many operations a loop has
    _, operations = struck(lambda: loop(place / "undisturbed", data), at=0)
    wanted = contents(place / "undisturbed")
    kills = loops = differ = wrong = 0
    where = np.zeros(10, dtype=int)
    while kills < asked.kills:
        out = place / f"run{loops}"
        alive = False
        while not alive:
            # short lives, so that one loop is killed many times
            at = pick.randrange(1, max(operations // 6, 2)) if kills < asked.kills else 10**9
            dead, done = struck(lambda out=out: loop(out, data), at)
            alive = not dead
            kills += dead
            where[min(10 * done // operations, 9)] += dead
            print(f"\r{kills} kills, {loops} loops, {differ} differ, {wrong} wrong", end="", flush=True)
        loops += 1
        found = contents(out)
        unlike = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        differ += bool(unlike)
        print(f"\n{unlike}" if unlike else "", flush=True)
        wrong += lost_or_doubled(out)
        shutil.rmtree(out)
    answer = {
        "kills": kills,
        "loops": loops,
        "operations": operations,
        "files": len(wanted),
        "folders_that_differ": differ,
        "samples_lost_or_doubled": wrong,
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began),
    }
    print("\n" + json.dumps(answer, indent=2))
    if asked.out is not None:
        atomic.write_json(asked.out, answer)
    shutil.rmtree(place)
    raise SystemExit(1 if differ or wrong else 0)


if __name__ == "__main__":
    main()
