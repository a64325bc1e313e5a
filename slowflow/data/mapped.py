"""Rows that stay in their files until they are asked for.

Latents of ImageNet are 21 GB, and several processes of a machine read the same ones. Safetensors are mapped into memory, so
what was read lies in the file cache, once for the whole machine, and goes when memory is short. Parts of a data set (bank,
held out, a class) are lists of row numbers, not copies.

Picking rows gives a plain tensor of those rows, and so do slices. Everything else a tensor can do works too, on a plain tensor of
all rows that is made for it and thrown away: right, but no better than before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

TILE = 2**26
"""Bytes that are looked at together where all rows are gone through."""
FACTS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "layout", "ndim", "requires_grad")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.element_size, Tensor.is_floating_point, Tensor.__len__),
}
"""What can be told without reading a row."""


class MappedRows(Tensor):
    """[n, *shape], the rows of several tensors one after the other, or some of them.

    Args:
        parts: [n_k, *shape] each, of one dtype; views of mapped files.
        rows: which rows of all of them, in which order; None = all.
    """

    parts: tuple[Tensor, ...]
    rows: Tensor
    _first: Tensor

    @staticmethod
    def __new__(cls, parts: Sequence[Tensor], rows: Tensor | None = None) -> MappedRows:
        """A tensor of the right shape without memory of its own."""
        n = sum(map(len, parts)) if rows is None else len(rows)
        made: MappedRows = Tensor._make_wrapper_subclass(cls, (n, *parts[0].shape[1:]), dtype=parts[0].dtype)
        made.parts = tuple(parts)
        made.rows = torch.arange(n) if rows is None else rows
        made._first = torch.tensor([0, *map(len, parts)]).cumsum(0)
        return made

    def __init__(self, parts: Sequence[Tensor], rows: Tensor | None = None) -> None:
        super().__init__()

    def some(self, index: Tensor) -> MappedRows:
        """The rows at `index` [k], still in their files."""
        return MappedRows(self.parts, self.rows[index])

    def picked(self, index: Tensor | slice) -> Tensor:
        """The rows at `index`, as a plain tensor."""
        wanted = self.rows[index]
        with torch._C.DisableTorchFunctionSubclass():
            found = torch.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        owner = torch.searchsorted(self._first, wanted, right=True) - 1
        for k in owner.unique().tolist():
            here = owner == k
            found[here] = self.parts[k][wanted[here] - self._first[k]]
        return found

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Rows, facts about the whole, and everything else on a plain copy."""
        if func is Tensor.__getitem__ and isinstance(args[0], cls) and _picks(args[1]):
            return args[0].picked(args[1])
        if func in FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return _on_plain(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What reaches a tensor past the function above, from inside of PyTorch."""
        return _on_plain(func, args, kwargs)


def _on_plain(func: Any, args: Any, kwargs: Any) -> Any:
    """Do it with all rows in memory."""
    found = tree_map(lambda a: a.picked(slice(None)) if isinstance(a, MappedRows) else a, (args, kwargs or {}))
    return func(*found[0], **found[1])


def _picks(key: Any) -> bool:
    """Is it a slice or a list of row numbers?"""
    return isinstance(key, slice) or (isinstance(key, Tensor) and key.ndim == 1 and key.dtype == torch.int64)


def rows_of(data: Tensor, index: Tensor) -> Tensor:
    """The rows at `index` of a plain tensor, or of mapped ones without reading them."""
    return data.some(index) if isinstance(data, MappedRows) else data[index]


def tiles(data: Tensor, rows: int | None = None) -> Iterator[Tensor]:
    """All rows in order, some at a time, as plain tensors.

    Args:
        data: [n, *shape]. rows: of a tile; None = as many as TILE bytes hold.
    """
    each = max(data[:1].nbytes, 1)
    step = rows or max(TILE // each, 1)
    for first in range(0, len(data), step):
        yield data[first : first + step]
