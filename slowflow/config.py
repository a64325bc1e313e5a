"""Typed settings: strict parsing, a canonical form, a hash.

A setting that is unknown, of the wrong type or out of range is refused by name, never ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import numbers
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slowflow.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: no such file, or it is not TOML; the message names the line.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such config file: {path}") from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        # ValueError: also bytes that are no text, numbers without end, NUL in a path
        raise InputError(f"{path} is not a TOML file: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from plain values.

    Args:
        cls: a dataclass whose fields are numbers, strings, booleans or tuples of them.
        mapping: names to values.
        where: said in messages, such as `[train] of recipe.toml`.

    Raises:
        InputError: unknown key (with the closest known one), missing key or wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            hint = did_you_mean(key, fields) or f" (known: {', '.join(fields)})"
            raise InputError(f"unknown setting '{key}' in {where}{hint}")
    missing = [
        name
        for name, f in fields.items()
        if name not in mapping and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where} lacks the setting '{missing[0]}'")
    return cls(**{key: _typed(value, hints[key], f"'{key}' in {where}") for key, value in mapping.items()})


def _typed(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_typed(item, typing.get_args(option)[0], where) for item in value)
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if not -sys.float_info.max <= value <= sys.float_info.max:  # NaN and whole numbers too large fail it too
                raise InputError(f"{where} is {str(value)[:20]}, expected a finite number")
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise InputError(f"{where} is {value!r}, expected {names}")


def canonical(value: Any) -> Any:
    """Plain JSON values with a fixed meaning: dataclasses become mappings, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"a {type(value).__name__} has no canonical form and cannot be part of a configuration")


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; what could not be estimated is None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [canonical({str(key): value for key, value in row.items()}) for row in rows]


def digest(value: Any) -> str:
    """SHA-256 of the canonical form."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines `field: old -> new` for every field in which two canonical values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in sorted({*old, *new}):
            lines += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]
