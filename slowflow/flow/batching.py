"""How many samples go through the network at once when nobody says.

Noise, class and time belong to a sample, so results do not depend on it: it is chosen for speed and memory alone. Memory
is affine in the number of rows, so two small batches tell what any batch takes: on a GPU they are run and the allocator is
asked, elsewhere storages are counted on the meta device (cost.py). The largest power of two is taken that leaves a share
of the memory free, up to where more rows gain nothing: a GPU is full with 256 rows of any network that is worth its while,
a CPU with 64, after which activations only leave its caches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch

from slowflow.flow import cost
from slowflow.flow.model import FlowModel

LIMIT = {"cpu": 64, "cuda": 256}
SHARE = {"cpu": 0.5, "cuda": 0.75}
"""Of the whole memory, not of what is free now: ranks on equal devices must choose alike. Where others hold too much of
it, a batch that does not fit is halved (memory.py)."""
PROBED = (4, 8)
MORE = 4096
"""Values that no network keeps for each value of a state; SiT-XL/2 has 946 at its worst."""


def automatic(model: FlowModel, guidance: float = 1.0) -> int:
    """Samples at once for sampling with this model, where it is.

    Args:
        model: on its device, not compiled yet.
        guidance: scale; another than 1 without a guide doubles the rows of a call.
    """
    device, twice = model.device, guidance != 1.0 and model.guiding.guide is None
    where = "cuda" if device.type == "cuda" else "cpu"

    def taken(rows: int) -> int | None:
        rows = 2 * rows if twice else rows
        return run(model, rows) if where == "cuda" else cost.peak(model, rows)

    available = int(SHARE[where] * room(device))
    if where == "cpu" and _surely(model) * LIMIT[where] <= available:
        return LIMIT[where]
    return largest(taken, available, LIMIT[where])


def _surely(model: FlowModel) -> int:
    """More bytes than a sample takes: counting takes a second or two, which small states can be spared."""
    return MORE * 4 * math.prod(model.shape)


def largest(taken: Callable[[int], int | None], available: int, limit: int) -> int:
    """The largest power of two, at most `limit`, whose bytes fit; 1 where nothing does, `limit` where nobody can tell.

    Args:
        taken: bytes of a call with so many samples, None = cannot be told; affine, asked for two small numbers only.
        available: bytes.
        limit: at most, a power of two.
    """
    few, more = (taken(rows) for rows in PROBED)
    if few is None or more is None:
        return limit
    each = max(more - few, 0) / (PROBED[1] - PROBED[0])
    fixed = max(few - PROBED[0] * each, 0.0)
    size = limit
    while size > 1 and fixed + size * each > available:
        size //= 2
    return size


def room(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run(model: FlowModel, rows: int) -> int:
    """Bytes that one call takes beyond what is held already, asked of the GPU's allocator."""
    state = torch.zeros(rows, *model.shape, device=model.device)
    cond = torch.zeros(rows, dtype=torch.int64, device=model.device)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    model.net.eval()
    with torch.no_grad():
        model.raw(state, torch.tensor(0.5), cond)
    return int(torch.cuda.max_memory_allocated(model.device)) - before
