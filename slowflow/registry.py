"""Named things that the library finds by itself.

A package folder is scanned once; every module in it that calls `register` adds one entry. Adding a family, an
interpolant, a reference, a remedy or a figure therefore touches one new file and no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from slowflow.errors import InputError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing: its name, what it is in one line, where it comes from, and the thing itself."""

    name: str
    summary: str
    source: str
    value: T


class Registry(Generic[T]):
    """A mapping from names to entries, filled by importing the modules of one package.

    Args:
        kind: what an entry is called in error messages, such as `"sampler"`.
        package: dotted name of the package whose modules register themselves; None when filled by hand.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry[T]] = {}
        self._scanned = package is None

    def register(self, name: str, *, summary: str, source: str) -> Callable[[T], T]:
        """Decorator that adds `value` under `name`; a second value under one name is an error."""

        def add(value: T) -> T:
            if name in self._entries and self._entries[name].value is not value:
                raise InputError(f"the {self.kind} '{name}' is registered twice")
            self._entries[name] = Entry(name, summary, source, value)
            return value

        return add

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        package = importlib.import_module(str(self._package))
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")

    def get(self, name: str) -> T:
        """The thing called `name`.

        Raises:
            InputError: no such name; the message lists the known ones and the closest spelling.
        """
        if name not in self._entries:
            self._scan()  # a name that is known already costs no import of its neighbours
        if name not in self._entries:
            hint = did_you_mean(name, self._entries)
            raise InputError(f"unknown {self.kind} '{name}'{hint} (known: {', '.join(sorted(self._entries))})")
        return self._entries[name].value

    def names(self) -> list[str]:
        """All names, sorted."""
        self._scan()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        self._scan()
        return iter([self._entries[name] for name in sorted(self._entries)])
