"""Rows that stay in their files: the same numbers as in memory, and not the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slowflow.data.bank import Bank
from slowflow.data.images import ImageSet
from slowflow.data.mapped import MappedRows, tiles
from slowflow.errors import DataError
from slowflow.io import checkpoint
from slowflow.measuring.engine import measure
from slowflow.records import Probe


def mapped(data, size=37):
    """The same rows, cut into files' worth of them."""
    return MappedRows([part.clone() for part in data.split(size)])


@given(st.lists(st.integers(-20, 19), max_size=30), st.integers(1, 25), st.data())
def test_picking_is_that_of_a_tensor(rows, size, draw):
    plain = torch.arange(40.0).view(20, 2)
    lazy, index = mapped(plain, size), torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(lazy[index], plain[index])
    assert torch.equal(lazy.some(index)[:], plain[index])
    first, last = draw.draw(st.integers(-25, 25)), draw.draw(st.integers(-25, 25))
    assert torch.equal(lazy[first:last], plain[first:last])
    twice = torch.tensor([k for k in range(0, len(rows), 2)], dtype=torch.int64)
    assert torch.equal(lazy.some(index).some(twice)[:], plain[index][twice])
    assert torch.equal(torch.cat([torch.empty(0, 2), *tiles(lazy, 7)]), plain)


def test_what_is_no_picking_works_on_all_rows():
    plain = torch.arange(40.0).view(20, 2)
    lazy = mapped(plain, 7)
    assert (lazy.shape, lazy.dtype, len(lazy), lazy.ndim) == (plain.shape, plain.dtype, 20, 2)
    assert torch.equal(lazy.flatten(1).to(torch.float64), plain.double())
    assert torch.equal(lazy + 1.0, plain + 1.0)
    assert torch.equal(torch.cat([lazy, plain]), torch.cat([plain, plain]))
    assert torch.equal(lazy[3], plain[3])
    assert torch.equal(lazy[plain[:, 0] > 7], plain[plain[:, 0] > 7])
    assert np.array_equal(lazy.numpy(), plain.numpy())
    assert type(lazy[:3]) is type(lazy.contiguous()) is torch.Tensor


def test_a_set_in_files_is_the_set_in_memory(images):
    lazy = replace(images, data=mapped(images.data))
    assert lazy.fingerprint == images.fingerprint
    for one, other in zip(lazy.split(0.3), images.split(0.3), strict=True):
        assert isinstance(one.data, MappedRows)
        assert one.fingerprint == other.fingerprint
    shards = Bank.of(lazy, conditional=True).shards
    assert all(np.array_equal(shards[c], rows) for c, rows in Bank.of(images, conditional=True).shards.items())


def test_a_measurement_of_a_set_in_files_has_the_same_bytes(tmp_path, tiny_model, images):
    probe = Probe(samples=20, steps=(2,), nulls=("genuine", "exact"), references=("own", "nearest"))
    for name, data in (("a", images), ("b", replace(images, data=mapped(images.data)))):
        measure(tiny_model(), data, probe, tmp_path / name, heldout=0.3)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in ("a", "b")]
    assert files[0] == files[1]


def test_infinite_rows_are_found_beyond_the_first_tile(images, monkeypatch):
    monkeypatch.setattr("slowflow.data.mapped.TILE", 7 * images.data[:1].nbytes)
    broken = images.data.clone()
    broken[33, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="item 33 of 'broken'"):
        ImageSet("broken", broken, images.labels, 10)


PEAK = """
import sys, threading
from slowflow.data import mapped
from slowflow.data.bank import Bank
from slowflow.data.open import open_data
from slowflow.measuring import screening
mapped.TILE = 2**20
def anonymous():
    # what the system has moved out meanwhile counts too
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line[:7] in ("RssAnon", "VmSwap:")) * 1024
def work():
    data = open_data(sys.argv[1])
    train, held = data.split(0.2)
    bank, warnings = screening.screened(train, held, 0, 0)
    shards = Bank.of(bank, conditional=True).shards
    return len(data.fingerprint) + sum(float(shards[c].sum()) for c in (0, 1))
work()  # what is imported and kept on the first way is no part of the data
before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watching = threading.Thread(target=watch)
watching.start()
work()
done.set()
watching.join()
print(max(peak, anonymous()) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_opening_splitting_and_screening_latents_takes_a_fraction_of_their_size(tmp_path):
    """Before rows stayed in their files this took three times the size of the latents."""
    folder, n, each = tmp_path / "latents", 3000, 100
    names = [f"shards/{first:08d}.safetensors" for first in range(0, n, each)]
    draw = torch.Generator().manual_seed(0)
    for k, name in enumerate(names):
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        latents = torch.randn((each, 4, 32, 32), generator=draw)
        checkpoint.save(folder / name, {"data": latents, "labels": torch.full((each,), k, dtype=torch.int64)}, {})
    finished(folder, names, n)
    code = [sys.executable, "-c", PEAK, str(folder)]
    # the allocator then gives every array back at once; by itself it may keep as much as it likes
    told = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(code, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size = n * 4 * 4096
    assert int(done.stdout) < size / 4, f"{int(done.stdout) / size:.2f} of the latents' size"


def finished(folder, names, n):
    """The manifest of an `encode` run over shards that are there."""
    from slowflow.io.run import RunFolder

    shards = [(name, (folder / name).read_bytes()) for name in names]
    for name, _ in shards:
        (folder / name).unlink()
    (folder / "shards").rmdir()
    run = RunFolder(folder, "encode", {})
    for name, content in shards:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    result = {"count": n, "shape": [4, 32, 32], "classes": len(names), "codec": {"name": "kl"}, "shards": names}
    run.finish(names, result)
